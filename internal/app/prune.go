package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/garbage"
)

// Kept lists what the home folder keeps, the least recently used first.
func (a *App) Kept(ctx context.Context) ([]garbage.Item, error) {
	_, stores, err := a.inventory(ctx, false)
	if err != nil {
		return nil, err
	}
	items, err := garbage.List(ctx, stores)
	if err != nil {
		return nil, fmt.Errorf("look through %s: %w", a.opts.Home, err)
	}
	return items, nil
}

// inventory returns the realms of the home folder and all that it keeps, with names. With spare, what is named images'
// counts as in use.
func (a *App) inventory(ctx context.Context, spare bool) ([]realm, []garbage.Store, error) {
	realms, err := a.realms()
	if err != nil {
		return nil, nil, err
	}
	called, err := names(ctx, realms)
	if err != nil {
		return nil, nil, err
	}
	stores, err := a.stores(ctx, realms, called, spare)
	return realms, stores, err
}

// Prune removes what is kept, the least recently used first, and nothing that some process uses. It may run beside
// builds.
func (a *App) Prune(ctx context.Context, r garbage.Request, events build.Sink) (report garbage.Report, err error) {
	w, err := a.enter(ctx, events)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, w.end(false)) }()
	unlock, err := locks(a.home(locksDir)).lock(ctx, collecting())
	if err != nil {
		return report, err
	}
	defer unlock()
	spare := len(r.Only) > 0 && !slices.Contains(r.Only, garbage.Image)
	realms, stores, err := a.inventory(ctx, spare)
	if err != nil {
		return report, err
	}
	report, err = garbage.Collect(ctx, stores, r)
	if !r.DryRun {
		err = errors.Join(err, a.settle(ctx, realms), ctx.Err())
	}
	if err != nil {
		return report, fmt.Errorf("prune %s: %w", a.opts.Home, err)
	}
	return report, nil
}

// collecting names the lock that keeps two from removing at once, and from counting the same bytes.
func collecting() digest.Digest { return digest.FromString("collect garbage") }

// settle removes what is of no use without what was removed, and deletes files until ctx is done; what is left of these,
// the next work deletes. Should the process die on the way, the next work does all of it: its mark tells.
func (a *App) settle(ctx context.Context, realms []realm) error {
	var all []error
	for _, r := range realms {
		all = append(all, r.forget(context.WithoutCancel(ctx), a.blobs), untilDone(ctx, r.snapshots.Recover(ctx)), untilDone(ctx, r.mounts.Sweep(ctx)))
	}
	return errors.Join(append(all, locks(a.home(locksDir)).sweep())...)
}

// untilDone is err, unless that is only because ctx is done.
func untilDone(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}
