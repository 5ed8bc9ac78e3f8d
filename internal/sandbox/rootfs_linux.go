package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// rootfs is the command's root file system while init builds it.
//
// Everything is addressed by open descriptors: an image may hold any symbolic link, and no path of it is ever followed
// by the host's rules.
type rootfs struct {
	*stage
	spec    *Spec
	sources []int // what spec.Mounts bind, in their order; -1 for others
	nodes   []int // what spec.Devices bind, in their order; -1 where nodes can be made
	root    int   // the mounted root file system
	upper   int   // where what changes in root really goes
	points  []point
}

// mountRoot mounts the root file system of spec, in the scratch tmpfs of the stage.
func mountRoot(st *stage, spec *Spec) (*rootfs, error) {
	r := &rootfs{stage: st, spec: spec}
	if err := r.openSources(); err != nil {
		return nil, err
	}
	err := r.mountBase()
	if err != nil {
		return nil, err
	}
	r.root, err = r.hold(openDir(r.scratch, "root"))
	return r, err
}

// openSources opens what the spec's mounts show, while the machine's paths can still be followed.
func (r *rootfs) openSources() error {
	for i := range r.spec.Mounts {
		m := &r.spec.Mounts[i]
		fd := -1
		var err error
		switch m.Type {
		case MountBind:
			if fd, err = r.hold(unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)); err != nil {
				err = fmt.Errorf("open %s: %w", m.Source, kind(err))
			}
		case MountOverlay:
			fd, err = r.openStack(m, "overlay"+strconv.Itoa(i))
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		r.sources = append(r.sources, fd)
	}
	return r.openNodes()
}

// openStack mounts the layers of a mount in the scratch tmpfs, and opens what is to be seen of them.
func (r *rootfs) openStack(m *Mount, name string) (int, error) {
	dirs, err := r.openOverlay(m.Lower, m.Upper, m.Work)
	if err != nil {
		return -1, err
	}
	if err := r.mountOverlay(dirs, name, unix.MS_NODEV); err != nil {
		return -1, err
	}
	root, err := r.hold(openDir(r.scratch, name))
	if err != nil {
		return -1, err
	}
	fd, err := r.hold(openIn(root, m.Source, inRoot))
	if err != nil {
		err = fmt.Errorf("%s: %w", m.Source, kind(err))
	}
	return fd, err
}

// mountBase mounts the overlay, or the folder, that is the root.
func (r *rootfs) mountBase() (err error) {
	if r.spec.Root != "" {
		if r.upper, err = r.hold(openDir(unix.AT_FDCWD, r.spec.Root)); err != nil {
			return err
		}
		return r.bindRoot()
	}
	flags := uintptr(unix.MS_NODEV)
	if r.spec.Insecure {
		flags = 0
	}
	dirs, err := r.openOverlay(append(slices.Clip(r.spec.Lower), r.spec.stub()...), r.spec.Upper, r.spec.Work)
	if err != nil {
		return err
	}
	r.upper = dirs.upper
	return r.mountOverlay(dirs, "root", flags)
}

// bindRoot uses a folder as it is.
func (r *rootfs) bindRoot() error {
	if err := unix.Mount(fdPath(r.upper), r.at("root"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount root: %w", kind(err))
	}
	if r.spec.Insecure {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(r.upper, &st); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	flags := unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NODEV | uintptr(st.Flags)&keptFlags
	if err := unix.Mount("", r.at("root"), "", flags, ""); err != nil {
		return fmt.Errorf("mount root: %w", kind(err))
	}
	return nil
}

// attach moves the kernel's file systems from the stage to their places in the root.
//
// A link in such a place is refused: the file system, and what is masked in it, would be elsewhere (CVE-2019-19921).
func (r *rootfs) attach() error {
	for _, name := range []string{"proc", "sys", "dev"} {
		link, err := r.entry(name, ".", true)
		if err != nil {
			return fmt.Errorf("mount /%s: %w", name, kind(err))
		}
		if link != "" {
			return fmt.Errorf("mount /%s: it is a symbolic link in the image, to %s: %w", name, link, errs.Invalid)
		}
		at, err := r.hold(openIn(r.root, name, beneath))
		if err != nil {
			return fmt.Errorf("mount /%s: %w", name, kind(err))
		}
		if err := unix.Mount(r.at(name), fdPath(at), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("mount /%s: %w", name, kind(err))
		}
	}
	return nil
}

// pivot makes root the root of the process and lets go of the host's.
func (r *rootfs) pivot() error {
	if err := unix.Fchdir(r.root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// The old root lands on top of the new one and is taken off from there, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return nil
}

func openDir(at int, name string) (int, error) {
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open folder %s: %w", name, kind(err))
	}
	return fd, nil
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// kind marks what the kernel says with what callers branch on.
func kind(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return errs.Mark(err, errs.NotFound)
	case errors.Is(err, unix.ELOOP):
		return errs.Mark(err, errs.Invalid)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errs.Mark(err, errs.Denied)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV):
		return errs.Mark(err, errs.Unavailable)
	}
	return err
}
