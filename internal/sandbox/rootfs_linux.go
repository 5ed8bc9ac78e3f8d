package sandbox

import (
	"errors"
	"fmt"
	"path"
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
	spec    *Spec
	sources []int // what spec.Mounts bind, in their order; -1 for others
	scratch int   // a tmpfs with device nodes, files, the stub layer; gone from sight after pivot
	root    int   // the mounted root file system
	upper   int   // where what changes in root really goes
	points  []point
}

const (
	scratchSize  = "64m" // bounds what goes into /dev, as Docker does, and our own few files
	maxOptions   = 4095  // mount(2) takes one page
	overlayExtra = "xino=on,volatile"
)

// mountRoot mounts the root file system of spec.
//
// The place is below a tmpfs that covers the upper folder, a path that exists in any case; that is nobody's business
// in a mount namespace of our own. All that is needed from below is open by then.
func mountRoot(spec *Spec) (*rootfs, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0)
	r := &rootfs{spec: spec}
	layers, err := r.openLayers()
	if err != nil {
		return nil, err
	}
	if err := r.openSources(); err != nil {
		return nil, err
	}
	if err := r.mountScratch(); err != nil {
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
	for _, dir := range r.spec.Lower {
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
	for _, m := range r.spec.Mounts {
		fd := -1
		if m.Type == MountBind {
			var err error
			if fd, err = unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
				return fmt.Errorf("mount %s: open %s: %w", m.Target, m.Source, kind(err))
			}
		}
		r.sources = append(r.sources, fd)
	}
	return nil
}

func (r *rootfs) mountScratch() error {
	place := r.spec.Upper + r.spec.Root // one of them is empty
	if err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID, "mode=0755,size="+scratchSize); err != nil {
		return fmt.Errorf("mount scratch tmpfs: %w", kind(err))
	}
	var err error
	if r.scratch, err = openDir(unix.AT_FDCWD, place); err != nil {
		return err
	}
	for _, dir := range []string{"root", "stub", "dev", "nodes", "empty"} {
		if err := unix.Mkdirat(r.scratch, dir, 0o755); err != nil {
			return fmt.Errorf("make scratch folder: %w", err)
		}
	}
	return nil
}

// at is a path in the scratch tmpfs, which only init ever writes to.
func (r *rootfs) at(name string) string { return fdPath(r.scratch) + "/" + name }

// mountOverlay mounts the layers above the stub.
//
// The folders are named by their descriptors, from within /proc/self/fd: "12:13:14". So 400 layers fit into the one
// page that mount(2) takes, on every kernel, no path needs escaping, and /proc/mounts inside tells nothing of the host.
func (r *rootfs) mountOverlay(dirs overlayDirs) error {
	if err := r.buildStub(); err != nil {
		return err
	}
	stub, err := openDir(r.scratch, "stub")
	if err != nil {
		return err
	}
	var lower []string
	for _, fd := range append(dirs.lower, stub) {
		lower = append(lower, strconv.Itoa(fd))
	}
	// What the packer of the upper folder could not express is off: metacopy, redirects, the index of hard links.
	options := fmt.Sprintf("lowerdir=%s,upperdir=%d,workdir=%d,index=off,metacopy=off,redirect_dir=nofollow",
		strings.Join(lower, ":"), r.upper, dirs.work)
	if len(options)+len(overlayExtra) >= maxOptions {
		return fmt.Errorf("%d layers are too many to mount: %w", len(dirs.lower), errs.Invalid)
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
	// xino: the stub is on another file system, and without it inode numbers would then change when files are copied up.
	// volatile (5.10): no syncing; apt and dpkg sync after every file.
	err = unix.Mount("overlay", r.at("root"), "overlay", flags, options+","+overlayExtra)
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("overlay", r.at("root"), "overlay", flags, options)
	}
	if err != nil {
		return overlayError(err)
	}
	return nil
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

// buildStub makes the mount points in a layer below all others: where the image lacks them they can be mounted on, and
// yet nobody has written them to the upper folder. An image that hides them is dealt with in ensure.
func (r *rootfs) buildStub() error {
	dirs := []string{"/proc", "/sys", "/dev"}
	var files []string
	for i, m := range r.spec.Mounts {
		if r.sources[i] < 0 || isDir(r.sources[i]) {
			dirs = append(dirs, m.Target)
		} else {
			files = append(files, m.Target)
		}
	}
	for _, f := range r.spec.Files {
		files = append(files, f.Target)
	}
	for _, dir := range dirs {
		if err := r.stubDir(dir); err != nil {
			return err
		}
	}
	for _, file := range files {
		file = path.Clean(file)
		if strings.HasPrefix(file, "/dev/") {
			continue
		}
		if err := r.stubDir(path.Dir(file)); err != nil {
			return err
		}
		err := unix.Mknod(r.at("stub"+file), unix.S_IFREG|0o644, 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make mount point %s: %w", file, err)
		}
	}
	return nil
}

func (r *rootfs) stubDir(dir string) error {
	dir = path.Clean(dir)
	if strings.HasPrefix(dir, "/dev/") {
		return nil
	}
	for i := 1; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' || i == 1 && dir == "/" {
			continue
		}
		if err := unix.Mkdir(r.at("stub"+dir[:i]), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make mount point %s: %w", dir, err)
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
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errs.Mark(err, errs.Denied)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV):
		return errs.Mark(err, errs.Unavailable)
	}
	return err
}
