// Package snapshottest is the suite that every implementation of snapshot.Snapshotter passes.
package snapshottest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/snapshot"
)

// Test runs the suite. Each call of open returns a new, empty snapshotter.
func Test(t *testing.T, open func(*testing.T) snapshot.Snapshotter) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, snapshot.Snapshotter){
		"begin":              begin,
		"publish and lookup": publishAndLookup,
		"publish twice":      publishTwice,
		"several keys":       severalKeys,
		"malformed":          malformed,
		"discard":            discard,
		"hold":               hold,
		"remove":             remove,
		"recover":            recoverLiving,
		"many at once":       concurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// key returns some layer's digest.
func key(name string) oci.Digest { return digest.FromString(name) }

func start(t *testing.T, s snapshot.Snapshotter) snapshot.Draft {
	t.Helper()
	d, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Discard(); err != nil {
			t.Errorf("discard: %v", err)
		}
	})
	return d
}

func publish(t *testing.T, d snapshot.Draft, k oci.Digest) {
	t.Helper()
	if err := d.Publish(t.Context(), k); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, d snapshot.Draft, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.Dir(), name), []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// found fails unless k leads to id, with the file name in it.
func found(t *testing.T, s snapshot.Snapshotter, k oci.Digest, id snapshot.ID, name string) {
	t.Helper()
	if got, err := s.Lookup(t.Context(), k); err != nil || got != id {
		t.Fatalf("Lookup = %q, %v; want %q", got, err, id)
	}
	if got, err := os.ReadFile(filepath.Join(s.Dir(id), name)); err != nil || string(got) != name {
		t.Fatalf("%s holds %q, %v", name, got, err)
	}
}

func missing(t *testing.T, s snapshot.Snapshotter, k oci.Digest) {
	t.Helper()
	if id, err := s.Lookup(t.Context(), k); !errors.Is(err, errs.NotFound) {
		t.Fatalf("Lookup = %q, %v; want not found", id, err)
	}
}

func begin(t *testing.T, s snapshot.Snapshotter) {
	a, b := start(t, s), start(t, s)
	if a.ID() == b.ID() || a.Dir() == b.Dir() || a.Dir() != s.Dir(a.ID()) {
		t.Errorf("drafts %s in %s and %s in %s", a.ID(), a.Dir(), b.ID(), b.Dir())
	}
	for _, dir := range []string{a.Dir(), a.Work()} {
		files, err := os.ReadDir(dir)
		if err != nil || len(files) > 0 {
			t.Errorf("%s: %v, %v; want it empty", dir, files, err)
		}
	}
	if info, err := os.Stat(a.Dir()); err != nil || info.Mode() != os.ModeDir|0o755 {
		t.Errorf("mode of %s is %v, %v; want 0755", a.Dir(), info.Mode(), err)
	}
}

func publishAndLookup(t *testing.T, s snapshot.Snapshotter) {
	d := start(t, s)
	missing(t, s, key("a"))
	write(t, d, "file")
	missing(t, s, key("a"))
	publish(t, d, key("a"))
	found(t, s, key("a"), d.ID(), "file")
	if exists(d.Work()) {
		t.Error("the work directory is still there")
	}
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	found(t, s, key("a"), d.ID(), "file")
	missing(t, s, key("b"))
}

// publishTwice has two processes unpack the same layer.
func publishTwice(t *testing.T, s snapshot.Snapshotter) {
	a, b := start(t, s), start(t, s)
	write(t, a, "first")
	write(t, b, "second")
	publish(t, a, key("a"))
	publish(t, b, key("a"))
	found(t, s, key("a"), a.ID(), "first")
	if !exists(filepath.Join(b.Dir(), "second")) {
		t.Error("the draft that came second is gone before Discard")
	}
	if err := b.Discard(); err != nil {
		t.Fatal(err)
	}
	if exists(b.Dir()) {
		t.Error("the draft that came second is left after Discard")
	}
	publish(t, a, key("a"))
	found(t, s, key("a"), a.ID(), "first")
}

func severalKeys(t *testing.T, s snapshot.Snapshotter) {
	a, b := start(t, s), start(t, s)
	write(t, a, "file")
	publish(t, a, key("1"))
	publish(t, b, key("2"))
	publish(t, a, key("2")) // taken
	publish(t, a, key("3"))
	for _, k := range []oci.Digest{key("1"), key("3")} {
		found(t, s, k, a.ID(), "file")
	}
	if id, err := s.Lookup(t.Context(), key("2")); err != nil || id != b.ID() {
		t.Errorf("Lookup = %q, %v; want %q", id, err, b.ID())
	}
}

func malformed(t *testing.T, s snapshot.Snapshotter) {
	d := start(t, s)
	for _, k := range []oci.Digest{"", "x", "sha256:../../.."} {
		if _, err := s.Lookup(t.Context(), k); !errors.Is(err, errs.Invalid) {
			t.Errorf("Lookup(%q): %v, want invalid", k, err)
		}
		if err := d.Publish(t.Context(), k); !errors.Is(err, errs.Invalid) {
			t.Errorf("Publish(%q): %v, want invalid", k, err)
		}
	}
	for _, id := range []snapshot.ID{"", ".", "..", "keys", "../x", "a/b"} {
		if err := s.Remove(t.Context(), id); !errors.Is(err, errs.Invalid) {
			t.Errorf("Remove(%q): %v, want invalid", id, err)
		}
		if _, err := s.Hold(t.Context(), id); !errors.Is(err, errs.Invalid) {
			t.Errorf("Hold(%q): %v, want invalid", id, err)
		}
	}
}

func discard(t *testing.T, s snapshot.Snapshotter) {
	d := start(t, s)
	write(t, d, "file")
	for range 2 {
		if err := d.Discard(); err != nil {
			t.Fatal(err)
		}
	}
	if exists(d.Dir()) {
		t.Error("a discarded draft is still there")
	}
	if err := d.Publish(t.Context(), key("a")); err == nil {
		t.Error("Publish of a discarded draft succeeded")
	}
	missing(t, s, key("a"))
}

func hold(t *testing.T, s snapshot.Snapshotter) {
	d := start(t, s)
	publish(t, d, key("a"))
	if err := s.Remove(t.Context(), d.ID()); !errors.Is(err, errs.Conflict) {
		t.Errorf("Remove of what a draft holds: %v, want conflict", err)
	}
	release, err := s.Hold(t.Context(), d.ID())
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Hold(t.Context(), d.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	release()
	if err := s.Remove(t.Context(), d.ID()); !errors.Is(err, errs.Conflict) {
		t.Errorf("Remove of what is held: %v, want conflict", err)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !exists(s.Dir(d.ID())) {
		t.Error("a folder that is held is gone")
	}
	again()
	if err := s.Remove(t.Context(), d.ID()); err != nil {
		t.Error(err)
	}
	if _, err := s.Hold(t.Context(), d.ID()); !errors.Is(err, errs.NotFound) {
		t.Errorf("Hold of what is gone: %v, want not found", err)
	}
}

func remove(t *testing.T, s snapshot.Snapshotter) {
	d := start(t, s)
	publish(t, d, key("a"))
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), d.ID()); err != nil {
		t.Fatal(err)
	}
	missing(t, s, key("a"))
	if err := s.Remove(t.Context(), d.ID()); !errors.Is(err, errs.NotFound) {
		t.Errorf("Remove again: %v, want not found", err)
	}
	fresh := start(t, s)
	write(t, fresh, "file")
	publish(t, fresh, key("a"))
	found(t, s, key("a"), fresh.ID(), "file")
	if fresh.ID() == d.ID() {
		t.Error("an id was used again")
	}
}

// recoverLiving checks that Recover spares what is in use.
func recoverLiving(t *testing.T, s snapshot.Snapshotter) {
	draft, published, done := start(t, s), start(t, s), start(t, s)
	write(t, done, "file")
	publish(t, published, key("a"))
	publish(t, done, key("b"))
	if err := done.Discard(); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, draft, "file")
	publish(t, draft, key("c"))
	found(t, s, key("b"), done.ID(), "file")
	found(t, s, key("c"), draft.ID(), "file")
}

func concurrent(t *testing.T, s snapshot.Snapshotter) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				if err := one(t, s, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// one is a small build: it uses a folder if there is one, and else makes it.
func one(t *testing.T, s snapshot.Snapshotter, i int) error {
	ctx := t.Context()
	if i == 0 {
		return s.Recover(ctx)
	}
	if id, err := s.Lookup(ctx, key("shared")); err == nil {
		release, err := s.Hold(ctx, id)
		if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Conflict) {
			return err
		}
		if err == nil {
			release()
			err = s.Remove(ctx, id)
		}
		if err != nil && !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.NotFound) {
			return err
		}
	}
	d, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	return errors.Join(d.Publish(ctx, key("shared")), d.Discard())
}
