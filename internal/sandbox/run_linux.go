package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Launcher starts sandboxes. It keeps one process started and waiting for its spec, so that a run pays only for its
// mounts and its command. The zero value is ready; Close it. All methods may be called concurrently.
type Launcher struct {
	mu     sync.Mutex
	thread *thread
	spare  *child
	next   sync.WaitGroup // the goroutine that starts the next spare
	closed bool
}

// Run starts the command of spec, waits for it and returns how it ended. A non-zero exit is a result, not an error.
//
// An error means that the command did not run, or that its end is unknown: errs.Invalid for a spec or a root that
// cannot work, errs.NotFound for a command that is not there, errs.Denied and errs.Unavailable for what the machine
// does not allow or have. When ctx is done first, everything is killed after spec.Grace and Run returns context.Cause.
func (l *Launcher) Run(ctx context.Context, spec *Spec) (Result, error) {
	return l.run(ctx, spec, true)
}

// Run is Launcher.Run for a single sandbox.
func Run(ctx context.Context, spec *Spec) (res Result, err error) {
	var l Launcher
	defer func() { err = errors.Join(err, l.Close()) }()
	return l.run(ctx, spec, false)
}

// Warm starts the first spare process in the background, for callers that know of a run to come.
func (l *Launcher) Warm() { l.refill() }

// Close ends the spare process and waits for runs that have not returned. Later ones fail.
func (l *Launcher) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.next.Wait()
	var err error
	if l.spare != nil {
		err = l.spare.discard()
		l.spare = nil
	}
	if l.thread != nil {
		l.thread.stop()
		l.thread = nil
	}
	return err
}

func (l *Launcher) run(ctx context.Context, spec *Spec, keepSpare bool) (Result, error) {
	res, err := l.try(ctx, spec, keepSpare)
	if err != nil {
		return res, fmt.Errorf("run %q: %w", spec.Args, err)
	}
	return res, nil
}

func (l *Launcher) try(ctx context.Context, spec *Spec, keepSpare bool) (Result, error) {
	if err := spec.check(); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, context.Cause(ctx)
	}
	c, err := l.take(spec)
	if err != nil {
		return Result{}, err
	}
	if keepSpare {
		l.refill()
	}
	return c.run(ctx, spec)
}

// take returns a process to give a spec to: the spare, or a new one, which it must be to be born inside a group or when
// it is not to be like others.
func (l *Launcher) take(spec *Spec) (*child, error) {
	if spec.Group != nil {
		return spec.Group.spawn()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("launcher is closed: %w", errs.Canceled)
	}
	if c := l.spare; c != nil && spec.ordinary() {
		l.spare = nil
		if !c.gone() {
			return c, nil
		}
	}
	if l.thread == nil {
		l.thread = newThread()
	}
	return spawn(l.thread, nil)
}

// refill starts a spare unless there is one. That it cannot is no loss: the next run tries again and reports it.
func (l *Launcher) refill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.spare != nil {
		return
	}
	if l.thread == nil {
		l.thread = newThread()
	}
	l.next.Go(func() {
		c, err := spawn(l.thread, nil)
		if err != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.spare == nil {
			l.spare = c
			return
		}
		_ = c.discard() // another run was faster; a spare that did nothing has no error worth telling
	})
}

// run gives c its spec and sees it through. When it returns nothing but init is left of the sandbox, and that only for
// as long as the kernel takes to dismantle the namespaces; the child's thread waits for it.
func (c *child) run(ctx context.Context, spec *Spec) (res Result, err error) {
	std, err := openStdio(spec)
	if err != nil {
		return Result{}, errors.Join(err, c.discard())
	}
	oomKills := spec.Group.oomKills()
	finish := c.killWhenDone(ctx, spec.Grace)
	rep, err := c.converse(request{Spec: spec, Cgroups: spec.Group.view()}, std)
	stopped := finish()
	if stopped || err != nil || rep.Exit == nil {
		err = errors.Join(err, c.discard())
	}
	err = errors.Join(err, std.wait(), removePoints(spec, rep.Points))
	if stopped {
		return Result{}, context.Cause(ctx)
	}
	oom := spec.Group.oomKills() > oomKills
	if oom && rep.Exit == nil && rep.Failure == nil {
		rep.Exit = &exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL)} // init itself was chosen
	}
	res, err = conclude(rep, c, err)
	res.OOM = oom
	return res, err
}

// converse sends the request and listens for the last report.
func (c *child) converse(req request, std *stdio) (report, error) {
	err := c.send(req, std.child())
	std.started()
	if err != nil {
		return report{}, err
	}
	rep, err := c.receive()
	return rep, errors.Join(err, c.conn.Close())
}

// killWhenDone ends the sandbox when ctx is done. The returned function stops watching, and tells whether that happened.
func (c *child) killWhenDone(ctx context.Context, grace time.Duration) (finish func() bool) {
	finished := make(chan struct{})
	var watcher sync.WaitGroup
	acted := false
	watcher.Go(func() {
		select {
		case <-finished:
			return
		case <-ctx.Done():
			acted = true
		}
		if grace > 0 {
			_ = c.proc.Signal(unix.SIGTERM) // the only error is that it ended already
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-finished:
				return
			case <-timer.C:
			}
		}
		_ = c.proc.Kill()
	})
	return func() bool {
		close(finished)
		watcher.Wait()
		return acted
	}
}

// conclude reads the last report.
func conclude(rep report, c *child, err error) (Result, error) {
	switch {
	case rep.Failure != nil:
		return Result{ExitCode: rep.Failure.ExitCode}, errors.Join(rep.Failure.err(), err)
	case rep.Exit != nil:
		e := rep.Exit
		return Result{ExitCode: e.Code, Signal: e.Signal, User: e.User, System: e.System, MaxRSS: e.MaxRSS}, err
	case err == nil:
		return Result{}, fmt.Errorf("the sandbox was ended from outside: %s", c.state)
	}
	return Result{}, err
}
