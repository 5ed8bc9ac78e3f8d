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
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/sandbox"
	"slipway/internal/tempfile"
)

// tidyGrace is how long the end of a build may wait for the removal of what others left.
const tidyGrace = time.Second

// begin marks the beginning of work on the home folder, and removes what processes that died left there, beside the
// work. The work ends with end, which is told how: work that failed has put aside more than other work, and nobody waits
// for its result. What could not be removed is said on events.
//
// Looking for leftovers takes time in proportion to all that is kept: milliseconds on a machine that builds a lot. So
// work has a mark while it lasts, a locked file, and only when there is a mark that nobody holds any more has somebody
// died, and is there something to look for.
func (a *App) begin(ctx context.Context) (end func(failed bool, events build.Sink) error, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin a build: %w", err)
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
	// The end of the work has a say in this, not what ends the work.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	recovered := make(chan error)
	go func() { recovered <- a.recover(ctx, dead > 0) }()
	return func(failed bool, events build.Sink) error {
		grace := time.AfterFunc(tidyGrace, func() { cancel(errs.Canceled) })
		defer grace.Stop()
		err := <-recovered
		if err == nil && failed {
			err = a.snapshots.Sweep(ctx)
		}
		stopped := ctx.Err() != nil
		cancel(nil)
		if err == nil {
			return errors.Join(os.Remove(mark.Name()), mark.Close())
		}
		if !stopped && events != nil {
			events(build.Event{Kind: build.Warning, Time: a.opts.Now(), Text: "remove what an earlier build left: " + err.Error()})
		}
		return mark.Close() // but not its name: the next build tries again
	}, nil
}

// recover removes what the dead left, if anybody died, and deletes the folders that builds only put aside.
func (a *App) recover(ctx context.Context, died bool) error {
	if !died {
		return a.snapshots.Sweep(ctx)
	}
	return errors.Join(
		a.cache.Recover(),
		tree.RecoverSums(filepath.Join(a.opts.Home, sumsDir)),
		last.Recover(filepath.Join(a.opts.Home, lastDir)),
		a.blobs.Recover(ctx),
		sandbox.Recover(ctx),
		a.snapshots.Recover(ctx),
	)
}
