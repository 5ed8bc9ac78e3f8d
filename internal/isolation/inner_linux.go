package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Init lets a process that was started for a user namespace become root there: it waits until its ids are mapped and
// executes the program again, since only then does the kernel give it root's capabilities. In any other process it does
// nothing. Every program that calls Enter calls it first in main, and tests in TestMain.
func Init() {
	if stage, ok := stageOf(os.Getenv(linkVariable)); !ok || stage != stageWait {
		return
	}
	if err := becomeRoot(); err != nil {
		fmt.Fprintln(os.Stderr, "slipway: error: enter the user namespace:", err)
		os.Exit(1)
	}
}

// becomeRoot returns only when it could not.
func becomeRoot() error {
	word := make([]byte, len(ready))
	link := os.NewFile(linkFD, "link")
	if _, err := io.ReadFull(link, word); err != nil {
		return fmt.Errorf("wait for the ids: %w", err)
	}
	value, err := linkValue(stageRoot, linkFD)
	if err != nil {
		return err
	}
	if err := os.Setenv(linkVariable, value); err != nil {
		return err
	}
	return unix.Exec(ownPath(), os.Args, os.Environ())
}

// stageOf reads the variable; not ok when its socket is not there.
func stageOf(value string) (stage string, ok bool) {
	stage, _, found := strings.Cut(value, ":")
	if !found {
		return "", false
	}
	want, err := linkValue(stage, linkFD)
	return stage, err == nil && want == value
}

// inherited is the socket to the process outside, nil when this process is not in a user namespace of ours.
func inherited() *os.File {
	if stage, ok := stageOf(os.Getenv(linkVariable)); !ok || stage != stageRoot {
		return nil
	}
	unix.CloseOnExec(linkFD)
	return os.NewFile(linkFD, "link")
}

// arrive settles in the user namespace and tells the process outside, which may have another idea when it does not work.
func arrive(o Options, link *os.File) (Place, error) {
	p, err := settle(o)
	said := ready
	if err != nil {
		said = strings.ReplaceAll(err.Error(), "\n", "; ") + "\n" + errs.HintOf(err)
	}
	_, told := link.WriteString(said)
	if told = errors.Join(told, link.Close()); told != nil {
		return p, fmt.Errorf("report to the process outside: %w", told)
	}
	if err != nil {
		return p, &Exited{Code: 1} // the other process speaks
	}
	return p, nil
}

// settle makes sure that this process ends with the one outside, and that mounts work.
func settle(o Options) (Place, error) {
	// Executing the program as root has cleared what the process was born with.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return Place{}, fmt.Errorf("follow the process outside: %w", err)
	}
	// It is the user's own process; sandboxes hide themselves.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return Place{}, fmt.Errorf("settle in the user namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return Place{}, errs.Hint(fmt.Errorf("mount: %w", err), refusal())
	}
	if err := procUsable(); err != nil {
		return Place{}, err
	}
	if err := overlayUsable(o.Home); err != nil {
		return Place{}, err
	}
	return placeInside()
}

// placeInside says which ids there are.
func placeInside() (Place, error) {
	uids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return Place{}, fmt.Errorf("read the ids of this namespace: %w", err)
	}
	gids, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return Place{}, fmt.Errorf("read the ids of this namespace: %w", err)
	}
	list, err := parseMap(string(uids))
	if err != nil {
		return Place{}, err
	}
	sum := sha256.Sum256(append(uids, gids...))
	p := Place{
		Kind: UserNamespace, State: "-" + hex.EncodeToString(sum[:4]),
		Note: fmt.Sprintf("isolation in a user namespace, with %d ids", ids(list)),
	}
	if ids(list) == 1 {
		p.Kind = SingleID
		p.Hint = moreIDs(list, string(gids))
		p.Note = "isolation in a user namespace with one id: files that images give to other users are root's, and commands " +
			"cannot run as other users or give files to them; slipway doctor says how to get more ids"
	}
	return p, nil
}

// moreIDs says what keeps the user outside, who is root inside, from having subordinate ids.
func moreIDs(uids []extent, gids string) string {
	list, err := parseMap(gids)
	if err != nil || len(list) == 0 {
		return ""
	}
	if _, err = findSubordinate(uids[0].outside, list[0].outside); err != nil {
		return err.Error() + ": " + errs.HintOf(err)
	}
	return "newuidmap refused the ids of " + subuidFile + ": see whether it is setuid root (apt-get install --reinstall uidmap)"
}

// procUsable finds out whether the kernel will mount a /proc: it does not where a container hides parts of its own.
func procUsable() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look at mounts: %w", err)
	}
	if hidden := hiddenInProc(string(data)); hidden != "" {
		err := fmt.Errorf("the container hides %s, so that no /proc can be mounted", hidden)
		return errs.Hint(err, "run the container with an unmasked /proc (procMount: Unmasked, --security-opt systempaths=unconfined), or use --isolation chroot as root")
	}
	return nil
}

// hiddenInProc is the first mount below /proc that hides something.
func hiddenInProc(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], "/proc/") && fields[4] != "/proc/sys/fs/binfmt_misc" {
			return fields[4]
		}
	}
	return ""
}

// overlayUsable mounts an overlay on the file system that will hold them.
func overlayUsable(home string) (err error) {
	at := home // or where it will be made
	for at != filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		at = filepath.Dir(at)
	}
	dir, err := os.MkdirTemp(at, "slipway-try-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	at = "/proc/self/fd/" + strconv.Itoa(fd) // a path without the characters that separate options
	options := fmt.Sprintf("userxattr,lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", at, at, at)
	if err := unix.Mount("overlay", at+"/merged", "overlay", 0, options); err != nil {
		return errs.Hint(fmt.Errorf("mount an overlay in %s: %w", home, err),
			"overlays in user namespaces need Linux 5.11, and slipway's home on ext4, xfs, btrfs or tmpfs: set SLIPWAY_HOME")
	}
	return unix.Unmount(at+"/merged", unix.MNT_DETACH)
}
