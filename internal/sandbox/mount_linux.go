package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountSpec puts the spec's mounts and files over the root, shallow targets first so that none hides another.
func (r *rootfs) mountSpec() error {
	order := make([]int, len(r.spec.Mounts))
	for i := range order {
		order[i] = i
	}
	depth := func(i int) int { return strings.Count(path.Clean(r.spec.Mounts[i].Target), "/") }
	slices.SortStableFunc(order, func(a, b int) int { return depth(a) - depth(b) })
	for _, i := range order {
		if err := r.mount(&r.spec.Mounts[i], r.sources[i]); err != nil {
			return fmt.Errorf("mount %s: %w", r.spec.Mounts[i].Target, err)
		}
	}
	for i := range r.spec.Files {
		if err := r.mountFile(&r.spec.Files[i], i); err != nil {
			return fmt.Errorf("mount %s: %w", r.spec.Files[i].Target, err)
		}
	}
	return nil
}

func (r *rootfs) mount(m *Mount, source int) error {
	at, err := r.ensure(m.Target, source < 0 || isDir(source))
	if err != nil {
		return err
	}
	if m.Type == MountTmpfs {
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
		if m.ReadOnly {
			flags |= unix.MS_RDONLY
		}
		return kind(unix.Mount("tmpfs", fdPath(at), "tmpfs", flags, m.options()))
	}
	if err := unix.Mount(fdPath(source), fdPath(at), "", unix.MS_BIND, ""); err != nil {
		return kind(err)
	}
	flags := uintptr(unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return r.restrictMount(m.Target, flags)
}

// openOverlay mounts the layers of the ith mount in the scratch tmpfs, and opens what is to be seen of them.
func (r *rootfs) openOverlay(m *Mount, i int) (int, error) {
	var lower []int
	for _, dir := range m.Lower {
		fd, err := openDir(unix.AT_FDCWD, dir)
		if err != nil {
			return -1, err
		}
		lower = append(lower, fd)
	}
	upper, work := -1, -1
	var err error
	if m.Upper == "" {
		empty, err := openDir(r.scratch, "empty") // the kernel wants two layers at least
		if err != nil {
			return -1, err
		}
		lower = append(lower, empty)
	} else {
		if upper, err = openDir(unix.AT_FDCWD, m.Upper); err != nil {
			return -1, err
		}
		if work, err = openDir(unix.AT_FDCWD, m.Work); err != nil {
			return -1, err
		}
	}
	name := "overlay" + strconv.Itoa(i)
	if err := unix.Mkdirat(r.scratch, name, 0o755); err != nil {
		return -1, err
	}
	options, err := overlayOptions(lower, upper, work)
	if err != nil {
		return -1, err
	}
	if err := unix.Chdir("/proc/self/fd"); err != nil {
		return -1, err
	}
	if err := mountOverlayAt(r.at(name), unix.MS_NODEV, options); err != nil {
		return -1, err
	}
	root, err := openDir(r.scratch, name)
	if err != nil {
		return -1, err
	}
	fd, err := openIn(root, m.Source, inRoot)
	if err != nil {
		err = fmt.Errorf("%s: %w", m.Source, kind(err))
	}
	return fd, err
}

// options are tmpfs's.
func (m *Mount) options() string {
	mode := uint32(m.Mode.Perm())
	if mode == 0 {
		mode = 0o1777
	}
	options := "mode=" + strconv.FormatUint(uint64(mode), 8)
	if m.Size > 0 {
		options += ",size=" + strconv.FormatInt(m.Size, 10)
	}
	return options
}

// restrictMount adds flags to the mount that is now on target, keeping those it has.
func (r *rootfs) restrictMount(target string, flags uintptr) error {
	on, err := openIn(r.root, target, inRoot)
	if err != nil {
		return kind(err)
	}
	return remount(on, flags)
}

// remount adds flags to the mount that on is the root of, keeping those it has.
func remount(on int, flags uintptr) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(on, &st); err != nil {
		return err
	}
	const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME |
		unix.MS_RELATIME // statfs and mount use the same bits
	flags |= uintptr(st.Flags) & kept
	return kind(unix.Mount("", fdPath(on), "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""))
}

// mountFile writes a file to the scratch tmpfs and binds it to its place.
func (r *rootfs) mountFile(f *File, i int) error {
	mode := uint32(f.Mode.Perm())
	if mode == 0 {
		mode = 0o644
	}
	fd, err := unix.Openat(r.scratch, "file"+strconv.Itoa(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // a file open for writing cannot be executed
	for data := f.Data; len(data) > 0; {
		n, err := unix.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	if f.UID != 0 || f.GID != 0 {
		if err := unix.Fchown(fd, int(f.UID), int(f.GID)); err != nil {
			return err
		}
	}
	at, err := r.ensure(f.Target, false)
	if err != nil {
		return err
	}
	// The scratch tmpfs allows devices, but what is bound is a single file, and the file is not one.
	return kind(unix.Mount(fdPath(fd), fdPath(at), "", unix.MS_BIND, ""))
}
