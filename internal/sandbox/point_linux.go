package sandbox

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// point is a change that making a mount point did to the upper folder, in the order in which they were done. The parent
// undoes it when the sandbox is gone, so that it cannot become part of a layer.
type point struct {
	Path string // inside the upper folder, relative, without symbolic links
	// Made: the entry itself is ours. Otherwise it is a parent that was there in a lower layer (Copied: and was copied to
	// the upper folder for our sake).
	Made, Dir, Copied bool
	// Whiteout: the upper folder had a whiteout in the entry's place.
	Whiteout bool
	// Before and After are the parent's times in ns, before and after we wrote to it; Mode, UID and GID its attributes.
	Before, After int64
	Mode          uint32
	UID, GID      uint32
}

const (
	maxLinks = 40 // as in the kernel
	// beneath opens nothing outside, and nothing by way of a symbolic link.
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	// inRoot follows symbolic links as a process inside the root would, except those of /proc.
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

// openIn opens a path below dir for reference only.
func openIn(dir int, name string, resolve uint64) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// ensure opens what target names inside the root, a folder or a file. What is missing is made.
func (r *rootfs) ensure(target string, dir bool) (int, error) {
	fd, err := openIn(r.root, target, inRoot)
	if errors.Is(err, unix.ENOENT) {
		var real string
		if real, err = r.make(target, dir); err == nil {
			fd, err = openIn(r.root, real, beneath)
		}
	}
	if _, err := r.hold(fd, err); err != nil {
		return -1, fmt.Errorf("mount point %s: %w", target, kind(err))
	}
	if isDir(fd) != dir {
		return -1, fmt.Errorf("mount point %s: one is a folder and the other is not: %w", target, errs.Invalid)
	}
	return fd, nil
}

// make creates target with its parents, following links inside the root whether or not they lead anywhere yet, as
// /etc/resolv.conf often does not. It returns the path without links, relative to the root.
func (r *rootfs) make(target string, dir bool) (string, error) {
	todo := strings.Split(path.Clean("/"+target), "/")
	real := "."
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == ".." {
			if name == ".." {
				real = path.Dir(real)
			}
			continue
		}
		next := path.Join(real, name)
		link, err := r.entry(next, real, dir || len(todo) > 0)
		if err != nil {
			return "", err
		}
		if link == "" {
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if path.IsAbs(link) {
			real = "."
		}
		todo = append(strings.Split(link, "/"), todo...)
	}
	return real, nil
}

// entry sees to it that name, in the folder parent, exists. When it is a symbolic link it returns where that leads.
func (r *rootfs) entry(name, parent string, dir bool) (link string, err error) {
	fd, err := unix.Openat2(r.root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: beneath})
	if errors.Is(err, unix.ENOENT) {
		return "", r.create(name, parent, dir)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return "", nil // not a link
	}
	return string(buf[:max(n, 0)]), err
}

// create makes an entry and records what that changes in the upper folder.
func (r *rootfs) create(name, parent string, dir bool) error {
	in, err := openIn(r.root, parent, beneath)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	record := r.onRoot(in)
	var made []point
	if record {
		if made, err = r.parents(parent); err != nil {
			return err
		}
		made = append(made, point{Path: name, Made: true, Dir: dir, Whiteout: isWhiteout(r.upper, name)})
	}
	if dir {
		err = unix.Mkdirat(in, path.Base(name), 0o755)
	} else {
		err = unix.Mknodat(in, path.Base(name), unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return err
	}
	if record {
		return r.note(made)
	}
	return nil
}

// parents describes the folder dir and those above it which are not in the upper folder yet.
func (r *rootfs) parents(dir string) ([]point, error) {
	var list []point
	for ; ; dir = path.Dir(dir) {
		fd, err := openIn(r.root, dir, beneath)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &st), unix.Close(fd)); err != nil {
			return nil, err
		}
		there := r.inUpper(dir)
		p := point{Path: dir, Copied: !there, Before: st.Mtim.Nano(), Mode: st.Mode, UID: st.Uid, GID: st.Gid}
		list = append([]point{p}, list...)
		if there || dir == "." {
			return list, nil
		}
	}
}

func (r *rootfs) inUpper(name string) bool {
	fd, err := openIn(r.upper, name, beneath)
	return err == nil && unix.Close(fd) == nil
}

// note adds to the record, with the times that parents have now. A parent is recorded once, as it was at first.
func (r *rootfs) note(made []point) error {
	for _, p := range made {
		if p.Made {
			r.points = append(r.points, p)
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(r.root, p.Path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		i := slices.IndexFunc(r.points, func(q point) bool { return !q.Made && q.Path == p.Path })
		if i < 0 {
			i = len(r.points)
			r.points = append(r.points, p)
		}
		r.points[i].After = st.Mtim.Nano()
	}
	return nil
}

// onRoot tells whether a folder belongs to the root file system and not to something mounted on it.
func (r *rootfs) onRoot(fd int) bool {
	var root, st unix.Stat_t
	return unix.Fstat(r.root, &root) == nil && unix.Fstat(fd, &st) == nil && root.Dev == st.Dev
}

func isWhiteout(dir int, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// removePoints undoes points, last first. What the command has used meanwhile stays: a folder that is not empty, or one
// whose attributes it changed.
func removePoints(spec *Spec, points []point) error {
	if len(points) == 0 {
		return nil
	}
	upper, err := openDir(unix.AT_FDCWD, spec.Upper+spec.Root)
	if err != nil {
		return fmt.Errorf("remove mount points: %w", err)
	}
	defer unix.Close(upper)
	untouched := make([]bool, len(points))
	for i, p := range points {
		untouched[i] = p.unchanged(upper)
	}
	for i := len(points) - 1; i >= 0; i-- {
		if err := points[i].undo(upper, untouched[i]); err != nil {
			return fmt.Errorf("remove mount point %s: %w", points[i].Path, err)
		}
	}
	return nil
}

// unchanged tells whether a parent is still as we left it.
func (p point) unchanged(upper int) bool {
	fd, err := openIn(upper, p.Path, beneath)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	return st.Mtim.Nano() == p.After && st.Mode == p.Mode && st.Uid == p.UID && st.Gid == p.GID
}

// undo removes what we made and gives parents that nobody else touched their times back.
func (p point) undo(upper int, untouched bool) error {
	dir, err := openIn(upper, path.Dir(p.Path), beneath)
	if err != nil {
		return ignore(err)
	}
	defer unix.Close(dir)
	name := path.Base(p.Path)
	if p.Made {
		return p.remove(dir, name)
	}
	if !untouched {
		return nil
	}
	if p.Copied && p.Path != "." && unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	now := unix.Timespec{Nsec: unix.UTIME_OMIT}
	times := []unix.Timespec{now, unix.NsecToTimespec(p.Before)}
	return ignore(unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// remove takes an entry of ours away unless the command made it its own.
func (p point) remove(dir int, name string) error {
	if p.Dir {
		if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
			return ignore(err)
		}
	} else {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return ignore(err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
			return nil
		}
		if err := unix.Unlinkat(dir, name, 0); err != nil {
			return ignore(err)
		}
	}
	if p.Whiteout {
		return unix.Mknodat(dir, name, unix.S_IFCHR, 0)
	}
	return nil
}

// ignore drops the errors that say the entry is gone or in use.
func ignore(err error) error {
	for _, fine := range []error{unix.ENOENT, unix.ENOTDIR, unix.ENOTEMPTY, unix.EEXIST, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}
