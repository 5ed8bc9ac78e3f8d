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
	solver *solver.Solver

	mark      *os.File        // locked; says that the work goes on
	tidying   context.Context //nolint:containedctx // of what goes on beside the work
	cancel    context.CancelCauseFunc
	recovered chan error
}

// begin begins work on the home folder, and removes what processes that died left there, beside the work. Whoever
// began it ends it.
//
// Looking for leftovers takes time in proportion to all that is kept: milliseconds on a machine that builds a lot. So
// work has a mark while it lasts, a locked file, and only when there is a mark that nobody holds any more has somebody
// died, and is there something to look for.
func (a *App) begin(ctx context.Context) (_ *work, err error) {
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
	w := &work{App: a, blobs: blob.NewKeeper(a.blobs), mark: mark, recovered: make(chan error)}
	w.solver = a.newSolver(w.blobs)
	// The end of the work has a say in this, not what ends the work.
	w.tidying, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() { w.recovered <- a.recover(w.tidying, dead > 0) }()
	return w, nil
}

// end ends the work. Work that failed has put aside more than other work, and nobody waits for its result. What could
// not be removed is said on events.
func (w *work) end(failed bool, events build.Sink) error {
	grace := time.AfterFunc(tidyGrace, func() { w.cancel(errs.Canceled) })
	defer grace.Stop()
	err := <-w.recovered
	if err == nil && failed {
		err = w.sweep(w.tidying)
	}
	stopped := w.tidying.Err() != nil
	w.cancel(nil)
	released := w.blobs.Close()
	if err == nil {
		return errors.Join(released, os.Remove(w.mark.Name()), w.mark.Close())
	}
	if !stopped && events != nil {
		events(build.Event{Kind: build.Warning, Time: w.opts.Now(), Text: "remove what an earlier build left: " + err.Error()})
	}
	return errors.Join(released, w.mark.Close()) // but not its name: the next build tries again
}

// recover removes what the dead left, if anybody died, and deletes the folders that builds only put aside.
func (a *App) recover(ctx context.Context, died bool) error {
	if !died {
		return a.sweep(ctx)
	}
	return errors.Join(
		a.cache.Recover(),
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
