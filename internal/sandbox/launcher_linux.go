package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
)

// Launcher starts sandboxes. It keeps one process started and waiting for its spec, so that a run pays only for the
// mount of its root and for its command. The zero value is ready; Close it. All methods may be called concurrently.
type Launcher struct {
	pool pool
	mu   sync.Mutex
	last map[string]*child // upper folder to the sandbox that used it last
}

// Run starts the command of spec, waits for it and returns how it ended. A non-zero exit is a result, not an error.
//
// An error means that the command did not run, or that its end is unknown: errs.Invalid for a spec or a root that
// cannot work, errs.NotFound for a command that is not there, errs.Denied and errs.Unavailable for what the machine
// does not allow or have. When ctx is done first, everything is killed after spec.Grace and Run returns context.Cause.
//
// When Run returns, every process of the sandbox but its init has ended and Upper is complete.
func (l *Launcher) Run(ctx context.Context, spec *Spec) (Result, error) {
	res, err := l.run(ctx, spec, true)
	if err != nil {
		return res, fmt.Errorf("run %q: %w", spec.Args, err)
	}
	return res, nil
}

// Run is Launcher.Run for a single sandbox.
func Run(ctx context.Context, spec *Spec) (res Result, err error) {
	var l Launcher
	res, err = l.run(ctx, spec, false)
	if err = errors.Join(err, l.Close()); err != nil {
		return res, fmt.Errorf("run %q: %w", spec.Args, err)
	}
	return res, nil
}

// Warm starts the first spare process in the background, for callers that know of a run to come.
func (l *Launcher) Warm() { l.pool.refill() }

// Close ends the spare process and waits for runs that have not returned. Later ones fail.
func (l *Launcher) Close() error {
	err := l.pool.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.last {
		<-c.exited // in a group, it was not the pool's
	}
	return err
}

func (l *Launcher) run(ctx context.Context, spec *Spec, refill bool) (Result, error) {
	if err := spec.check(); err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	l.awaitDismantled(spec)
	from := &l.pool
	if spec.Group != nil {
		from = &spec.Group.pool
	}
	c, err := from.take(spec.ordinary(), spec.arguments()...)
	if err != nil {
		return Result{}, err
	}
	if refill && !spec.Chroot {
		from.refill()
	}
	res, err := c.run(ctx, spec)
	l.remember(spec, c)
	return res, err
}

// remember notes whose upper folders c may still have mounted.
func (l *Launcher) remember(spec *Spec, c *child) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.last, func(_ string, c *child) bool { return c.gone() })
	if l.last == nil {
		l.last = map[string]*child{}
	}
	for _, dir := range spec.uppers() {
		l.last[dir] = c
	}
}

// awaitDismantled waits until no sandbox that has returned has a folder of spec mounted as its upper one. The kernel
// warns of such a mount, even as a lower folder, and is slow to: a millisecond where its console is a serial line.
func (l *Launcher) awaitDismantled(spec *Spec) {
	for _, dir := range spec.layers() {
		l.mu.Lock()
		c := l.last[dir]
		l.mu.Unlock()
		if c != nil {
			<-c.exited
		}
	}
}
