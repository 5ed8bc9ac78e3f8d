package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

const (
	// batchTasks and batchBytes are what one batch holds: enough that handing it over costs little next to making
	// the files, small enough that all workers have some.
	batchTasks = 64
	batchBytes = 256 << 10
	// smallFile is the largest file whose content travels in a batch.
	smallFile = 64 << 10
)

// crew is the workers that make files, and the batch that is being filled for them.
type crew struct {
	ctx   context.Context //nolint:containedctx // lives for one tree
	fail  context.CancelCauseFunc
	group errgroup.Group
	work  chan *batch
	free  chan *batch
	made  int
	cur   *batch
	ended bool
	err   error // of stop

	noClone atomic.Bool // the file system cannot share blocks between files

	mu      sync.Mutex
	skipped []string
}

// batch is files to make, and the content of those that bring it along.
type batch struct {
	tasks   []task
	content []byte // never grows beyond its capacity: tasks point into it
	done    chan struct{}
}

// task is one file to make in a directory.
type task struct {
	dir    *handle
	name   string
	entry  *Entry
	data   []byte // content, if it is short
	source string // or the file to copy
	ctime  int64  // that the file must have (see File.Ctime)
}

// handle is a directory's descriptor. The last to release it closes it.
type handle struct {
	fd   int
	refs atomic.Int32
}

func newHandle(fd int) *handle {
	h := &handle{fd: fd}
	h.refs.Store(1)
	return h
}

func (h *handle) retain() { h.refs.Add(1) }

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		unix.Close(h.fd)
	}
}

func newCrew(ctx context.Context) *crew {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	c := &crew{work: make(chan *batch, 2*workers), free: make(chan *batch, 2*workers)}
	c.ctx, c.fail = context.WithCancelCause(ctx)
	for range workers {
		c.group.Go(c.run)
	}
	return c
}

// run is a worker. After a failure it still takes batches, to release what they hold.
func (c *crew) run() error {
	var scratch []byte
	for b := range c.work {
		for i := range b.tasks {
			t := &b.tasks[i]
			if c.ctx.Err() == nil {
				if scratch == nil && t.source != "" {
					scratch = make([]byte, smallFile+1)
				}
				if err := c.make(t, scratch); err != nil {
					c.fail(fmt.Errorf("%s: %w", t.entry.Path, err))
				}
			}
			t.dir.release()
		}
		clear(b.tasks)
		close(b.done)
		c.free <- b
	}
	return nil
}

// space returns n bytes of the current batch for the content of the next task.
func (c *crew) space(n int) ([]byte, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	if len(c.cur.content)+n > batchBytes {
		c.flush()
		if err := c.begin(); err != nil {
			return nil, err
		}
	}
	b := c.cur
	if cap(b.content) < batchBytes && n > 0 {
		b.content = make([]byte, 0, batchBytes)
	}
	start := len(b.content)
	b.content = b.content[:start+n]
	return b.content[start : start+n : start+n], nil
}

// queue adds a task to the current batch and returns that.
func (c *crew) queue(t task) (*batch, error) {
	if err := c.begin(); err != nil {
		t.dir.release()
		return nil, err
	}
	b := c.cur
	b.tasks = append(b.tasks, t)
	if len(b.tasks) == batchTasks {
		c.flush()
	}
	return b, nil
}

// begin makes sure that there is a current batch.
func (c *crew) begin() error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if c.cur != nil {
		return nil
	}
	if c.made < cap(c.free) {
		c.made++
		c.cur = &batch{}
	} else {
		c.cur = <-c.free // workers return batches whatever happens
	}
	c.cur.tasks, c.cur.content = c.cur.tasks[:0], c.cur.content[:0]
	c.cur.done = make(chan struct{})
	return nil
}

func (c *crew) flush() {
	if c.cur != nil {
		c.work <- c.cur
		c.cur = nil
	}
}

// wait returns when the tasks of a batch are done. A batch may have been used again since; waiting longer is harmless.
func (c *crew) wait(b *batch) error {
	if b == nil {
		return nil
	}
	if b == c.cur {
		c.flush()
	}
	<-b.done
	return context.Cause(c.ctx)
}

// stop lets the workers finish and ends them. It returns why something failed, each time it is called.
func (c *crew) stop() error {
	if c.ended {
		return c.err
	}
	c.ended = true
	c.flush()
	close(c.work)
	_ = c.group.Wait() // workers report through fail
	c.err = context.Cause(c.ctx)
	c.fail(nil) // releases the context
	return c.err
}

// skip remembers an attribute that could not be set.
func (c *crew) skip(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skipped = append(c.skipped, what)
}

// make makes one file.
func (c *crew) make(t *task, scratch []byte) error {
	e := t.entry
	if e.Whiteout {
		return mknod(t, unix.S_IFCHR, 0)
	}
	switch e.Mode.Type() {
	case 0:
		return c.regular(t, scratch)
	case fs.ModeSymlink:
		if err := unix.Symlinkat(e.Link, t.dir.fd, t.name); err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
	case fs.ModeNamedPipe:
		if err := mknod(t, unix.S_IFIFO, 0); err != nil {
			return err
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if err := mknod(t, unixMode(e.Mode)&modeType, unix.Mkdev(e.Major, e.Minor)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a layer cannot hold a file of mode %s: %w", e.Mode, errs.Corrupt)
	}
	return c.named(t)
}

func mknod(t *task, kind uint32, dev uint64) error {
	err := unix.Mknodat(t.dir.fd, t.name, kind|0o600, int(dev))
	if err != nil && kind != unix.S_IFIFO {
		return errs.Hint(fmt.Errorf("make device: %w", err), "devices and whiteouts need root, or CAP_MKNOD")
	}
	return err
}

// named sets by name what attributes sets by descriptor, for files that cannot be opened.
func (c *crew) named(t *task) error {
	e := t.entry
	if err := unix.Fchownat(t.dir.fd, t.name, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("change owner to %d:%d: %w", e.UID, e.GID, err)
	}
	if e.Mode.Type() != fs.ModeSymlink {
		if err := unix.Fchmodat(t.dir.fd, t.name, unixMode(e.Mode)&^modeType, 0); err != nil {
			return fmt.Errorf("change mode to %s: %w", e.Mode, err)
		}
	}
	for name := range e.Xattrs {
		c.skip(e.Path + ": " + name) // only regular files and directories have any that layers hold
	}
	ts := timespecs(e.ModTime)
	if err := unix.UtimesNanoAt(t.dir.fd, t.name, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("change time: %w", err)
	}
	return nil
}

// regular makes a regular file.
func (c *crew) regular(t *task, scratch []byte) (err error) {
	fd, err := create(t.dir, t.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if t.source != "" {
		err = c.copy(fd, t, scratch)
	} else {
		err = writeAt(fd, t.data, 0)
	}
	if err != nil {
		return err
	}
	return c.attributes(fd, t.entry)
}

// create makes an empty regular file. It never opens one that is there, nor follows a link.
func create(dir *handle, name string) (int, error) {
	fd, err := openFile(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, fmt.Errorf("make file: %w", err)
	}
	return fd, nil
}

// copy copies the content of a file on this machine, which has to be as long as the entry says.
func (c *crew) copy(fd int, t *task, scratch []byte) error {
	src := &source{path: t.source, size: t.entry.Size, ctime: t.ctime, fd: -1}
	src.refs.Store(1)
	defer src.release()
	if src.size < int64(len(scratch)) {
		if err := src.read(scratch[:src.size], 0); err != nil {
			return err
		}
		return writeAt(fd, scratch[:src.size], 0)
	}
	in, err := src.open()
	if err != nil {
		return err
	}
	if !c.noClone.Load() {
		if err := unix.IoctlFileClone(fd, in); err == nil {
			return src.check(in)
		}
		c.noClone.Store(true)
	}
	return src.copyTo(c.ctx, fd, in)
}

func writeAt(fd int, data []byte, off int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return full(&os.SyscallError{Syscall: "write", Err: err})
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// full marks the error of a full disk as a limit.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Hint(errs.Mark(err, errs.Limit), "free some space, for example with `slipway cache prune`")
	}
	return err
}

func timespecs(t time.Time) [2]unix.Timespec {
	ts := unix.NsecToTimespec(0)
	ts.Sec, ts.Nsec = t.Unix(), int64(t.Nanosecond())
	return [2]unix.Timespec{ts, ts}
}

// futimens sets both times of an open file, which package unix can only do by name.
func futimens(fd int, t time.Time) error {
	ts := timespecs(t)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
