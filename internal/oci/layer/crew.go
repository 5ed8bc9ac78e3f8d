package layer

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
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
		_ = unix.Close(h.fd) // nothing was written through it
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
