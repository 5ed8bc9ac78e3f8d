package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is what a sandbox needs that does not depend on its image: a scratch tmpfs with /proc, /sys and /dev complete,
// to be moved into a root. A spare builds it while it waits.
type stage struct {
	scratch int   // root, proc, sys, dev: mount points; nodes, empty: sources of bind mounts; files
	held    []int // open descriptors
}

// hold notes a descriptor for release.
func (s *stage) hold(fd int, err error) (int, error) {
	if err == nil {
		s.held = append(s.held, fd)
	}
	return fd, err
}

// release closes what is held. After pivot this is not tidiness: each is a door to the machine's files, and a working
// directory or an interpreter of /proc/self/fd/7 would lead through it (CVE-2024-21626). Close-on-exec is too late.
func (s *stage) release() error {
	for _, fd := range s.held {
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("let go of the machine's files: %w", err)
		}
	}
	s.held = nil
	return nil
}

const (
	// scratchSize bounds what goes into /dev, as Docker does, and our own few files.
	scratchSize = "64m"
	// kernelFlags are for mounts that hold no programs.
	kernelFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// newStage builds a stage in the mount namespace that the process has come into.
func newStage(insecure bool) (*stage, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", kind(err))
	}
	unix.Umask(0)
	s := &stage{}
	sys, err := s.cloneSys()
	if err != nil {
		return nil, fmt.Errorf("mount /sys: %w", kind(err))
	}
	if err := s.mountScratch(); err != nil {
		return nil, fmt.Errorf("mount scratch tmpfs: %w", kind(err))
	}
	if err := unix.Mount("proc", s.at("proc"), "proc", kernelFlags, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", kind(err))
	}
	flags := uintptr(kernelFlags | unix.MS_RDONLY)
	if insecure {
		flags = kernelFlags
	}
	if err := s.mountSys(sys, flags); err != nil {
		return nil, fmt.Errorf("mount /sys: %w", kind(err))
	}
	if err := s.mountDev(insecure); err != nil {
		return nil, err
	}
	if insecure {
		return s, nil
	}
	return s, s.restrict()
}

// cloneSys returns a copy of the machine's mounts at /sys, to be used where a user namespace may not make a new sysfs:
// that shows the devices of a network, here the machine's. -1 where no copy is needed.
func (s *stage) cloneSys() (int, error) {
	if !inUserNamespace() {
		return -1, nil
	}
	return s.hold(unix.OpenTree(unix.AT_FDCWD, "/sys", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE))
}

// mountSys mounts a new sysfs, or the copy of the machine's, in which nothing can be changed at any depth.
func (s *stage) mountSys(clone int, flags uintptr) error {
	err := unix.Mount("sysfs", s.at("sys"), "sysfs", flags, "")
	if clone < 0 || !errors.Is(err, unix.EPERM) {
		return err
	}
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	}
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return err
	}
	if err := unix.MoveMount(clone, "", s.scratch, "sys", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	// The machine's cgroups are not for the command, not even those that belong to the user.
	return unix.Mount("tmpfs", s.at("sys/fs/cgroup"), "tmpfs", kernelFlags|unix.MS_RDONLY, "size=4k,mode=0555")
}

// mountScratch mounts the tmpfs over /sys, a folder that every machine has and in which nothing is looked up any more:
// the sandbox's own sysfs is a new one. It must not be a folder whose mounts or files a spec could name.
func (s *stage) mountScratch() (err error) {
	if err := unix.Mount("tmpfs", "/sys", "tmpfs", unix.MS_NOSUID, "mode=0755,size="+scratchSize); err != nil {
		return err
	}
	if s.scratch, err = s.hold(openDir(unix.AT_FDCWD, "/sys")); err != nil {
		return err
	}
	for _, dir := range []string{"root", "proc", "sys", "dev", "nodes", "empty"} {
		if err := unix.Mkdirat(s.scratch, dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// at is a path in the scratch tmpfs, which only init ever writes to.
func (s *stage) at(name string) string { return fdPath(s.scratch) + "/" + name }

// maskedPaths are what Docker hides: some tell of the machine (keys, timers, kernel memory), some steer its hardware.
func maskedPaths() []string {
	return []string{
		"proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats",
		"proc/sched_debug", "proc/scsi", "proc/timer_list", "proc/timer_stats",
		"sys/devices/virtual/powercap", "sys/firmware",
	}
}

// readOnlyPaths are those through which the kernel is configured.
func readOnlyPaths() []string {
	return []string{"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}
}

// restrict hides masked paths and makes others read-only, while no image has a say in what the paths mean.
func (s *stage) restrict() error {
	empty := s.at("empty")
	if err := unix.Mount(empty, empty, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make an empty folder: %w", err)
	}
	// Read-only once, it is so wherever it is bound to.
	if err := unix.Mount("", empty, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kernelFlags, ""); err != nil {
		return fmt.Errorf("make an empty folder: %w", err)
	}
	throttles, err := s.throttles()
	if err != nil {
		return err
	}
	for _, p := range append(maskedPaths(), throttles...) {
		if err := s.mask(p); err != nil {
			return fmt.Errorf("mask /%s: %w", p, err)
		}
	}
	for _, p := range readOnlyPaths() {
		if err := s.protect(p); err != nil {
			return fmt.Errorf("protect /%s: %w", p, err)
		}
	}
	return nil
}

// throttles are the processors' thermal_throttle folders, which count events that other tenants cause. Virtual machines
// have none, so that looking at the first processor is enough for them.
func (s *stage) throttles() ([]string, error) {
	const cpus = "sys/devices/system/cpu"
	var st unix.Stat_t
	err := unix.Fstatat(s.scratch, cpus+"/cpu0/thermal_throttle", &st, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at processors: %w", err)
	}
	dir, err := os.ReadDir(s.at(cpus))
	if err != nil {
		return nil, fmt.Errorf("list processors: %w", err)
	}
	var found []string
	for _, e := range dir {
		if strings.HasPrefix(e.Name(), "cpu") {
			found = append(found, cpus+"/"+e.Name()+"/thermal_throttle")
		}
	}
	return found, nil
}

// mask puts something empty over a file or folder, if it exists.
func (s *stage) mask(name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(s.scratch, name, &st, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	cover := s.at("nodes/null")
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		cover = s.at("empty")
	}
	return unix.Mount(cover, s.at(name), "", unix.MS_BIND, "")
}

// protect makes a file or folder read-only, if it exists.
func (s *stage) protect(name string) error {
	at := s.at(name)
	err := unix.Mount(at, at, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kernelFlags, "")
}

// mountCgroups shows the process its own limits below /sys/fs/cgroup, read-only: what sizes itself by them (a JVM, a Go
// program) finds them there. The cgroup namespace hides the rest of the tree.
func (s *stage) mountCgroups(view []string) error {
	const place = "sys/fs/cgroup"
	if len(view) == 0 {
		return nil
	}
	if view[0] == "cgroup2" {
		if err := unix.Mount("cgroup2", s.at(place), "cgroup2", kernelFlags|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount cgroups: %w", kind(err))
		}
		return nil
	}
	if err := unix.Mkdirat(s.scratch, "cgroup", 0o555); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	for _, options := range view {
		dir := s.at("cgroup/" + options)
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
			if err := unix.Symlink(options, s.at("cgroup/"+name)); err != nil {
				return fmt.Errorf("mount cgroup %s: %w", options, err)
			}
		}
	}
	if err := unix.Mount(s.at("cgroup"), s.at(place), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	return nil
}
