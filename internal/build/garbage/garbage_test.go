package garbage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/build/garbage"
	"slipway/internal/errs"
)

// fake is a store of a few items.
type fake struct {
	items []garbage.Item
	busy  string // is in use, though Items does not say so
	wrong error  // of Remove
}

func (f *fake) Items(context.Context) ([]garbage.Item, error) { return slices.Clone(f.items), nil }

func (f *fake) Remove(_ context.Context, item garbage.Item) error {
	if f.wrong != nil {
		return f.wrong
	}
	if item.ID == f.busy {
		return errs.Conflict
	}
	n := len(f.items)
	f.items = slices.DeleteFunc(f.items, func(i garbage.Item) bool { return i.ID == item.ID })
	if len(f.items) == n {
		return errs.NotFound
	}
	return nil
}

// at is a moment, in hours since some other.
func at(hour int) time.Time { return time.Unix(1_700_000_000, 0).Add(time.Duration(hour) * time.Hour) }

// newStores returns two stores of items of 10 bytes each, named by the order in which they were last used.
func newStores() (blobs, others *fake) {
	blobs = &fake{items: []garbage.Item{
		{Kind: garbage.Blob, ID: "5", Size: 10, Used: at(5)},
		{Kind: garbage.Blob, ID: "1", Size: 10, Used: at(1)},
		{Kind: garbage.Blob, ID: "2", Size: 10, Used: at(2), InUse: true},
	}}
	others = &fake{items: []garbage.Item{
		{Kind: garbage.Step, ID: "4c", Size: 10, Used: at(4)},
		{Kind: garbage.Layer, ID: "4a", Size: 10, Used: at(4)},
		{Kind: garbage.Mount, ID: "3", Size: 10, Used: at(3)},
	}}
	return blobs, others
}

func TestCollect(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		r    garbage.Request
		busy string
		want string // what goes, in order
	}{
		{"all", garbage.Request{}, "", "1 3 4a 4c 5"},
		{"what turns out to be in use stays", garbage.Request{}, "3", "1 4a 4c 5"},
		{"down to a size", garbage.Request{Keep: 35}, "", "1 3 4a"},
		{"exactly to a size", garbage.Request{Keep: 40}, "", "1 3"},
		{"what is in use counts", garbage.Request{Keep: 10}, "", "1 3 4a 4c 5"},
		{"less than is kept", garbage.Request{Keep: 60}, "", ""},
		{"so many bytes", garbage.Request{Free: 11}, "", "1 3"},
		{"long unused", garbage.Request{Before: at(4)}, "", "1 3"},
		{"one kind", garbage.Request{Only: []garbage.Kind{garbage.Mount}}, "", "3"},
		{"one kind to a size", garbage.Request{Only: []garbage.Kind{garbage.Blob}, Keep: 20}, "", "1"},
		{"only to see", garbage.Request{DryRun: true, Keep: 20}, "", "1 3 4a 4c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			blobs, others := newStores()
			others.busy = tc.busy
			report, err := garbage.Collect(t.Context(), []garbage.Store{blobs, others}, tc.r)
			if err != nil {
				t.Fatal(err)
			}
			var went []string
			for _, item := range report.Removed {
				went = append(went, item.ID)
			}
			if got := strings.Join(went, " "); got != tc.want {
				t.Errorf("removed %q, want %q", got, tc.want)
			}
			gone := 6 - len(blobs.items) - len(others.items)
			if tc.r.DryRun {
				gone += len(went)
			}
			if report.Freed != int64(10*len(went)) || gone != len(went) {
				t.Errorf("%d bytes freed, %d items gone, %d reported", report.Freed, gone, len(went))
			}
			if tc.r.Only == nil && report.Left != 60-report.Freed {
				t.Errorf("%d bytes left", report.Left)
			}
		})
	}
}

func TestCollectStopsAtErrors(t *testing.T) {
	t.Parallel()
	blobs, others := newStores()
	others.wrong = errors.New("broken disk")
	report, err := garbage.Collect(t.Context(), []garbage.Store{blobs, others}, garbage.Request{})
	if !errors.Is(err, others.wrong) || len(report.Removed) != 1 || report.Freed != 10 {
		t.Errorf("Collect = %+v, %v; want what went before the error", report, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errs.Canceled)
	if report, err := garbage.Collect(ctx, []garbage.Store{blobs}, garbage.Request{}); !errors.Is(err, errs.Canceled) || len(report.Removed) > 0 {
		t.Errorf("Collect = %+v, %v; want nothing done", report, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	blobs, others := newStores()
	items, err := garbage.List(t.Context(), []garbage.Store{blobs, others})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, item := range items {
		ids = append(ids, item.ID)
	}
	if got := strings.Join(ids, " "); got != "1 2 3 4a 4c 5" {
		t.Errorf("List = %s", got)
	}
}
