package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

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
func (r *rootfs) mountDev() error {
	at, err := r.ordinaryDir("dev")
	if err != nil {
		return err
	}
	if err := unix.Mount(r.at("dev"), fdPath(at), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	dev, err := openDir(r.root, "dev")
	if err != nil {
		return err
	}
	if !r.spec.Insecure {
		if err := remount(dev, unix.MS_NODEV|unix.MS_NOSUID); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	for _, d := range devices() {
		if err := r.bindDevice(dev, d); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	return mountInDev(dev)
}

func (r *rootfs) bindDevice(dev int, d device) error {
	node := r.at("nodes/" + d.name)
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
		return err
	}
	if err := unix.Mknodat(dev, d.name, unix.S_IFREG|0o666, 0); err != nil {
		return err
	}
	return unix.Mount(node, fdPath(dev)+"/"+d.name, "", unix.MS_BIND, "")
}

// mountInDev makes what is not a plain node: terminals, shared memory, message queues, links.
func mountInDev(dev int) error {
	mounts := []struct {
		name, fstype, options string
		flags                 uintptr
	}{
		{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"shm", "tmpfs", "mode=1777,size=64m", kernelFlags},
		{"mqueue", "mqueue", "", kernelFlags},
	}
	for _, m := range mounts {
		if err := unix.Mkdirat(dev, m.name, 0o755); err != nil {
			return fmt.Errorf("make /dev/%s: %w", m.name, err)
		}
		err := unix.Mount(m.fstype, fdPath(dev)+"/"+m.name, m.fstype, m.flags, m.options)
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
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil {
			return fmt.Errorf("make /dev/%s: %w", l[1], err)
		}
	}
	return nil
}

// maskedPaths are the files and folders of /proc and /sys that Docker hides, as far as this machine has them. Some tell
// of the machine (keys, timers, kernel memory), some steer its hardware.
//
//nolint:gochecknoglobals // a cached fact about the machine
var maskedPaths = sync.OnceValue(func() []string {
	candidates := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	throttle, err := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	if err == nil {
		candidates = append(candidates, throttle...)
	}
	var found []string
	for _, p := range candidates {
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil {
			found = append(found, p)
		}
	}
	return found
})

// readOnlyPaths are those of /proc through which the kernel is configured.
func readOnlyPaths() []string { return []string{"bus", "fs", "irq", "sys", "sysrq-trigger"} }

// restrict hides masked paths and makes others read-only. Both are opened on the very mounts of proc and sysfs, where no
// image has a say.
func (r *rootfs) restrict(proc, sys int, masked []string) error {
	if len(masked) > 0 {
		if err := r.sealEmpty(); err != nil {
			return err
		}
	}
	for _, p := range masked {
		in, name := proc, strings.TrimPrefix(p, "/proc/")
		if rest, ok := strings.CutPrefix(p, "/sys/"); ok {
			in, name = sys, rest
		}
		if err := r.mask(in, name); err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	for _, name := range readOnlyPaths() {
		if err := makeReadOnly(proc, name); err != nil {
			return fmt.Errorf("protect /proc/%s: %w", name, err)
		}
	}
	return nil
}

// sealEmpty makes the empty folder a read-only mount, whose bind mounts then are so too.
func (r *rootfs) sealEmpty() error {
	empty := r.at("empty")
	if err := unix.Mount(empty, empty, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make an empty folder: %w", err)
	}
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | kernelFlags)
	if err := unix.Mount("", empty, "", flags, ""); err != nil {
		return fmt.Errorf("make an empty folder: %w", err)
	}
	return nil
}

func (r *rootfs) mask(in int, name string) error {
	fd, err := unix.Openat(in, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	cover := r.at("nodes/null")
	if isDir(fd) {
		cover = r.at("empty")
	}
	return unix.Mount(cover, fdPath(fd), "", unix.MS_BIND, "")
}

func makeReadOnly(in int, name string) error {
	fd, err := unix.Openat(in, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(fdPath(fd), fdPath(fd), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	on, err := unix.Openat(in, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return unix.Mount("", fdPath(on), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kernelFlags, "")
}

// mountCgroups shows the process its own limits below /sys/fs/cgroup, read-only: what sizes itself by them (a JVM, a Go
// program) finds them there. The cgroup namespace hides the rest of the tree.
func (r *rootfs) mountCgroups(sys int, view []string) error {
	if len(view) == 0 {
		return nil
	}
	at, err := unix.Openat(sys, "fs/cgroup", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	if view[0] == "cgroup2" {
		if err := unix.Mount("cgroup2", fdPath(at), "cgroup2", kernelFlags|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount cgroups: %w", err)
		}
		return nil
	}
	return r.mountCgroupsV1(at, view)
}

func (r *rootfs) mountCgroupsV1(at int, view []string) error {
	if err := unix.Mkdirat(r.scratch, "cgroup", 0o555); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	for _, options := range view {
		dir := r.at("cgroup/" + options)
		if err := unix.Mkdir(dir, 0o555); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", options, err)
		}
		if err := unix.Mount("cgroup", dir, "cgroup", kernelFlags|unix.MS_RDONLY, options); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", options, err)
		}
		for name := range strings.SplitSeq(options, ",") {
			if name == options {
				continue
			}
			if err := unix.Symlink(options, r.at("cgroup/"+name)); err != nil {
				return fmt.Errorf("mount cgroup %s: %w", options, err)
			}
		}
	}
	if err := unix.Mount(r.at("cgroup"), fdPath(at), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	return nil
}
