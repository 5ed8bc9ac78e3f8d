package sandbox

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// inUserNamespace tells whether the process is in another user namespace than the machine's first, where overlays keep
// their marks in attributes of users, and some mounts and device nodes cannot be made.
var inUserNamespace = sync.OnceValue(func() bool {
	const initial = 0xEFFFFFFD // PROC_USER_INIT_INO
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != initial
})

// noGroups tells whether the user namespace forbids to set groups, as one that its user mapped himself does. Then a
// command has slipway's own, which mean nothing inside.
func noGroups() bool {
	if !inUserNamespace() {
		return false
	}
	said, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(said)) == "deny"
}

// credential is whom a command runs as. It has to be known before the root changes: inside there may be no /proc.
func credential(spec *Spec) (*syscall.Credential, error) {
	if err := checkUser(spec); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: spec.UID, Gid: spec.GID, Groups: spec.Groups, NoSetGroups: noGroups()}, nil
}

// checkUser refuses ids that the user namespace does not have, in words of a Dockerfile. The kernel would say EINVAL.
func checkUser(spec *Spec) error {
	for _, id := range []struct {
		what, file string
		id         uint32
	}{{"user", "uid_map", spec.UID}, {"group", "gid_map", spec.GID}} {
		if id.id == 0 || !inUserNamespace() {
			continue
		}
		mapped, err := hasID("/proc/self/"+id.file, id.id)
		if err != nil {
			return fmt.Errorf("look %s %d up: %w", id.what, id.id, err)
		}
		if !mapped {
			err := fmt.Errorf("run as %s %d: the user namespace has no such id: %w", id.what, id.id, errs.Unavailable)
			return errs.Hint(err, "give your user subordinate ids, at least 65536 (slipway doctor says how), or build as root")
		}
	}
	return nil
}

// hasID looks an id up in a map.
func hasID(file string, id uint32) (bool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, size uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return false, err
		}
		if uint64(id) >= inside && uint64(id) < inside+size {
			return true, nil
		}
	}
	return false, nil
}
