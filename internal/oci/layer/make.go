package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// make makes one file.
func (c *crew) make(t *task, scratch []byte) error {
	e := t.entry
	if e.Whiteout {
		return mknod(t, unix.S_IFCHR, 0)
	}
	switch e.Mode.Type() {
	case 0:
		return c.regular(t, scratch)
	case fs.ModeSymlink:
		if err := unix.Symlinkat(e.Link, t.dir.fd, t.name); err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
	case fs.ModeNamedPipe:
		if err := mknod(t, unix.S_IFIFO, 0); err != nil {
			return err
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if err := mknod(t, unixMode(e.Mode)&modeType, unix.Mkdev(e.Major, e.Minor)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a layer cannot hold a file of mode %s: %w", e.Mode, errs.Corrupt)
	}
	return c.named(t)
}

func mknod(t *task, kind uint32, dev uint64) error {
	err := unix.Mknodat(t.dir.fd, t.name, kind|0o600, int(dev))
	if err != nil && kind != unix.S_IFIFO {
		return errs.Hint(fmt.Errorf("make device: %w", err), "devices and whiteouts need root, or CAP_MKNOD")
	}
	return err
}

// named sets by name what attributes sets by descriptor, for files that cannot be opened.
func (c *crew) named(t *task) error {
	e := t.entry
	chown := func(uid, gid int) error { return unix.Fchownat(t.dir.fd, t.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) }
	if err := own(e, chown, nil); err != nil {
		return err
	}
	if e.Mode.Type() != fs.ModeSymlink {
		if err := unix.Fchmodat(t.dir.fd, t.name, unixMode(e.Mode)&^modeType, 0); err != nil {
			return fmt.Errorf("change mode to %s: %w", e.Mode, err)
		}
	}
	for name := range e.Xattrs {
		c.skip(e.Path + ": " + name) // only regular files and directories have any that layers hold
	}
	ts := timespecs(e.ModTime)
	if err := unix.UtimesNanoAt(t.dir.fd, t.name, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("change time: %w", err)
	}
	return nil
}

// regular makes a regular file.
func (c *crew) regular(t *task, scratch []byte) (err error) {
	fd, err := create(t.dir, t.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if t.source != "" {
		err = c.copy(fd, t, scratch)
	} else {
		err = writeAt(fd, t.data, 0)
	}
	if err != nil {
		return err
	}
	return c.attributes(fd, t.entry)
}

// create makes an empty regular file. It never opens one that is there, nor follows a link.
func create(dir *handle, name string) (int, error) {
	fd, err := openFile(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, fmt.Errorf("make file: %w", err)
	}
	return fd, nil
}

// copy copies the content of a file on this machine, which has to be as long as the entry says.
func (c *crew) copy(fd int, t *task, scratch []byte) error {
	src := &source{path: t.source, size: t.entry.Size, ctime: t.ctime, fd: -1}
	src.refs.Store(1)
	defer src.release()
	if src.size < int64(len(scratch)) {
		if err := src.read(scratch[:src.size], 0); err != nil {
			return err
		}
		return writeAt(fd, scratch[:src.size], 0)
	}
	in, err := src.open()
	if err != nil {
		return err
	}
	if !c.noClone.Load() {
		if err := unix.IoctlFileClone(fd, in); err == nil {
			return src.check(in)
		}
		c.noClone.Store(true)
	}
	return src.copyTo(c.ctx, fd, in)
}

func writeAt(fd int, data []byte, off int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return full(&os.SyscallError{Syscall: "write", Err: err})
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// full marks the error of a full disk as a limit.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Hint(errs.Mark(err, errs.Limit), "free some space, or set SLIPWAY_HOME to a folder on another file system")
	}
	return err
}

// attributes sets what a new file has besides its content. The order matters: changing the owner clears setuid and
// capabilities, and everything changes the time.
func (c *crew) attributes(fd int, e *Entry) error {
	chown := func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }
	if err := own(e, chown, func(v []byte) error { return unix.Fsetxattr(fd, OwnerAttr, v, 0) }); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, unixMode(e.Mode)&^modeType); err != nil {
		return fmt.Errorf("change mode to %s: %w", e.Mode, err)
	}
	if err := c.xattrs(fd, e); err != nil {
		return err
	}
	if err := futimens(fd, e.ModTime); err != nil {
		return fmt.Errorf("change time: %w", err)
	}
	return nil
}

// xattrs sets extended attributes. Those that the file system or our rights do not allow are left out and remembered,
// except capabilities: a program without them would fail much later.
func (c *crew) xattrs(fd int, e *Entry) error {
	if e.Opaque {
		err := unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
		if errors.Is(err, unix.EPERM) { // in a user namespace, where overlays are mounted with userxattr
			err = unix.Fsetxattr(fd, "user.overlay.opaque", []byte("y"), 0)
		}
		if err != nil {
			return fmt.Errorf("mark as opaque: %w", err)
		}
	}
	for name, value := range e.Xattrs {
		if _, own := overlayAttr(name); own || name == OwnerAttr {
			continue // a stranger's layer must not steer our overlay
		}
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		if err != nil && (strings.HasPrefix(name, "security.capability") || !unsupportedXattr(err) && !errors.Is(err, unix.EPERM)) {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
		if err != nil {
			c.skip(e.Path + ": " + name)
		}
	}
	return nil
}

func timespecs(t time.Time) [2]unix.Timespec {
	ts := unix.NsecToTimespec(0)
	ts.Sec, ts.Nsec = t.Unix(), int64(t.Nanosecond())
	return [2]unix.Timespec{ts, ts}
}

// futimens sets both times of an open file, which package unix can only do by name.
func futimens(fd int, t time.Time) error {
	ts := timespecs(t)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
