package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

func (s *stage) expose(c command, cmd *instructions.ExposeCommand, lint *linter.Linter) error {
	var ports []string
	for _, word := range cmd.Ports {
		expanded, err := s.lex.ProcessWords(word, s.env)
		if err != nil {
			return err
		}
		for _, spec := range expanded {
			list, err := exposed(c, spec, lint)
			if err != nil {
				return err
			}
			ports = append(ports, list...)
		}
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		s.image.Config.ExposedPorts[p] = struct{}{}
	}
	s.note(c, fmt.Sprintf("EXPOSE %v", ports))
	return nil
}

// exposed reads [[ip:]host:]port[-port][/proto] and returns "port/proto" for each. The parts before the container's
// port make no sense in a Dockerfile, but BuildKit checks and drops them.
func exposed(c command, spec string, lint *linter.Linter) ([]string, error) {
	ip, host, port := splitPort(spec)
	port, proto, _ := strings.Cut(port, "/")
	switch {
	case port == "":
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	case proto == "":
		proto = "tcp"
	}
	lower := strings.ToLower(proto)
	if lower != "tcp" && lower != "udp" && lower != "sctp" {
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if proto != lower {
		lint.Run(&linter.RuleExposeProtoCasing, c.Location(), linter.RuleExposeProtoCasing.Format(spec))
	}
	if ip != "" || host != "" {
		lint.Run(&linter.RuleExposeInvalidFormat, c.Location(), linter.RuleExposeInvalidFormat.Format(spec))
	}
	if err := checkIP(ip); err != nil {
		return nil, err
	}
	first, last, err := portRange(port)
	if err != nil {
		return nil, fmt.Errorf("invalid containerPort: %s: %w", port, err)
	}
	if err := checkHostPort(host, port, last-first); err != nil {
		return nil, err
	}
	list := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		list = append(list, strconv.Itoa(n)+"/"+lower)
	}
	return list, nil
}

func splitPort(spec string) (ip, host, port string) {
	parts := strings.Split(spec, ":")
	n := len(parts)
	switch n {
	case 1:
		return "", "", parts[0]
	case 2:
		return "", parts[0], parts[1]
	}
	return strings.Join(parts[:n-2], ":"), parts[n-2], parts[n-1]
}

func checkIP(ip string) error {
	if bare, ok := strings.CutPrefix(ip, "["); ok {
		ip = strings.TrimSuffix(bare, "]")
	}
	if ip == "" {
		return nil
	}
	if _, err := netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("invalid IP address: %s", ip)
	}
	return nil
}

// checkHostPort checks the host's port or range: a range must be as long as the container's, unless that is one port.
func checkHostPort(host, port string, span int) error {
	if host == "" {
		return nil
	}
	first, last, err := portRange(host)
	if err != nil {
		return fmt.Errorf("invalid hostPort: %s: %w", host, err)
	}
	if last-first != span && span != 0 {
		return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", port, host)
	}
	return nil
}

func portRange(s string) (first, last int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = portNumber(from); err != nil {
		return 0, 0, err
	}
	if !isRange || from == to {
		return first, first, nil
	}
	if last, err = portNumber(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, errors.New("the range ends before it begins")
	}
	return first, last, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 0)
	if err != nil || n < 0 || n > 65535 {
		return 0, fmt.Errorf("%q is not a number from 0 to 65535", s)
	}
	return int(n), nil
}
