package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// run gives c its spec and sees it through. When it returns nothing but init is left of the sandbox, and that only for
// as long as the kernel takes to dismantle the namespaces; the child's thread waits for it.
func (c *child) run(ctx context.Context, spec *Spec) (res Result, err error) {
	std, err := openStdio(spec)
	if err != nil {
		return Result{}, errors.Join(err, c.discard())
	}
	oomKills := spec.Group.oomKills()
	finish := c.killWhenDone(ctx, spec)
	rep, err := c.converse(request{Spec: spec, Cgroups: spec.Group.view(), Forward: spec.Grace > 0}, std)
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
func (c *child) killWhenDone(ctx context.Context, spec *Spec) (finish func() bool) {
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
		if spec.Grace > 0 {
			_ = c.proc.Signal(unix.SIGTERM) // the only error is that it ended already
			timer := time.NewTimer(spec.Grace)
			defer timer.Stop()
			select {
			case <-finished:
				return
			case <-timer.C:
			}
		}
		if spec.Chroot {
			_ = c.proc.Signal(killAll) // with it would die the only one who knows what else to kill
			return
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
