package sandbox

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// openNodes opens the machine's nodes where no others can be made, while the machine's paths can still be followed.
func (r *rootfs) openNodes() error {
	for i := range r.spec.Devices {
		d := &r.spec.Devices[i]
		fd := -1
		if inUserNamespace() {
			var err error
			if fd, err = r.hold(unix.Open(d.Source, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)); err != nil {
				return fmt.Errorf("device %s: open %s: %w", d.Path, d.Source, kind(err))
			}
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return fmt.Errorf("device %s: look at %s: %w", d.Path, d.Source, kind(err))
			}
			if st.Mode&unix.S_IFMT != d.format() || st.Rdev != unix.Mkdev(d.Major, d.Minor) {
				return fmt.Errorf("device %s: %s is another device: %w", d.Path, d.Source, unix.ENODEV)
			}
		}
		r.nodes = append(r.nodes, fd)
	}
	return nil
}

// mountDevice makes a node in the scratch tmpfs, the only file system of the sandbox on which devices work, and binds it
// alone to its place: as those of /dev, it is our own, so that a chmod from inside changes nothing outside.
func (r *rootfs) mountDevice(d *Device, i int) error {
	name := "device" + strconv.Itoa(i)
	here := r.at(name)
	mode := uint32(d.Mode.Perm())
	if mode == 0 {
		mode = 0o666
	}
	var err error
	if r.nodes[i] < 0 {
		if err = unix.Mknod(here, d.format()|mode, int(unix.Mkdev(d.Major, d.Minor))); err == nil {
			err = unix.Fchownat(r.scratch, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
		}
	} else if err = unix.Mknod(here, unix.S_IFREG|0o600, 0); err == nil {
		err = bind(r.nodes[i], here, 0)
	}
	if err != nil {
		return kind(err)
	}
	at, err := r.ensure(d.Path, false)
	if err != nil {
		return err
	}
	return kind(unix.Mount(here, fdPath(at), "", unix.MS_BIND, ""))
}

// format is the device's type in a file's mode.
func (d *Device) format() uint32 {
	if d.Block {
		return unix.S_IFBLK
	}
	return unix.S_IFCHR
}
