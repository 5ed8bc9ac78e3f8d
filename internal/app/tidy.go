package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/cache/last"
	"slipway/internal/build/fetch"
	"slipway/internal/build/mount"
	"slipway/internal/build/solver"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci/blob"
	"slipway/internal/sandbox"
	"slipway/internal/tempfile"
)

// tidyGrace is how long the end of a build may wait for the removal of what others left.
const tidyGrace = time.Second

// work is something that is done on the home folder: a build, a start of an image, a removal. While it lasts, other
// processes leave alone what it has found there and what it has made.
type work struct {
	*App
	blobs  *blob.Keeper
	mounts *mount.Store
	solver *solver.Solver
	events build.Sink

	mark      *os.File        // locked; says that the work goes on
	tidying   context.Context //nolint:containedctx // of what goes on beside the work
	cancel    context.CancelCauseFunc
	recovered chan error
	unwatch   func() // ends the watch over the disk; nil when there is none
}

// begin begins work that writes to the home folder: enter, with a watch over the disk. Whoever began it ends it.
func (a *App) begin(ctx context.Context, events build.Sink) (*work, error) {
	w, err := a.enter(ctx, events)
	if err == nil {
		w.watch() //nolint:contextcheck // it ends with the work, not with ctx
	}
	return w, err
}

// enter begins work on the home folder, and removes what processes that died left there, beside the work. Events hears
// what else a user should know.
//
// Looking for leftovers takes time in proportion to all that is kept: milliseconds on a machine that builds a lot. So
// work has a mark while it lasts, a locked file, and only when there is a mark that nobody holds any more has somebody
// died, and is there something to look for.
func (a *App) enter(ctx context.Context, events build.Sink) (_ *work, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin to work in %s: %w", a.opts.Home, err)
		}
	}()
	dir := filepath.Join(a.opts.Home, "running")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	mark, err := tempfile.Create(dir, "")
	if err != nil {
		return nil, err
	}
	dead, err := tempfile.Recover(dir, "")
	if err != nil {
		return nil, errors.Join(err, os.Remove(mark.Name()), mark.Close())
	}
	if events == nil {
		events = func(build.Event) {}
	}
	w := &work{
		App: a, blobs: blob.NewKeeper(a.blobs), mounts: mount.Open(a.home(mountsDir + a.opts.Isolation.State)),
		events: events, mark: mark, recovered: make(chan error),
	}
	w.solver = a.newSolver(w.blobs, w.mounts)
	// The end of the work has a say in this, not what ends the work.
	w.tidying, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() { w.recovered <- a.recover(w.tidying, dead > 0) }()
	return w, nil
}

// end ends the work. Work that failed has put aside more than other work, and nobody waits for its result. What could
// not be removed is told, and is no failure of the work.
func (w *work) end(failed bool) error {
	if w.unwatch != nil {
		w.unwatch()
	}
	released := w.blobs.Close()
	grace := time.AfterFunc(tidyGrace, func() { w.cancel(errs.Canceled) })
	defer grace.Stop()
	err := <-w.recovered
	if err == nil && failed {
		err = w.sweep(w.tidying)
	}
	w.warn("remove what an earlier build left", err)
	if w.unwatch != nil {
		w.warn("bound what is kept", errors.Join(w.bound(w.tidying), w.boundMounts(w.tidying)))
	}
	w.cancel(nil)
	if err == nil {
		return errors.Join(released, os.Remove(w.mark.Name()), w.mark.Close())
	}
	return errors.Join(released, w.mark.Close()) // but not its name: the next build tries again
}

// warn tells of an error that is not the work's, unless it is that the time for it was up.
func (w *work) warn(what string, err error) {
	if err != nil && w.tidying.Err() == nil {
		w.events(build.Event{Kind: build.Warning, Time: w.opts.Now(), Text: what + ": " + err.Error()})
	}
}

// recover removes what the dead left, if anybody died, and deletes the folders that builds only put aside.
func (a *App) recover(ctx context.Context, died bool) error {
	if !died {
		return a.sweep(ctx)
	}
	return errors.Join(
		a.cache.Recover(),
		a.recoverMeasured(),
		a.names.Recover(),
		fetch.Recover(filepath.Join(a.opts.Home, fetchedDir)),
		tree.RecoverSums(filepath.Join(a.opts.Home, sumsDir)),
		last.Recover(filepath.Join(a.opts.Home, lastDir)),
		a.blobs.Recover(ctx),
		sandbox.Recover(ctx),
		a.snapshots.Recover(ctx),
		a.forget(ctx), // somebody may have died who removed what records are about
		a.mounts.Sweep(ctx),
	)
}

// sweep deletes what was only put aside.
func (a *App) sweep(ctx context.Context) error {
	return errors.Join(a.snapshots.Sweep(ctx), a.mounts.Sweep(ctx))
}
