// Package garbage decides what of the local store goes when room is wanted, and sees to it that it does.
//
// What is kept are items of several kinds, each in a [Store] of its own. All of them only save time: a build that finds
// one gone does its work again. Least recently used ones go first, whatever their kind. What some process uses stays:
// not by a decision here, where it would be out of date, but because its store refuses to remove it.
//
//	report, err := garbage.Collect(ctx, stores, garbage.Request{Keep: 10 << 30})
package garbage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// Kind is what an item is.
type Kind string

// Kinds, as flags and lists spell them.
const (
	Image   Kind = "image"   // the name of one; what it names goes after it
	Blob    Kind = "blob"    // layers as registries get them, configs, manifests, fetched files
	Layer   Kind = "layer"   // folders with a layer's files, or a commit's
	Step    Kind = "step"    // what came of an instruction
	Mount   Kind = "mount"   // of RUN --mount=type=cache
	Context Kind = "context" // what is remembered of a context's files
	Fetched Kind = "fetched" // what is remembered of files from elsewhere, and of what registries have
)

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{Image, Blob, Layer, Step, Mount, Context, Fetched} }

// Item is one thing that is kept.
type Item struct {
	Kind Kind   `json:"type"`
	ID   string `json:"id"`
	// Name is what people call it, where they do.
	Name string `json:"name,omitempty"`
	// Size is what it takes on the disk.
	Size int64 `json:"size"`
	// Used is when it was last used.
	Used time.Time `json:"lastUsed"`
	// InUse says that some process uses it just now.
	InUse bool `json:"inUse"`
}

// Store keeps items. Its methods may be called while builds use the items.
type Store interface {
	// Items lists what there is. It counts as no use.
	Items(ctx context.Context) ([]Item, error)
	// Remove removes an item, so that no build finds it any more, all at once or not at all; its files may be deleted
	// later. The error is of kind errs.Conflict if it is in use, and errs.NotFound if it is not there.
	Remove(ctx context.Context, item Item) error
}

// List returns the items of all stores, the least recently used first.
func List(ctx context.Context, stores []Store) ([]Item, error) {
	all, err := (&Request{}).candidates(ctx, stores)
	if err != nil {
		return nil, err
	}
	items := make([]Item, len(all))
	for i, c := range all {
		items[i] = c.Item
	}
	return items, nil
}

// order puts first what goes first. Of what was used in the same moment a name goes first, the folder before its blob, of which it
// can be made again, and both before the step that they came of.
func order(a, b Item) int {
	return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(rank(a.Kind), rank(b.Kind)), strings.Compare(a.ID, b.ID))
}

func rank(k Kind) int {
	switch k {
	case Image:
		return 0
	case Layer:
		return 1
	case Blob:
		return 2
	}
	return 3
}

// Request says what is to go. The zero value removes all that is not in use.
type Request struct {
	// Only are the kinds that may go. Default: all.
	Only []Kind
	// Before spares what was used since. Default: nothing is spared for that.
	Before time.Time
	// Keep ends it when no more than so many bytes of these kinds are left. Default: none need be left.
	Keep int64
	// Free ends it when so many bytes have gone. Default: it goes on.
	Free int64
	// DryRun removes nothing, and reports as if it had.
	DryRun bool
}

// Report says what went.
type Report struct {
	Removed []Item `json:"removed"`
	// Freed and Left are bytes, of the requested kinds.
	Freed int64 `json:"freed"`
	Left  int64 `json:"left"`
}

// Collect removes items until the request is met or nothing is left that may go. With an error comes a report of what
// had gone until then.
func Collect(ctx context.Context, stores []Store, r Request) (Report, error) {
	report := Report{Removed: []Item{}}
	candidates, err := r.candidates(ctx, stores)
	if err != nil {
		return report, err
	}
	for _, c := range candidates {
		report.Left += c.Size
	}
	for _, c := range candidates {
		if ctx.Err() != nil {
			return report, context.Cause(ctx)
		}
		if report.Left <= r.Keep || r.Free > 0 && report.Freed >= r.Free {
			break
		}
		if c.InUse || !r.Before.IsZero() && !c.Used.Before(r.Before) {
			continue
		}
		if !r.DryRun {
			err := c.store.Remove(ctx, c.Item)
			if errors.Is(err, errs.Conflict) {
				continue
			}
			if err != nil && !errors.Is(err, errs.NotFound) {
				return report, err
			}
		}
		report.Left -= c.Size
		report.Freed += c.Size
		report.Removed = append(report.Removed, c.Item)
	}
	return report, nil
}

// candidate is an item and where it is.
type candidate struct {
	Item
	store Store
}

// candidates are the items of the requested kinds, the least recently used first.
func (r *Request) candidates(ctx context.Context, stores []Store) ([]candidate, error) {
	var all []candidate
	for _, s := range stores {
		items, err := s.Items(ctx)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			if len(r.Only) == 0 || slices.Contains(r.Only, item.Kind) {
				all = append(all, candidate{item, s})
			}
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return order(a.Item, b.Item) })
	return all, nil
}
