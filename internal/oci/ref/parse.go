package ref

import (
	// The hashes that go-digest accepts in a digest once they are linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// maxRepository is the longest repository path, in bytes, that docker and the registries accept.
const maxRepository = 255

// Parse reads a reference as docker does: the registry defaults to docker.io, a single name there gets "library/", and
// the tag defaults to latest when there is neither tag nor digest. Anything else than a reference is an errs.Invalid
// that says which part is wrong.
func Parse(s string) (Ref, error) {
	r, err := parse(s)
	if err != nil {
		return Ref{}, fmt.Errorf("invalid image reference %q: %w", withoutSecrets(s), errs.Mark(err, errs.Invalid))
	}
	return r, nil
}

func parse(s string) (Ref, error) {
	switch {
	case s == "":
		return Ref{}, problem("it is empty")
	case strings.Contains(s, "://"):
		return Ref{}, problem("it starts with a scheme; write host/repository:tag")
	case len(s) == 64 && isLowerHex(s):
		return Ref{}, problem("64 hexadecimal digits are an image ID, not a name")
	}
	if withoutSecrets(s) != s {
		return Ref{}, problem("credentials do not belong in a reference")
	}
	registry, rest := splitRegistry(s)
	if err := checkRegistry(registry); err != nil {
		return Ref{}, err
	}
	rest, dgst, hasDigest := strings.Cut(rest, "@")
	repository, tag, hasTag := strings.Cut(rest, ":")
	if err := checkRepository(repository); err != nil {
		return Ref{}, err
	}
	r := Ref{registry: registry, repository: repository, tag: tag, digest: oci.Digest(dgst)}
	if hasTag && !ValidTag(tag) {
		return Ref{}, problem("tag %q is not 1 to 128 letters, digits, '_', '.' or '-', beginning with none of '.' and '-'", tag)
	}
	if hasDigest {
		if _, err := digest.Parse(dgst); err != nil {
			return Ref{}, fmt.Errorf("digest %q: %w", dgst, err)
		}
	}
	if !hasTag && !hasDigest {
		r.tag = defaultTag
	}
	return r, nil
}

// withoutSecrets hides what stands before an '@' in the host of a URL that somebody took for a reference.
func withoutSecrets(s string) string {
	start := 0
	if i := strings.Index(s, "://"); i >= 0 {
		start = i + len("://")
	}
	host, _, ok := strings.Cut(s[start:], "/")
	at := strings.LastIndexByte(host, '@')
	if !ok || at < 0 {
		return s
	}
	return s[:start] + "***" + s[start+at:]
}

type syntaxError string

func (e syntaxError) Error() string { return string(e) }

func problem(format string, args ...any) error { return syntaxError(fmt.Sprintf(format, args...)) }

// splitRegistry splits off what docker takes for a registry: a first component that looks like a host, because it has a
// dot, a port or a capital, or is "localhost".
func splitRegistry(s string) (registry, rest string) {
	first, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return dockerHub, officialPrefix + s
	case first == legacyDockerHub:
		registry = dockerHub
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		registry = first
	default:
		return dockerHub, s
	}
	if registry == dockerHub && !strings.Contains(rest, "/") {
		rest = officialPrefix + rest
	}
	return registry, rest
}

func checkRegistry(s string) error {
	host, port, hasPort := cutPort(s)
	if hasPort && (port == "" || !all(port, isDigit)) {
		return problem("registry %q has a port that is not a number", s)
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		v6, ok = strings.CutSuffix(v6, "]")
		if !ok || v6 == "" || !all(v6, func(c byte) bool { return isHex(c) || c == ':' }) {
			return problem("registry %q is not a bracketed IPv6 address", s)
		}
		return nil
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' ||
			!all(label, func(c byte) bool { return isAlphanumeric(c) || c == '-' }) {
			return problem("registry %q is not a host name or address", s)
		}
	}
	return nil
}

// cutPort splits host:port at the last colon, if that is outside an IPv6 address's brackets.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func checkRepository(s string) error {
	if s == "" {
		return problem("it has no repository")
	}
	if len(s) > maxRepository {
		return problem("its repository is longer than %d characters", maxRepository)
	}
	if strings.ToLower(s) != s {
		return problem("repository %q must be lower case", s)
	}
	for component := range strings.SplitSeq(s, "/") {
		if !validComponent(component) {
			return problem("repository component %q is not lower-case letters and digits joined by '.', '_', '__' or '-'", component)
		}
	}
	return nil
}

// validComponent accepts alphanumeric runs joined by one dot, one or two underscores, or any number of dashes.
func validComponent(s string) bool {
	for {
		rest := strings.TrimLeft(s, lowerAlphanumeric)
		if len(rest) == len(s) {
			return false
		}
		if rest == "" {
			return true
		}
		s = strings.TrimLeft(rest, "._-")
		switch separator := rest[:len(rest)-len(s)]; separator {
		case ".", "_", "__":
		default:
			if strings.Trim(separator, "-") != "" || separator == "" {
				return false
			}
		}
	}
}

// ValidTag says whether s can be a tag: 1 to 128 of [A-Za-z0-9_.-], the first of them neither '.' nor '-'.
func ValidTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return all(s, func(c byte) bool { return isAlphanumeric(c) || c == '_' || c == '.' || c == '-' })
}

const lowerAlphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789"

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func isAlphanumeric(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

func isLowerHex(s string) bool {
	return all(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}
