package solver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// account is who a process runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// maxAccounts bounds a passwd or group file: an image is a stranger's.
const maxAccounts = 4 << 20

// viewer reads files of an image.
type viewer interface {
	Stat(path string) (layer.Entry, error)
	Open(path string) (io.ReadCloser, error)
	Resolve(path string) (string, error)
}

// findAccount resolves USER (user[:group], names or numbers) by the image's own passwd and group files, as runc and
// Docker do: a number needs no entry, a name does. Supplementary groups count only when no group is given.
func findAccount(v viewer, spec string) (account, error) {
	user, group, hasGroup := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	a := account{home: "/"}
	name, err := a.findUser(v, user)
	if err != nil {
		return a, err
	}
	if hasGroup {
		a.gid, err = findGroup(v, group)
		return a, err
	}
	err = eachLine(v, "etc/group", 4, func(f []string) bool {
		for member := range strings.SplitSeq(f[3], ",") {
			if id, err := parseID(f[2]); err == nil && member == name && name != "" && id != a.gid {
				a.groups = append(a.groups, id)
			}
		}
		return true
	})
	return a, err
}

func (a *account) findUser(v viewer, user string) (name string, err error) {
	id, numeric := parseID(user)
	found := false
	err = eachLine(v, "etc/passwd", 6, func(f []string) bool {
		uid, err := parseID(f[2])
		if err != nil || f[0] != user && (numeric != nil || uid != id) {
			return true
		}
		gid, err := parseID(f[3])
		if err != nil {
			return true
		}
		name, a.uid, a.gid, found = f[0], uid, gid, true
		if f[5] != "" {
			a.home = f[5]
		}
		return false
	})
	if err != nil || found {
		return name, err
	}
	if numeric != nil {
		return "", fmt.Errorf("user %q: not in the image's /etc/passwd: %w", user, errs.NotFound)
	}
	a.uid = id
	return "", nil
}

func findGroup(v viewer, group string) (uint32, error) {
	id, numeric := parseID(group)
	if numeric == nil {
		return id, nil
	}
	found := false
	err := eachLine(v, "etc/group", 3, func(f []string) bool {
		if gid, err := parseID(f[2]); err == nil && f[0] == group {
			id, found = gid, true
		}
		return !found
	})
	if err == nil && !found {
		err = fmt.Errorf("group %q: not in the image's /etc/group: %w", group, errs.NotFound)
	}
	return id, err
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err
}

// eachLine calls f for every line of a colon separated file that has at least n fields, until it returns false. A file
// that is not there has no lines.
func eachLine(v viewer, file string, n int, f func(fields []string) bool) (err error) {
	real, err := v.Resolve(file)
	if err != nil {
		return notThere(err)
	}
	r, err := v.Open(real)
	if err != nil {
		return notThere(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sc := bufio.NewScanner(io.LimitReader(r, maxAccounts))
	for sc.Scan() {
		fields := strings.Split(strings.TrimSpace(sc.Text()), ":")
		if len(fields) >= n && !f(fields) {
			return nil
		}
	}
	return sc.Err()
}

func notThere(err error) error {
	if errors.Is(err, errs.NotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
