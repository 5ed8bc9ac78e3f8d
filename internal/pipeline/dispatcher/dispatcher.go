// Package dispatcher makes runs happen: it starts them when there is room, queues the tasks whose turn it is, hands
// attempts out, looks after those that run, and ends what is to end.
//
//	d := dispatcher.New(dispatcher.Options{Store: db, Hands: hands, Owner: name, Now: time.Now})
//	d.Start(ctx)
//	defer d.Stop()
//	d.Wake() // something has changed
//
// It keeps nothing that the database does not have: everything it does follows from rows, and is a transaction that
// names what it changes from. So several dispatchers may work on one database, any of them may be killed at any moment,
// and none has anything to rebuild when it starts. Attempts run elsewhere (Hands), and go on when a dispatcher is gone;
// the next one adopts them.
//
// A run that cannot be understood, or makes the dispatcher panic, is set aside: it ends with an error that says so.
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/supervisor"
)

// Store is what a dispatcher needs of the database.
type Store interface {
	store.RunStore
	store.Queue
}

// Hands run attempts, so that they outlive this process. Methods are called by one goroutine.
type Hands interface {
	// Launch begins an attempt. When it returns an error the attempt has not begun and never will; the error's class
	// (pipeline.ClassOf) says whether another may.
	Launch(ctx context.Context, a store.Attempt) error
	// Look says how an attempt stands. One that Hands have never heard of is not alive and has no exit record.
	Look(k store.Key) (supervisor.State, error)
	// Cancel asks an attempt to end, Kill ends it.
	Cancel(k store.Key, o supervisor.CancelOrder) error
	Kill(k store.Key) error
	// Settle is called when the end of an attempt has been written down: its logs are complete, and what is left of it
	// besides may go. Errors are logged; what is left costs room and nothing else.
	Settle(ctx context.Context, k store.Key) error
	// Stray returns the attempts that are alive here, whoever began them.
	Stray() ([]store.Key, error)
}

// Change is a status that something is about to get.
type Change struct {
	Run store.Run
	// Task is empty for the run itself.
	Task   string
	Status pipeline.Status
	Class  pipeline.Class
	Reason string
	Output pipeline.Output
}

// Options say what a Dispatcher works with.
type Options struct {
	Store Store
	Hands Hands
	// Owner names this dispatcher among all that there are and were.
	Owner string
	// Gone says whether the dispatcher called owner is known to be gone, so that what it holds need not wait for the end
	// of its lease. Default: nothing is known.
	Gone func(owner string) bool
	// Slots is how many attempts run at once. Default: 2.
	Slots int
	// Lease is for how long an attempt is held without renewal. Default: a minute.
	Lease time.Duration
	// Backoff is how long to wait after the n-th attempt has failed. Default: 5 s, 20 s, 80 s, …
	Backoff func(n int) time.Duration
	// Announce says what is to be told to the world about a change: it is stored together with it. Default: nothing.
	Announce func(Change) []store.Message
	// Pace is how often to look at attempts that run; without any it looks ten times less often. Default: 200 ms.
	Pace time.Duration
	// Now is the clock; only what passes between two looks at it matters. Required.
	Now func() time.Time
	// Logger hears what goes wrong. Default: nothing is logged.
	Logger *slog.Logger
}

// Dispatcher makes runs happen.
type Dispatcher struct {
	opts Options
	wake chan struct{}

	mu      sync.Mutex
	stop    context.CancelCauseFunc
	running sync.WaitGroup

	// What the loop alone knows; losing it costs a little work and nothing else.
	plans   map[int64]*pipeline.Pipeline
	panics  map[int64]int
	renewed time.Time
	swept   time.Time
}

// New returns a dispatcher, which does nothing until Start.
func New(o Options) *Dispatcher {
	if o.Gone == nil {
		o.Gone = func(string) bool { return false }
	}
	if o.Slots == 0 {
		o.Slots = 2
	}
	if o.Lease == 0 {
		o.Lease = time.Minute
	}
	if o.Backoff == nil {
		o.Backoff = func(n int) time.Duration { return 5 * time.Second << min(2*(n-1), 8) }
	}
	if o.Announce == nil {
		o.Announce = func(Change) []store.Message { return nil }
	}
	if o.Pace == 0 {
		o.Pace = 200 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Dispatcher{opts: o, wake: make(chan struct{}, 1), plans: map[int64]*pipeline.Pipeline{}, panics: map[int64]int{}}
}

// Wake says that something may have changed.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default: // it has been told already
	}
}

// Start begins to work until Stop, or until ctx is done. It is called once.
func (d *Dispatcher) Start(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, d.stop = context.WithCancelCause(ctx)
	d.running.Go(func() { d.loop(ctx) })
}

// Stop ends the work and waits for it. Attempts go on. It may be called twice, and without Start.
func (d *Dispatcher) Stop() {
	d.mu.Lock()
	if d.stop != nil {
		d.stop(errs.Canceled)
	}
	d.mu.Unlock()
	d.running.Wait()
}

func (d *Dispatcher) loop(ctx context.Context) {
	for {
		pause := d.opts.Pace
		busy, err := d.Pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.opts.Logger.Error("dispatching", slog.Any("error", err))
			pause *= 5
		case !busy:
			pause *= 10
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Pass does everything that there is to do now. It reports whether anything is going on.
func (d *Dispatcher) Pass(ctx context.Context) (busy bool, err error) {
	held, err := d.attend(ctx)
	if err != nil {
		return true, err
	}
	active, err := d.opts.Store.Active(ctx)
	if err != nil {
		return true, err
	}
	d.forget(active)
	for _, r := range active {
		d.guarded(ctx, r)
	}
	started, err := d.startRuns(ctx)
	if err != nil {
		return true, err
	}
	claimed, err := d.claim(ctx)
	return held+len(active)+started+claimed > 0, err
}

// forget drops what is known of runs that are over.
func (d *Dispatcher) forget(active []store.Run) {
	is := make(map[int64]bool, len(active))
	for _, r := range active {
		is[r.ID] = true
	}
	for id := range d.plans {
		if !is[id] {
			delete(d.plans, id)
		}
	}
	for id := range d.panics {
		if !is[id] {
			delete(d.panics, id)
		}
	}
}

// startRuns starts the runs that there is room for.
func (d *Dispatcher) startRuns(ctx context.Context) (n int, err error) {
	for ; ctx.Err() == nil; n++ {
		r, err := d.opts.Store.StartRun(ctx)
		if errors.Is(err, errs.NotFound) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		d.guarded(ctx, r)
	}
	return n, context.Cause(ctx)
}

// maxPanics is how often a run may make the dispatcher panic before it is set aside.
const maxPanics = 3

// guarded advances a run. What is wrong with it stays its own affair.
func (d *Dispatcher) guarded(ctx context.Context, r store.Run) {
	err := d.advanceSafely(ctx, r)
	switch {
	case err == nil, ctx.Err() != nil:
		return
	case errors.Is(err, errs.Conflict):
		return // somebody else was faster: the next pass sees what they made of it
	case errors.Is(err, errPanic):
		d.panics[r.ID]++
	}
	d.opts.Logger.Error("advancing a run", slog.Int64("run", r.ID), slog.Any("error", err))
	if errors.Is(err, errs.Corrupt) || d.panics[r.ID] >= maxPanics {
		if err := d.setAside(ctx, r, err); err != nil {
			d.opts.Logger.Error("setting a run aside", slog.Int64("run", r.ID), slog.Any("error", err))
		}
	}
}

var errPanic = errors.New("[bug] panic")

func (d *Dispatcher) advanceSafely(ctx context.Context, r store.Run) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, p, debug.Stack())
		}
	}()
	return d.advance(ctx, r)
}

// setAside ends a run that nothing can be done with. Attempts of it that run are asked to end, and end it later.
func (d *Dispatcher) setAside(ctx context.Context, r store.Run, why error) error {
	if r.Cancel == nil {
		err := d.opts.Store.RequestCancel(ctx, r.ID, store.Cancel{
			By: "slipway", Class: pipeline.ClassInfrastructure, Reason: "set aside: " + firstLine(why.Error()),
		})
		if err != nil {
			return err
		}
		if r, err = d.opts.Store.Run(ctx, r.ID); err != nil {
			return err
		}
	}
	return d.end(ctx, r)
}
