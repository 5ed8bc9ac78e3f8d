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

// own gives a new file to its owner. In a user namespace of one id the folder's files all belong to that one: the layer's
// blob, which images are made of, still has the right owners.
func own(e *Entry, chown func(uid, gid int) error) error {
	err := chown(e.UID, e.GID)
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		if oneID() {
			return nil // it belongs to root, who made it
		}
		return errs.Hint(fmt.Errorf("change owner to %d:%d: the user namespace has no such id: %w", e.UID, e.GID, errs.Unavailable),
			"give your user more subordinate ids in /etc/subuid and /etc/subgid, or build as root")
	}
	return fmt.Errorf("change owner to %d:%d: %w", e.UID, e.GID, err)
}

// oneID tells whether the process is in a user namespace in which root is the only user.
var oneID = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(text))
	return err == nil && len(fields) == 3 && fields[2] == "1"
})
