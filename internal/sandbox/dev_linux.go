package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// device is a node that every program may use.
type device struct {
	name         string
	major, minor uint32
}

func devices() []device {
	return []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
}

// mountDev makes /dev: a folder of the scratch tmpfs on which devices do not work, and in it single nodes that do.
//
// So a node that the command makes, there or anywhere in the root, cannot be opened: this takes the place of the device
// cgroup. The nodes are our own, since a chmod of the machine's /dev/null from inside would reach everybody.
func (s *stage) mountDev(insecure bool) error {
	dev := s.at("dev")
	if err := unix.Mount(dev, dev, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if !insecure {
		if err := unix.Mount("", dev, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	for _, d := range devices() {
		if err := s.bindDevice(d); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	return s.mountInDev()
}

func (s *stage) bindDevice(d device) error {
	node, place := s.at("nodes/"+d.name), s.at("dev/"+d.name)
	err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
	if errors.Is(err, unix.EPERM) && inUserNamespace() {
		// Nobody in the namespace owns the machine's node, so that only its driver can be reached through it.
		if err = unix.Mknod(node, unix.S_IFREG|0o666, 0); err == nil {
			err = unix.Mount("/dev/"+d.name, node, "", unix.MS_BIND, "")
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mknod(place, unix.S_IFREG|0o666, 0); err != nil {
		return err
	}
	return unix.Mount(node, place, "", unix.MS_BIND, "")
}

// mountInDev makes what is not a plain node: terminals, shared memory, message queues, links.
func (s *stage) mountInDev() error {
	mounts := []struct {
		name, fstype, options string
		flags                 uintptr
	}{
		{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"shm", "tmpfs", "mode=1777,size=64m", kernelFlags},
		{"mqueue", "mqueue", "", kernelFlags},
	}
	for _, m := range mounts {
		if err := unix.Mkdir(s.at("dev/"+m.name), 0o755); err != nil {
			return fmt.Errorf("make /dev/%s: %w", m.name, err)
		}
		err := unix.Mount(m.fstype, s.at("dev/"+m.name), m.fstype, m.flags, m.options)
		if errors.Is(err, unix.EINVAL) && m.fstype == "devpts" { // a user namespace without group 5
			err = unix.Mount(m.fstype, s.at("dev/"+m.name), m.fstype, m.flags, strings.TrimSuffix(m.options, ",gid=5"))
		}
		if errors.Is(err, unix.ENODEV) && m.fstype == "mqueue" {
			continue // a kernel without message queues
		}
		if err != nil {
			return fmt.Errorf("mount /dev/%s: %w", m.name, err)
		}
	}
	links := [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"/proc/kcore", "core"},
		{"pts/ptmx", "ptmx"},
	}
	for _, l := range links {
		if err := unix.Symlink(l[0], s.at("dev/"+l[1])); err != nil {
			return fmt.Errorf("make /dev/%s: %w", l[1], err)
		}
	}
	return nil
}
