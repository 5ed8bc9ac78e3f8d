package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

const (
	// maxOptions is what mount(2) takes: one page.
	maxOptions = 4095
	// maxLayers is what overlayfs takes, OVL_MAX_STACK.
	maxLayers = 500
	// volatile is the option for no syncing, which apt and dpkg do after every file. The kernel has it since 5.10.
	volatile = ",volatile"
)

// overlayDirs are the open folders of an overlay. Without an upper one, -1, it is read-only.
type overlayDirs struct {
	lower       []int
	upper, work int
}

func (s *stage) openOverlay(lower []string, upper, work string) (dirs overlayDirs, err error) {
	dirs = overlayDirs{upper: -1, work: -1}
	for _, dir := range lower {
		fd, err := s.hold(openDir(unix.AT_FDCWD, dir))
		if err != nil {
			return dirs, err
		}
		dirs.lower = append(dirs.lower, fd)
	}
	if upper == "" {
		empty, err := s.hold(openDir(s.scratch, "empty")) // the kernel wants two layers at least
		dirs.lower = append(dirs.lower, empty)
		return dirs, err
	}
	if dirs.upper, err = s.hold(openDir(unix.AT_FDCWD, upper)); err != nil {
		return dirs, err
	}
	dirs.work, err = s.hold(openDir(unix.AT_FDCWD, work))
	return dirs, err
}

// mountOverlay mounts layers on a folder of the scratch tmpfs.
//
// The layers are named by their descriptors, from within /proc/self/fd: "12:13:14". So the 500 that the kernel takes fit
// into the one page of mount(2), on every kernel, no path needs escaping, and /proc/mounts inside tells nothing of the host.
func (s *stage) mountOverlay(dirs overlayDirs, name string, flags uintptr) error {
	options, err := dirs.options()
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(s.scratch, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("mount overlay: %w", err)
	}
	if err := removeVolatileMark(dirs.work); err != nil {
		return fmt.Errorf("clean work folder: %w", err)
	}
	if err := unix.Chdir("/proc/self/fd"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	err = unix.EINVAL
	if dirs.upper >= 0 {
		err = unix.Mount("overlay", s.at(name), "overlay", flags, options+volatile)
	}
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("overlay", s.at(name), "overlay", flags, options)
	}
	return overlayError(err)
}

// options leave out what the packer of the upper folder could not express: metacopy, redirects, the index of hard links.
func (d overlayDirs) options() (string, error) {
	names := make([]string, len(d.lower))
	for i, fd := range d.lower {
		names[i] = strconv.Itoa(fd)
	}
	options := "lowerdir=" + strings.Join(names, ":") + ",index=off"
	if inUserNamespace() {
		options += ",userxattr" // which excludes the others
	} else {
		options += ",metacopy=off,redirect_dir=nofollow"
	}
	if d.upper >= 0 {
		options += fmt.Sprintf(",upperdir=%d,workdir=%d", d.upper, d.work)
	}
	if len(d.lower) > maxLayers || len(options)+len(volatile) > maxOptions {
		return "", fmt.Errorf("%d layers are too many to mount: %w", len(d.lower), errs.Invalid)
	}
	return options, nil
}

// removeVolatileMark allows folders to be mounted again after a volatile mount, which marks them against being trusted
// after a crash of the machine. Spec tells callers not to.
func removeVolatileMark(work int) error {
	if work < 0 {
		return nil
	}
	mark, err := openIn(work, "work/incompat/volatile", beneath)
	if err != nil {
		return ignore(err)
	}
	defer unix.Close(mark)
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
