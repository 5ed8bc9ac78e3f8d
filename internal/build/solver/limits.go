package solver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"slipway/internal/disk"
	"slipway/internal/errs"
	"slipway/internal/oci/blob"
	"slipway/internal/sandbox"
)

func (l Limits) of() string {
	if l.Of == "" {
		return "this build"
	}
	return l.Of
}

// exceeded is the error for a limit: what was hit, how much it is, whose it is, and what to do.
func (l Limits) exceeded(what, amount, hint string) error {
	err := fmt.Errorf("%s limit of %s of %s was hit: %w", what, amount, l.of(), errs.Limit)
	return errs.Hint(err, hint)
}

func (l Limits) timeError() error {
	return l.exceeded("the time", l.Time.String(), "allow more with --timeout, or with runnerConfig.timeout in a pipeline")
}

// memoryError says how much was used, too, when the kernel tells: what a step asked for and did not get is not in it.
func (l Limits) memoryError(peak int64) error {
	amount := units.BytesSize(float64(l.Memory))
	if peak > 0 {
		amount += ", with a peak of " + units.BytesSize(float64(peak)) + ","
	}
	return l.exceeded("the memory", amount, "allow more with --memory, or with runnerConfig.memory in a pipeline")
}

// outOfMemory is the error of a step that the memory limit has killed a process of.
func (b *builder) outOfMemory() error {
	var peak int64
	if b.limits != nil {
		if stats, err := b.limits.Stats(); err == nil { // without the figure the error still says what happened
			peak = stats.PeakMemory
		}
	}
	return b.req.Limits.memoryError(peak)
}

func (l Limits) diskError() error {
	return l.exceeded("the disk", units.BytesSize(float64(l.Disk)), "allow more with --disk, or with runnerConfig.diskSize in a pipeline")
}

// Apply bounds a build's time.
func (l Limits) Apply(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.Time <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, l.Time, l.timeError())
}

// enforce bounds what a build's processes use, and starts to watch the disk.
func (l Limits) enforce(ctx context.Context, b *builder) error {
	if l.Memory > 0 || l.CPUs > 0 {
		g, err := sandbox.NewGroup(ctx, "build", sandbox.Limits{Memory: l.Memory, CPUs: l.CPUs})
		if err != nil {
			return unenforceable(err)
		}
		b.limits = g
	}
	if l.Disk > 0 {
		b.watchDisk()
	}
	return nil
}

// unenforceable refuses limits that would not be kept: a build that was to be bounded must not run without bounds.
func unenforceable(err error) error {
	if !errors.Is(err, errs.Denied) && !errors.Is(err, errs.Unavailable) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("limits: %w", err)
	}
	err = fmt.Errorf("limits of memory and processors cannot be enforced here: %w: %w", err, errs.Invalid)
	return errs.Hint(err, "leave --memory and --cpus out, or let slipway write to a cgroup: as root, or in one that was delegated "+
		"(systemd-run --user --scope -p Delegate=yes slipway build …)")
}

// createBlob begins a blob that counts against the limit of the disk.
func (b *builder) createBlob(ctx context.Context) (blob.Writer, error) {
	w, err := b.Blobs.Create(ctx)
	if err != nil || b.req.Limits.Disk <= 0 {
		return w, err
	}
	m := metered{w, b}
	if sum, ok := w.(blob.Summer); ok {
		return struct {
			metered
			blob.Summer
		}{m, sum}, nil
	}
	return m, nil
}

// metered is a blob whose writing ends the build when the limit is hit. What drafts hold is watched, which takes longer.
type metered struct {
	blob.Writer
	b *builder
}

func (m metered) Write(p []byte) (int, error) {
	limits := m.b.req.Limits
	if m.b.written.Add(int64(len(p))) > limits.Disk {
		err := limits.diskError()
		m.b.group.fail(err) // not of what is written just now
		return 0, err
	}
	return m.Writer.Write(p)
}

// watchDisk ends the build when its drafts and blobs hold more than it may write. Looking at every file is too slow to do often,
// so it is done only after the file system has filled by what was still allowed at the last look, or nearly.
func (b *builder) watchDisk() {
	watched := make(chan struct{})
	b.mu.Lock()
	b.watches = append(b.watches, func() { <-watched })
	b.mu.Unlock()
	go func() {
		defer close(watched)
		tick := time.NewTicker(diskInterval)
		defer tick.Stop()
		w := diskWatch{limit: b.req.Limits.Disk}
		for {
			select {
			case <-b.group.ctx.Done():
				return
			case <-tick.C:
			}
			over, err := w.over(b.draftDirs(), b.written.Load())
			if err != nil {
				b.group.fail(fmt.Errorf("watch the disk: %w", err))
				return
			}
			if over {
				b.group.fail(b.req.Limits.diskError())
				return
			}
		}
	}()
}

// diskInterval is how long a build can write unseen.
const diskInterval = 50 * time.Millisecond

func (b *builder) draftDirs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	dirs := make([]string, len(b.drafts), len(b.drafts)+len(b.watched))
	for i, d := range b.drafts {
		dirs[i] = d.Dir()
	}
	return append(dirs, b.watched...)
}

// diskWatch knows how much a set of folders holds without reading it more often than needed.
type diskWatch struct {
	limit int64
	used  int64 // by the folders, at the last look
	free  int64 // on the file system, then
}

// over says whether the folders hold more than is left of the limit after blobs of the given size.
func (w *diskWatch) over(dirs []string, blobs int64) (bool, error) {
	if len(dirs) == 0 {
		return false, nil
	}
	free, err := freeBytes(dirs[0])
	if err != nil {
		return false, err
	}
	// Others write to the file system too: that only makes the looks more frequent.
	if grown := w.free - free; w.free != 0 && w.used+grown+blobs < w.limit {
		return false, nil
	}
	w.free, w.used = free, 0
	for _, d := range dirs {
		n, err := disk.Used(d)
		if err != nil {
			return false, err
		}
		w.used += n
	}
	return w.used+blobs > w.limit, nil
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	if errors.Is(err, fs.ErrNotExist) { // discarded meanwhile
		return 0, nil
	}
	return int64(st.Bfree) * st.Bsize, err
}

// noRoom is so little free space that a process which failed may well have failed of that.
const noRoom = 1 << 20

// hintFull adds to a process's failure that it had no room left in dir.
func hintFull(err error, dir string) error {
	if free, lost := freeBytes(dir); lost == nil && free < noRoom {
		return errs.Hint(err, "the file system of "+dir+" is full: free some space there")
	}
	return err
}
