package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/supervisor"
)

// claim hands out what is queued, as long as there are slots.
func (d *Dispatcher) claim(ctx context.Context) (n int, err error) {
	for ; ctx.Err() == nil; n++ {
		a, err := d.opts.Store.Claim(ctx, store.ClaimOptions{Owner: d.opts.Owner, Lease: d.opts.Lease, Slots: d.opts.Slots})
		if errors.Is(err, errs.NotFound) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if err := d.opts.Hands.Launch(ctx, a); err != nil {
			if ctx.Err() != nil {
				return n, context.Cause(ctx) // it has not begun: whoever comes next finds it lost
			}
			d.finish(ctx, a, supervisor.Exit{
				Status: pipeline.Failed, Class: pipeline.ClassOf(err), Error: err.Error(), Hint: errs.HintOf(err),
			}, false)
		}
	}
	return n, context.Cause(ctx)
}

// attend looks after the attempts that run, and returns how many there are.
func (d *Dispatcher) attend(ctx context.Context) (int, error) {
	held, err := d.opts.Store.Held(ctx)
	if err != nil {
		return 0, err
	}
	if err := d.killStray(held); err != nil {
		d.opts.Logger.Error("looking for stray attempts", slog.Any("error", err))
	}
	var mine []store.Key
	for _, h := range held {
		state, err := d.opts.Hands.Look(h.Key)
		if err != nil {
			d.opts.Logger.Error("looking at an attempt", attempt(h.Key), slog.Any("error", err))
			continue
		}
		if h.Owner != d.opts.Owner {
			var ok bool
			if h, ok = d.adopt(ctx, h, state); !ok {
				continue
			}
		}
		if d.tend(ctx, h, state) {
			mine = append(mine, h.Key)
		}
	}
	return len(held), d.renew(ctx, mine)
}

func attempt(k store.Key) slog.Attr {
	return slog.Group("attempt", slog.Int64("run", k.Run), slog.String("task", k.Task), slog.Int("number", k.Number))
}

// adopt takes over an attempt whose dispatcher is gone, or has not been heard of for the time of a lease.
func (d *Dispatcher) adopt(ctx context.Context, h store.Held, state supervisor.State) (store.Held, bool) {
	if !h.Expired && !d.opts.Gone(h.Owner) {
		return h, false
	}
	k, err := d.opts.Store.Adopt(ctx, h.Key, store.ClaimOptions{Owner: d.opts.Owner, Lease: d.opts.Lease})
	if errors.Is(err, errs.Conflict) {
		return h, false // another one was faster
	}
	if err != nil {
		d.opts.Logger.Error("adopting an attempt", attempt(h.Key), slog.Any("error", err))
		return h, false
	}
	d.opts.Logger.Info("adopted an attempt", attempt(k), slog.Bool("alive", state.Alive), slog.String("from", h.Owner))
	h.Key, h.Owner, h.Expired = k, d.opts.Owner, false
	return h, true
}

// tend does for an attempt of ours what there is to do. It reports whether the attempt goes on.
func (d *Dispatcher) tend(ctx context.Context, h store.Held, state supervisor.State) bool {
	switch {
	case !state.Alive && state.Exit != nil:
		d.finish(ctx, h.Attempt, *state.Exit, true)
		return false
	case !state.Alive:
		d.lost(ctx, h, state)
		return false
	case state.Silent > d.opts.Lease:
		// It is there and does not get to run: stopped, or stuck in the kernel. The next pass finds it gone.
		d.opts.Logger.Warn("killing an attempt that is silent", attempt(h.Key), slog.Duration("silent", state.Silent))
		if err := d.opts.Hands.Kill(h.Key); err != nil {
			d.opts.Logger.Error("killing an attempt", attempt(h.Key), slog.Any("error", err))
		}
	case h.Cancel != nil && !state.Canceled:
		if err := d.opts.Hands.Cancel(h.Key, supervisor.CancelOrder{Class: h.Cancel.Class, Reason: reason(h.Cancel)}); err != nil {
			d.opts.Logger.Error("canceling an attempt", attempt(h.Key), slog.Any("error", err))
		}
	}
	return true
}

// lost ends an attempt that has vanished without an exit record.
func (d *Dispatcher) lost(ctx context.Context, h store.Held, state supervisor.State) {
	exit := supervisor.Exit{Status: pipeline.Failed, Class: pipeline.ClassInfrastructure}
	switch {
	case h.Cancel != nil:
		exit.Status, exit.Class, exit.Error = pipeline.Canceled, h.Cancel.Class, reason(h.Cancel)
	case !state.Begun:
		exit.Error = "the attempt never began: the service stopped at that moment"
	default:
		exit.Error = "the attempt vanished: its process is gone and left no word of how it ended"
		exit.Hint = "was the machine restarted, or a process killed? The kernel's log tells"
	}
	d.finish(ctx, h.Attempt, exit, state.Begun)
}

// maxStarts bounds how often an attempt that never began is followed by another, whatever the task says of retries:
// nothing has happened twice.
const maxStarts = 4

// finish writes down how an attempt ended, and whether there is to be another.
func (d *Dispatcher) finish(ctx context.Context, a store.Attempt, exit supervisor.Exit, begun bool) {
	r := store.Result{
		Status: exit.Status, Class: exit.Class, Error: exit.Error, Hint: exit.Hint, ExitCode: exit.ExitCode, Output: exit.Output,
		Retry: store.NoRetry,
	}
	if r.Status != pipeline.Succeeded && r.Status != pipeline.Canceled { // it comes from a file
		r.Status = pipeline.Failed
	}
	if r.Status == pipeline.Failed && r.Class == pipeline.ClassInfrastructure && d.again(ctx, a, begun) {
		r.Retry = d.opts.Backoff(a.Number)
	}
	var out []store.Message
	if r.Retry < 0 {
		out = d.announce(ctx, a, r)
	}
	err := d.opts.Store.Finish(ctx, a.Key, r, out...)
	switch {
	case err == nil:
		if err := d.opts.Hands.Settle(ctx, a.Key); err != nil {
			d.opts.Logger.Warn("settling an attempt", attempt(a.Key), slog.Any("error", err))
		}
	case errors.Is(err, errs.Conflict):
		d.opts.Logger.Info("another dispatcher ended an attempt", attempt(a.Key), slog.Any("error", err))
	default:
		d.opts.Logger.Error("ending an attempt", attempt(a.Key), slog.Any("error", err)) // the next pass tries again
	}
}

func (d *Dispatcher) again(ctx context.Context, a store.Attempt, begun bool) bool {
	if !begun && a.Number < maxStarts {
		return true
	}
	plan, err := d.plan(ctx, a.Run)
	if err != nil {
		return false // there will be word of that when the run is advanced
	}
	task := plan.Task(a.Task)
	return task != nil && a.Number <= task.Retries
}

// announce asks what is to be told about the end of a task.
func (d *Dispatcher) announce(ctx context.Context, a store.Attempt, r store.Result) []store.Message {
	run, err := d.opts.Store.Run(ctx, a.Run)
	if err != nil {
		d.opts.Logger.Error("reading a run", slog.Int64("run", a.Run), slog.Any("error", err))
		return nil
	}
	return d.opts.Announce(Change{Run: run, Task: a.Task, Status: r.Status, Class: r.Class, Reason: r.Error, Output: r.Output})
}

// renew extends the leases of what is ours, six times in each.
func (d *Dispatcher) renew(ctx context.Context, mine []store.Key) error {
	if len(mine) == 0 || d.opts.Now().Sub(d.renewed) < d.opts.Lease/6 {
		return nil
	}
	lost, err := d.opts.Store.Renew(ctx, d.opts.Lease, mine)
	if err != nil {
		return fmt.Errorf("renew leases: %w", err)
	}
	d.renewed = d.opts.Now()
	for _, k := range lost {
		d.opts.Logger.Warn("an attempt is somebody else's now", attempt(k))
	}
	return nil
}

// sweepEvery is how often to look for attempts that should not be there.
const sweepEvery = time.Minute

// killStray ends attempts that are alive here and over in the database: a backup was restored, or their end was written
// down while nobody could reach them. What they might still do must not happen.
func (d *Dispatcher) killStray(held []store.Held) error {
	if d.opts.Now().Sub(d.swept) < sweepEvery {
		return nil
	}
	stray, err := d.opts.Hands.Stray()
	if err != nil {
		return err
	}
	d.swept = d.opts.Now()
	known := map[store.Key]bool{}
	for _, h := range held {
		k := h.Key
		k.Epoch = 0
		known[k] = true
	}
	for _, k := range stray {
		if known[k] {
			continue
		}
		d.opts.Logger.Warn("killing an attempt that is over", attempt(k))
		if err := d.opts.Hands.Kill(k); err != nil {
			return err
		}
	}
	return nil
}
