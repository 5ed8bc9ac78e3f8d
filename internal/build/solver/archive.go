package solver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/docker/go-units"

	"slipway/internal/build/mount"
	"slipway/internal/build/mount/archive"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// MountPlace is a place outside this machine where cache mounts are kept.
type MountPlace struct {
	archive.Place
	// For says whether a mount with an id is kept there.
	For func(id string) bool
	// ReadOnly: mounts are restored and never saved.
	ReadOnly bool
	// IgnoreError makes a failure to save a warning.
	IgnoreError bool
}

// archived wants a mount that has nothing to be filled from the first place that keeps it. What a place keeps saves
// time: that it cannot be had is told, and is no failure.
func (b *builder) archived(w *mount.Want) {
	var places []MountPlace
	for _, p := range b.req.CacheMounts {
		if p.For(w.ID) {
			places = append(places, p)
		}
	}
	if len(places) == 0 {
		return
	}
	key, id := w.Key, w.ID
	w.Restore = func(ctx context.Context, path string) (bool, error) {
		for _, p := range places {
			restored, err := b.restoreMount(ctx, p, key, id, path)
			if restored || err != nil {
				return restored, err
			}
		}
		return false, nil
	}
}

func (b *builder) restoreMount(ctx context.Context, p MountPlace, key oci.Digest, id, path string) (bool, error) {
	ev := b.events.start(fmt.Sprintf("restore cache mount %s from %s", id, p))
	err := archive.Restore(b.noticed(ctx), p, archive.Restoring{Key: key, ID: id, Dir: path, MaxBytes: maxLayerBytes})
	switch {
	case ctx.Err() != nil:
		ev.End("", context.Cause(ctx))
		return false, context.Cause(ctx)
	case errors.Is(err, errs.NotFound):
		ev.End("nothing there yet", nil)
		return false, nil
	case err != nil:
		ev.End("not used", nil)
		b.events.warn(err.Error())
		return false, nil
	}
	ev.End("", nil)
	return true, nil
}

// mountTaken notes that a RUN has used a mount, for saveMounts.
func (b *builder) mountTaken(path string, w mount.Want) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, ok := b.mounted[path]; ok && before.Sharing != mount.Shared && before.Sharing != "" {
		return // the stricter way counts
	}
	b.mounted[path] = w
}

// saveMounts brings the mounts that RUNs have used, and changed, to the places that keep them.
func (b *builder) saveMounts(ctx context.Context) error {
	b.mu.Lock()
	used := maps.Clone(b.mounted)
	b.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(used)) {
		w := used[path]
		if filepath.Base(filepath.Dir(path)) != "0" { // of private mounts that were used at once the first is kept
			continue
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() { // what began as a file has nothing to be put in
			continue
		}
		for _, p := range b.req.CacheMounts {
			if p.ReadOnly || !p.For(w.ID) {
				continue
			}
			if err := b.saveMount(ctx, p, path, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// saveTries is how often somebody who uses a shared mount may change files while they are read.
const saveTries = 3

func (b *builder) saveMount(ctx context.Context, p MountPlace, path string, w mount.Want) (err error) {
	taken, err := b.Mounts.Look(ctx, path, w.Sharing)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if errors.Is(err, errs.Conflict) {
		b.events.note(fmt.Sprintf("cache mount %s is in use by another build, and is not saved", w.ID))
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, taken.Release()) }()
	ev := b.events.start(fmt.Sprintf("save cache mount %s to %s", w.ID, p))
	var saved archive.Saved
	for range saveTries {
		saved, err = archive.Save(b.noticed(ctx), p, archive.Saving{Key: w.Key, ID: w.ID, Dir: path, Create: b.createBlob})
		if !errors.Is(err, errs.Conflict) {
			break
		}
	}
	text := fmt.Sprintf("%d of %d packs sent, %s", saved.Sent, saved.Packs, units.BytesSize(float64(saved.Bytes)))
	switch {
	case err != nil && p.IgnoreError && ctx.Err() == nil:
		ev.End("not saved", nil)
		b.events.warn(err.Error())
		return nil
	case saved.Empty:
		text = "nothing to save"
	case saved.Unchanged:
		text = "unchanged"
	}
	ev.End(text, err)
	return err
}
