package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/fuse"
)

// Mount is a device that is mounted.
type Mount struct {
	dir    string
	served *fuse.Server
	loop   *os.File
}

// At mounts the file system on a device, read-only, in a folder below dir, which is empty. Without the rights or the
// devices that it takes (root, /dev/fuse, loop devices) the error is of kind errs.Unavailable.
func At(ctx context.Context, dir string, dev Device, opts Options) (_ *Mount, err error) {
	if opts.Type == "" {
		opts.Type = "ext4"
	}
	m := &Mount{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := errors.Join(os.Mkdir(m.path(deviceDir), 0o700), os.Mkdir(m.path(rootDir), 0o755)); err != nil {
		return m, err
	}
	if err := m.serve(ctx, dev, opts); err != nil {
		return m, err
	}
	if m.loop, err = attach(filepath.Join(m.path(deviceDir), fileName)); err != nil {
		return m, err
	}
	if err := unix.Mount(m.loop.Name(), m.Root(), opts.Type, unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		if errors.Is(err, unix.EPERM) {
			return m, unavailable("mount "+opts.Type, err)
		}
		return m, fmt.Errorf("mount %s from %s: %w", opts.Type, m.loop.Name(), err)
	}
	return m, nil
}

// Root returns the folder where the file system is.
func (m *Mount) Root() string { return m.path(rootDir) }

func (m *Mount) path(name string) string { return filepath.Join(m.dir, name) }

// fileName is that of the device.
const fileName = "image"

// serve shows the device as a file.
func (m *Mount) serve(ctx context.Context, dev Device, opts Options) (err error) {
	m.served, err = fuse.Mount(ctx, m.path(deviceDir), &fuse.Node{
		Mode: unix.S_IFDIR | 0o700,
		Children: map[string]*fuse.Node{fileName: {
			Mode: unix.S_IFREG | 0o600, Size: dev.Size(),
			Read: func(_ context.Context, p []byte, off int64) (int, error) { return dev.ReadAt(p, off) },
		}},
	}, fuse.Options{Failed: opts.Failed})
	return err
}

// Close unmounts the file system, also while it is in use, gives back the loop device, and removes the folders.
func (m *Mount) Close() error {
	err := unmount(m.Root())
	if m.loop != nil { // which detaches it: nobody else has it open
		err = errors.Join(err, m.loop.Close())
		m.loop = nil
	}
	if m.served != nil {
		err = errors.Join(err, m.served.Close())
		m.served = nil
	}
	if err != nil {
		return err
	}
	return m.remove()
}

func (m *Mount) remove() error {
	var err error
	for _, name := range []string{rootDir, deviceDir} {
		if rerr := os.Remove(m.path(name)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// unmount takes off what is mounted at a folder, if anything is.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
	return nil // where that is not permitted, neither was the mounting
}

// Recover takes off what a process that was killed had mounted in dir, if it had. What lives stays.
func Recover(dir string) error {
	m := &Mount{dir: dir}
	var st unix.Statfs_t // not stat, which the kernel answers from memory
	if err := unix.Statfs(m.path(deviceDir), &st); !errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if err := errors.Join(unmount(m.Root()), unmount(m.path(deviceDir))); err != nil {
		return err
	}
	return m.remove()
}

func unavailable(what string, err error) error {
	err = errs.Mark(fmt.Errorf("%s: %w", what, err), errs.Unavailable)
	return errs.Hint(err, "mounting takes root, /dev/fuse and loop devices")
}

const loopMajor = 7

// attach makes a loop device of a file. It is given back when it is closed.
func attach(path string) (_ *os.File, err error) {
	// Not os.Open, which asks whether the file can be waited for: that question goes to the goroutines that serve it, and
	// they wait by the same means.
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { err = errors.Join(err, unix.Close(file)) }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, unavailable("loop device", err)
	}
	defer control.Close() // nothing was written
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, unavailable("find a loop device", err)
		}
		loop, err := openLoop(n)
		if err != nil {
			return nil, unavailable("loop device", err)
		}
		config := unix.LoopConfig{Fd: uint32(file), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:], "slipway")
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		if err = errors.Join(err, loop.Close()); !errors.Is(err, unix.EBUSY) { // somebody was faster
			return nil, unavailable("configure loop device", err)
		}
	}
}

// openLoop opens a loop device, and makes its node where nobody does, as in containers.
func openLoop(n int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n))))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return os.OpenFile(path, os.O_RDONLY, 0)
}
