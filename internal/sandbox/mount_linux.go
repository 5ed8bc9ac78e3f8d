package sandbox

import (
	"errors"
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
		if err := r.mount(&r.spec.Mounts[i], i); err != nil {
			return fmt.Errorf("mount %s: %w", r.spec.Mounts[i].Target, err)
		}
	}
	for i := range r.spec.Devices {
		if err := r.mountDevice(&r.spec.Devices[i], i); err != nil {
			return fmt.Errorf("device %s: %w", r.spec.Devices[i].Path, err)
		}
	}
	for i := range r.spec.Files {
		if err := r.mountFile(&r.spec.Files[i], i); err != nil {
			return fmt.Errorf("mount %s: %w", r.spec.Files[i].Target, err)
		}
	}
	return nil
}

// mount makes a mount in the scratch tmpfs, where no link of an image can interfere, and moves it to its place.
func (r *rootfs) mount(m *Mount, i int) error {
	source := r.sources[i]
	dir := source < 0 || isDir(source)
	at, err := r.ensure(m.Target, dir)
	if err != nil {
		return err
	}
	here := r.at("mount" + strconv.Itoa(i))
	if dir {
		err = unix.Mkdir(here, 0o755)
	} else {
		err = unix.Mknod(here, unix.S_IFREG|0o644, 0)
	}
	if err == nil && m.Type == MountTmpfs {
		err = unix.Mount("tmpfs", here, "tmpfs", unix.MS_NOSUID|m.flags(), m.options())
	} else if err == nil {
		err = bind(source, here, m.flags())
	}
	if err == nil {
		err = unix.Mount(here, fdPath(at), "", unix.MS_MOVE, "")
	}
	return kind(err)
}

// keptFlags are those that a bind mount has from its source; a user namespace may not take them away. statfs and mount use
// the same bits.
const keptFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME

// bind mounts source at here with flags, keeping the restrictions that the mount of source has.
func bind(source int, here string, flags uintptr) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(source, &st); err != nil {
		return err
	}
	if err := unix.Mount(fdPath(source), here, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	flags |= uintptr(st.Flags) & keptFlags
	return unix.Mount("", here, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

// flags are those of every kind of mount.
func (m *Mount) flags() uintptr {
	flags := uintptr(unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if m.NoSUID {
		flags |= unix.MS_NOSUID
	}
	if m.NoExec {
		flags |= unix.MS_NOEXEC
	}
	return flags
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

// mountFile writes a file to the scratch tmpfs and binds it to its place.
func (r *rootfs) mountFile(f *File, i int) error {
	mode := uint32(f.Mode.Perm())
	if mode == 0 {
		mode = 0o644
	}
	name := "file" + strconv.Itoa(i)
	fd, err := unix.Openat(r.scratch, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	err = errors.Join(fill(fd, f), unix.Close(fd)) // a file open for writing cannot be executed
	if err != nil {
		return err
	}
	at, err := r.ensure(f.Target, false)
	if err != nil {
		return err
	}
	// The scratch tmpfs allows devices, but what is bound is a single file, and the file is not one.
	return kind(unix.Mount(r.at(name), fdPath(at), "", unix.MS_BIND, ""))
}

func fill(fd int, f *File) error {
	for data := f.Data; len(data) > 0; {
		n, err := unix.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return unix.Fchown(fd, int(f.UID), int(f.GID))
}
