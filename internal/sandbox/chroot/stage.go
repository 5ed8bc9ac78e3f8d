package chroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
	"slipway/internal/sandbox"
)

// stage is a private root furnished for one run.
//
// What a sandbox mounts is put in its place here, and what was there before aside. Nothing runs in the root while that is
// done, so that paths stay what they are; but the command may have left links in them, which are not followed.
type stage struct {
	*root
	covered map[string]bool // paths whose content is not the root's own
	made    map[string]bool // folders on the way to them that the root did not have
	undo    []func() error
}

// maxLinks is how many symbolic links one path may go through, as in the kernel.
const maxLinks = 40

// furnish puts everything in its place, shallow targets first.
func (s *stage) furnish(ctx context.Context, spec *sandbox.Spec) error {
	s.covered, s.made = map[string]bool{}, map[string]bool{}
	for _, own := range []struct {
		target string
		put    func(string) error
	}{{"/dev", makeDev}, {"/proc", makeEmpty}, {"/sys", makeEmpty}} {
		if err := s.cover(own.target, true, own.put); err != nil {
			return err
		}
	}
	if err := s.lockCaches(ctx, spec.Mounts); err != nil {
		return err
	}
	mounts := slices.Clone(spec.Mounts)
	depth := func(m sandbox.Mount) int { return strings.Count(path.Clean(m.Target), "/") }
	slices.SortStableFunc(mounts, func(a, b sandbox.Mount) int { return depth(a) - depth(b) })
	for _, m := range mounts {
		if err := s.mount(ctx, m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	for _, f := range spec.Files {
		if err := s.cover(f.Target, false, func(at string) error { return writeFile(at, f) }); err != nil {
			return fmt.Errorf("mount %s: %w", f.Target, err)
		}
	}
	return nil
}

// close takes everything out again, in reverse.
func (s *stage) close() error {
	var all []error
	for _, f := range slices.Backward(s.undo) {
		all = append(all, f())
	}
	s.undo = nil
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("clear the private root: %w", err)
	}
	return nil
}

func (s *stage) mount(ctx context.Context, m sandbox.Mount) error {
	switch m.Type {
	case sandbox.MountTmpfs:
		return s.cover(m.Target, true, func(at string) error { return makeDir(at, m.Mode) })
	case sandbox.MountOverlay:
		v := view(m.Lower)
		e, err := v.Stat(m.Source)
		if err != nil {
			return err
		}
		return s.cover(m.Target, e.IsDir(), func(at string) error { return s.copy(ctx, m, e, at) })
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if !info.IsDir() { // a socket
		return s.cover(m.Target, false, func(at string) error { return os.Link(m.Source, at) })
	}
	return s.cache(m)
}

// copy makes a copy of what a mount shows. Its writes are thrown away, as they are where there are mounts.
func (s *stage) copy(ctx context.Context, m sandbox.Mount, e layer.Entry, at string) error {
	var all []layer.File
	for f, err := range view(m.Lower).Walk(ctx, m.Source) {
		if err != nil {
			return err
		}
		for _, p := range []*string{&f.Path, &f.Link} {
			if p == &f.Link && !f.Hard {
				continue
			}
			rel, err := filepath.Rel(e.Path, *p)
			if err != nil {
				return err
			}
			*p = rel
		}
		all = append(all, f)
	}
	if e.IsDir() {
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		return layer.Place(ctx, at, files(all), layer.PlaceOptions{})
	}
	dir, err := os.MkdirTemp(s.aside, "file-")
	if err != nil {
		return err
	}
	all[0].Path = "file"
	if err := layer.Place(ctx, dir, files(all), layer.PlaceOptions{}); err != nil {
		return err
	}
	return errors.Join(os.Rename(filepath.Join(dir, "file"), at), os.Remove(dir))
}

// cache moves a folder to its place, and back afterwards: whatever its size that costs nothing.
func (s *stage) cache(m sandbox.Mount) error {
	return s.coverWith(m.Target, true,
		func(at string) error { return os.Rename(m.Source, at) },
		func(at string) error {
			if info, err := os.Lstat(at); err != nil || !info.IsDir() { // the command removed it
				return errors.Join(os.RemoveAll(at), os.Mkdir(m.Source, 0o755))
			}
			return os.Rename(at, m.Source)
		})
}

// lockCaches waits for folders that only one command can have: others of this build and of other processes may share
// them otherwise. All take them in one order.
func (s *stage) lockCaches(ctx context.Context, mounts []sandbox.Mount) error {
	var dirs []string
	for _, m := range mounts {
		if m.Type == sandbox.MountBind {
			dirs = append(dirs, m.Source)
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		f, err := os.OpenFile(dir+".moving", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		s.undo = append(s.undo, f.Close)
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("lock %s: %w", dir, err)
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(lockPause):
			}
		}
	}
	return nil
}

// lockPause is how often a lock that somebody holds is tried. A RUN that holds one takes longer.
const lockPause = 20 * time.Millisecond

// cover puts something over a path for the time of the run.
func (s *stage) cover(target string, dir bool, put func(at string) error) error {
	return s.coverWith(target, dir, put, os.RemoveAll)
}

func (s *stage) coverWith(target string, dir bool, put, take func(at string) error) error {
	real, err := s.resolve(target)
	if err != nil {
		return err
	}
	at := filepath.Join(s.dir, real)
	info, err := os.Lstat(at)
	there := err == nil
	if there && info.IsDir() != dir {
		return fmt.Errorf("mount point %s: one is a folder and the other is not: %w", target, errs.Invalid)
	}
	old := filepath.Join(s.aside, "old-"+strconv.Itoa(len(s.undo)))
	return s.keepTime(path.Dir(real), func() error {
		if there {
			if err := os.Rename(at, old); err != nil {
				return err
			}
		}
		s.covered[real] = true
		s.undo = append(s.undo, func() error { return s.uncover(real, old, there, take) })
		return put(at)
	})
}

// uncover puts back what was there. When the command has taken the folder away there is no place to put it.
func (s *stage) uncover(real, old string, there bool, take func(string) error) error {
	if !s.isPlain(path.Dir(real)) {
		// What must not be lost, or stay, is on the other side of a path that is not one any more: take knows.
		lost := filepath.Join(s.aside, "lost-"+filepath.Base(old))
		return errors.Join(take(lost), os.RemoveAll(old))
	}
	return s.keepTime(path.Dir(real), func() error {
		at := filepath.Join(s.dir, real)
		if err := take(at); err != nil || !there {
			return err
		}
		return os.Rename(old, at)
	})
}

// keepTime lets a folder keep its time, whatever f does in it.
func (s *stage) keepTime(dir string, f func() error) error {
	at := filepath.Join(s.dir, dir)
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	return errors.Join(f(), os.Chtimes(at, info.ModTime(), info.ModTime()))
}

// isPlain tells whether a path leads through folders alone.
func (s *stage) isPlain(p string) bool {
	for ; p != "."; p = path.Dir(p) {
		info, err := os.Lstat(filepath.Join(s.dir, p))
		if err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// resolve returns the path without links of what target names in the root, and makes the folders on the way. The last
// component need not exist.
func (s *stage) resolve(target string) (string, error) {
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
		link, err := s.step(next, len(todo) == 0)
		if err != nil {
			return "", fmt.Errorf("mount point %s: %w", target, err)
		}
		if link == "" {
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("mount point %s: %w", target, errs.Mark(unix.ELOOP, errs.Invalid))
		}
		if path.IsAbs(link) {
			real = "."
		}
		todo = append(strings.Split(link, "/"), todo...)
	}
	if real == "." {
		return "", fmt.Errorf("mount point %s: it is the root: %w", target, errs.Invalid)
	}
	return real, nil
}

// step looks at one component: where it leads when it is a link. A folder that is missing on the way is made.
func (s *stage) step(p string, last bool) (link string, err error) {
	at := filepath.Join(s.dir, p)
	info, err := os.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist) && last:
		return "", nil
	case errors.Is(err, fs.ErrNotExist):
		return "", s.keepTime(path.Dir(p), func() error {
			if err := makeDir(at, 0o755); err != nil {
				return err
			}
			s.made[p] = true
			s.undo = append(s.undo, func() error { return s.unmake(p) })
			return nil
		})
	case err != nil:
		return "", err
	case info.Mode().Type() == fs.ModeSymlink:
		return os.Readlink(at)
	case !last && !info.IsDir():
		return "", errs.Mark(unix.ENOTDIR, errs.Invalid)
	}
	return "", nil
}

// unmake removes a folder that was made on the way, unless the command has put something there.
func (s *stage) unmake(p string) error {
	if !s.isPlain(p) {
		return nil
	}
	return s.keepTime(path.Dir(p), func() error {
		err := os.Remove(filepath.Join(s.dir, p))
		if errors.Is(err, syscall.ENOTEMPTY) {
			return nil
		}
		return err
	})
}

func makeEmpty(at string) error { return makeDir(at, 0o755) }

// makeDir makes a folder with a mode that the umask has no say in. Default: that of /tmp.
func makeDir(at string, mode fs.FileMode) error {
	if mode == 0 {
		mode = fs.ModeSticky | 0o777
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	return os.Chmod(at, mode)
}

func writeFile(at string, f sandbox.File) error {
	mode := f.Mode.Perm()
	if mode == 0 {
		mode = 0o644
	}
	if err := os.WriteFile(at, f.Data, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(at, int(f.UID), int(f.GID)), os.Chmod(at, mode))
}

// makeDev makes the device nodes that every program may use, as far as the container allows: without CAP_MKNOD there are
// none, and what is written to /dev/null is thrown away with the folder.
func makeDev(at string) error {
	if err := makeDir(at, 0o755); err != nil {
		return err
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		node := filepath.Join(at, d.name)
		err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
		if errors.Is(err, unix.EPERM) {
			continue
		}
		if err == nil {
			err = os.Chmod(node, 0o666)
		}
		if err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	return makeDir(filepath.Join(at, "shm"), 0)
}
