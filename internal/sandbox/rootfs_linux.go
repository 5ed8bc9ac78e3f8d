package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

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
	root    int   // the mounted root file system
	upper   int   // where what changes in root really goes
	points  []point
}

// maxOptions is what mount(2) takes: one page.
const maxOptions = 4095

// mountRoot mounts the root file system of spec, in the scratch tmpfs of the stage.
func mountRoot(st *stage, spec *Spec) (*rootfs, error) {
	r := &rootfs{stage: st, spec: spec}
	layers, err := r.openLayers()
	if err != nil {
		return nil, err
	}
	if err := r.openSources(); err != nil {
		return nil, err
	}
	if spec.Root != "" {
		err = r.bindRoot()
	} else {
		err = r.mountOverlay(layers)
	}
	if err != nil {
		return nil, err
	}
	r.root, err = openDir(r.scratch, "root")
	return r, err
}

// overlayDirs are the open folders of an overlay.
type overlayDirs struct {
	lower []int
	work  int
}

func (r *rootfs) openLayers() (dirs overlayDirs, err error) {
	if r.spec.Root != "" {
		r.upper, err = openDir(unix.AT_FDCWD, r.spec.Root)
		return dirs, err
	}
	for _, dir := range append(slices.Clip(r.spec.Lower), r.spec.stub()...) {
		fd, err := openDir(unix.AT_FDCWD, dir)
		if err != nil {
			return dirs, err
		}
		dirs.lower = append(dirs.lower, fd)
	}
	if r.upper, err = openDir(unix.AT_FDCWD, r.spec.Upper); err != nil {
		return dirs, err
	}
	dirs.work, err = openDir(unix.AT_FDCWD, r.spec.Work)
	return dirs, err
}

func (r *rootfs) openSources() error {
	for i := range r.spec.Mounts {
		m := &r.spec.Mounts[i]
		fd := -1
		var err error
		switch m.Type {
		case MountBind:
			if fd, err = unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
				err = fmt.Errorf("open %s: %w", m.Source, kind(err))
			}
		case MountOverlay:
			fd, err = r.openOverlay(m, i)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		r.sources = append(r.sources, fd)
	}
	return nil
}

// mountOverlay mounts the layers.
//
// The folders are named by their descriptors, from within /proc/self/fd: "12:13:14". So 400 layers fit into the one
// page that mount(2) takes, on every kernel, no path needs escaping, and /proc/mounts inside tells nothing of the host.
func (r *rootfs) mountOverlay(dirs overlayDirs) error {
	options, err := overlayOptions(dirs.lower, r.upper, dirs.work)
	if err != nil {
		return err
	}
	if err := removeVolatileMark(dirs.work); err != nil {
		return fmt.Errorf("clean work folder: %w", err)
	}
	if err := unix.Chdir("/proc/self/fd"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	flags := uintptr(unix.MS_NODEV)
	if r.spec.Insecure {
		flags = 0
	}
	return mountOverlayAt(r.at("root"), flags, options)
}

// overlayOptions names the folders of an overlay by their descriptors. Without an upper folder, -1, it is read-only.
func overlayOptions(lower []int, upper, work int) (string, error) {
	names := make([]string, len(lower))
	for i, fd := range lower {
		names[i] = strconv.Itoa(fd)
	}
	// What the packer of the upper folder could not express is off: metacopy, redirects, the index of hard links.
	options := "lowerdir=" + strings.Join(names, ":") + ",index=off,metacopy=off,redirect_dir=nofollow"
	if upper >= 0 {
		options += fmt.Sprintf(",upperdir=%d,workdir=%d", upper, work)
	}
	if len(options)+len(volatile) > maxOptions {
		return "", fmt.Errorf("%d layers are too many to mount: %w", len(lower), errs.Invalid)
	}
	return options, nil
}

// volatile is the option for no syncing, which apt and dpkg do after every file. The kernel has it since 5.10.
const volatile = ",volatile"

// mountOverlayAt mounts an overlay from within /proc/self/fd.
func mountOverlayAt(target string, flags uintptr, options string) error {
	err := unix.Mount("overlay", target, "overlay", flags, options+volatile)
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("overlay", target, "overlay", flags, options)
	}
	return overlayError(err)
}

// removeVolatileMark allows folders to be mounted again after a volatile mount, which marks them against being trusted
// after a crash of the machine. Spec tells callers not to.
func removeVolatileMark(work int) error {
	mark, err := openIn(work, "work/incompat/volatile", beneath)
	if err != nil {
		return ignore(err)
	}
	if err := unix.Unlinkat(mark, "dirty", 0); ignore(err) != nil {
		return err
	}
	return ignore(unix.Unlinkat(work, "work/incompat/volatile", unix.AT_REMOVEDIR))
}

func overlayError(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("mount overlay: %w", kind(err))
	if errors.Is(err, unix.EINVAL) {
		return errs.Hint(err, "slipway's home must be on a file system that can be an overlay's upper one (ext4, xfs, tmpfs), "+
			"in a container on a volume and not on the container's own root; see slipway doctor")
	}
	return err
}

// bindRoot uses a folder as it is.
func (r *rootfs) bindRoot() error {
	if err := unix.Mount(fdPath(r.upper), r.at("root"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount root: %w", kind(err))
	}
	if r.spec.Insecure {
		return nil
	}
	if err := unix.Mount("", r.at("root"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV, ""); err != nil {
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
		at, err := openIn(r.root, name, beneath)
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
