package isolation

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

// extent is a run of ids: inside the namespace, outside of it, and how many.
type extent struct{ inside, outside, size int }

// subordinate are the ids that the machine lets a user have besides his own.
type subordinate struct {
	uids, gids []extent
}

const (
	subuidFile = "/etc/subuid"
	subgidFile = "/etc/subgid"
	// maxExtents bounds what is mapped: the kernel takes 340 lines, and a user has one or two.
	maxExtents = 300
)

// findSubordinate looks the user's subordinate ids up, and the programs that hand them out. The error says what is
// missing, with a hint.
func findSubordinate(uid, gid int) (subordinate, error) {
	var s subordinate
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return s, errs.Hint(fmt.Errorf("the program %s is not installed", program), "apt-get install uidmap")
		}
	}
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	var err error
	if s.uids, err = extents(subuidFile, name, uid); err == nil {
		s.gids, err = extents(subgidFile, name, uid)
	}
	if err != nil {
		return s, errs.Hint(err, fmt.Sprintf("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", name))
	}
	s.uids = append([]extent{{0, uid, 1}}, s.uids...)
	s.gids = append([]extent{{0, gid, 1}}, s.gids...)
	return s, nil
}

// extents reads what a file gives to a user, to follow id 0 inside.
func extents(file, name string, uid int) ([]extent, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("user %s has no subordinate ids: there is no %s", name, file)
	}
	if err != nil {
		return nil, fmt.Errorf("subordinate ids of user %s: %w", name, err)
	}
	defer f.Close()
	found, err := parseExtents(f, name, uid)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("user %s has no subordinate ids in %s", name, file)
	}
	return found, nil
}

// parseExtents reads lines NAME-OR-UID:FIRST:COUNT, as in subuid(5). Others' lines and those that make no sense are passed
// over, as the programs that hand the ids out do.
func parseExtents(r io.Reader, name string, uid int) ([]extent, error) {
	var found []extent
	next := 1
	sc := bufio.NewScanner(r)
	for sc.Scan() && len(found) < maxExtents {
		fields := strings.Split(strings.TrimSpace(sc.Text()), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != strconv.Itoa(uid) {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 31)
		if err1 != nil || err2 != nil || first == 0 || count == 0 {
			continue
		}
		found = append(found, extent{next, int(first), int(count)})
		next += int(count)
	}
	return found, sc.Err()
}

// arguments are newuidmap's for a process.
func arguments(pid int, list []extent) []string {
	args := []string{strconv.Itoa(pid)}
	for _, e := range list {
		args = append(args, strconv.Itoa(e.inside), strconv.Itoa(e.outside), strconv.Itoa(e.size))
	}
	return args
}

// parseMap reads the extents of a /proc/PID/uid_map.
func parseMap(text string) ([]extent, error) {
	var list []extent
	for line := range strings.Lines(text) {
		var e extent
		if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.size); err != nil {
			return nil, fmt.Errorf("read the ids of this namespace: %w", err)
		}
		list = append(list, e)
	}
	return list, nil
}

// ids counts what a map has.
func ids(list []extent) (n int) {
	for _, e := range list {
		n += e.size
	}
	return n
}
