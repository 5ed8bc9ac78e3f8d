package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// OwnerAttr is an extended attribute that stands for the owner of a file in a layer folder, "UID:GID", where the process
// cannot give files away: in a user namespace in which root is the only user. It is no part of a layer.
const OwnerAttr = "user.slipway.owner"

// own gives a new file to its owner: by chown, or by note, which sets OwnerAttr and is nil where nobody may (symbolic
// links and special files; those become root's).
func own(e *Entry, chown func(uid, gid int) error, note func(value []byte) error) error {
	err := chown(e.UID, e.GID)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, unix.EINVAL):
		return fmt.Errorf("change owner to %d:%d: %w", e.UID, e.GID, err)
	case !oneID():
		err := fmt.Errorf("change owner to %d:%d: the user namespace has no such id: %w", e.UID, e.GID, errs.Unavailable)
		return errs.Hint(err, "give your user more subordinate ids in /etc/subuid and /etc/subgid, or build as root")
	case note == nil:
		return nil
	}
	if err := note(fmt.Appendf(nil, "%d:%d", e.UID, e.GID)); err != nil && !unsupportedXattr(err) {
		return fmt.Errorf("note owner %d:%d: %w", e.UID, e.GID, err)
	}
	return nil
}

// noted reads OwnerAttr back. What makes no sense is nobody's note.
func (e *Entry) noted(value string) {
	var uid, gid int
	if n, err := fmt.Sscanf(value, "%d:%d", &uid, &gid); err == nil && n == 2 && uid >= 0 && gid >= 0 {
		e.UID, e.GID = uid, gid
	}
}

// oneID tells whether the process is in a user namespace in which root is the only user.
var oneID = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(text))
	return err == nil && len(fields) == 3 && fields[2] == "1"
})
