package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/garbage"
)

// Kept lists what the home folder keeps, the least recently used first.
func (a *App) Kept(ctx context.Context) ([]garbage.Item, error) {
	realms, err := a.realms()
	if err != nil {
		return nil, err
	}
	stores, err := a.stores(ctx, realms)
	if err != nil {
		return nil, err
	}
	items, err := garbage.List(ctx, stores)
	if err != nil {
		return nil, fmt.Errorf("look through %s: %w", a.opts.Home, err)
	}
	return items, nil
}

// Prune removes what is kept, the least recently used first, and nothing that some process uses. It may run beside
// builds.
func (a *App) Prune(ctx context.Context, r garbage.Request, events build.Sink) (report garbage.Report, err error) {
	w, err := a.begin(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, w.end(false, events)) }()
	unlock, err := locks(a.home(locksDir)).lock(ctx, collecting())
	if err != nil {
		return report, err
	}
	defer unlock()
	if report, err = a.collect(ctx, r); err != nil {
		return report, fmt.Errorf("prune %s: %w", a.opts.Home, err)
	}
	return report, nil
}

// collecting names the lock that keeps two from removing at once, and from counting the same bytes.
func collecting() digest.Digest { return digest.FromString("collect garbage") }

// collect removes what r says, and then what is of no use without it. Should the process die in between, the next work
// does the rest: its mark tells.
func (a *App) collect(ctx context.Context, r garbage.Request) (garbage.Report, error) {
	realms, err := a.realms()
	if err != nil {
		return garbage.Report{}, err
	}
	stores, err := a.stores(ctx, realms)
	if err != nil {
		return garbage.Report{}, err
	}
	report, err := garbage.Collect(ctx, stores, r)
	if r.DryRun {
		return report, err
	}
	after := context.WithoutCancel(ctx) // what has begun to go must not be found
	for _, each := range realms {
		err = errors.Join(err, each.forget(after, a.blobs), each.snapshots.Recover(ctx), each.mounts.Sweep(ctx))
	}
	return report, errors.Join(err, locks(a.home(locksDir)).sweep())
}
