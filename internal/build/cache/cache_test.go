package cache_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/cache"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

func TestStoreLookup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := digest.FromString("key")
	if _, err := c.Lookup(t.Context(), key); !errors.Is(err, errs.NotFound) {
		t.Fatalf("Lookup of an empty cache: %v, want not found", err)
	}
	layer := oci.Describe(oci.MediaTypeLayerGzip, []byte("layer"))
	want := build.Record{Below: digest.FromString("below"), Layer: &layer, DiffID: digest.FromString("tar"), Created: time.Unix(1700000000, 5).UTC()}
	for range 2 { // the second replaces the first
		if err := c.Store(t.Context(), key, want); err != nil {
			t.Fatal(err)
		}
	}
	again, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Lookup(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Lookup mismatch (-want +got):\n%s", diff)
	}
	if all, err := again.Usage(t.Context()); len(all) != 1 || err != nil || all[0].Key != key || all[0].Size <= 0 {
		t.Errorf("Usage = %v, %v; want the record", all, err)
	}
}

func TestDamagedRecordIsForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := digest.FromString("key")
	if err := c.Store(t.Context(), key, build.Record{Created: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, key.Encoded()[:2], key.Encoded()[2:])
	if err := os.WriteFile(file, []byte(`{"created`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup(t.Context(), key); !errors.Is(err, errs.NotFound) {
		t.Errorf("Lookup = %v, want not found", err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the damaged record is still there: %v", err)
	}
}

func TestRecoverRemovesWhatTheDeadLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left := filepath.Join(dir, ".record-1")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := digest.FromString("key")
	if err := c.Store(t.Context(), key, build.Record{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Recover(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("an abandoned file is still there: %v", err)
	}
	if _, err := c.Lookup(t.Context(), key); err != nil {
		t.Errorf("a record is gone: %v", err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var keys []oci.Digest
	for _, name := range []string{"a", "b", "c", "d"} {
		key := digest.FromString(name)
		keys = append(keys, key)
		if err := c.Store(t.Context(), key, build.Record{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := c.Forget(t.Context(), func(r build.Record) (bool, error) {
		if r.Name == "b" { // meanwhile a build stores a new one
			return true, c.Store(t.Context(), keys[1], build.Record{Name: "new"})
		}
		return r.Name != "a" && r.Name != "new", nil
	})
	if n != 2 || err != nil {
		t.Errorf("Forget = %d, %v; want 2", n, err)
	}
	for i, want := range []string{"a", "new", "", ""} {
		r, err := c.Lookup(t.Context(), keys[i])
		if r.Name != want || (want == "") != errors.Is(err, errs.NotFound) {
			t.Errorf("Lookup of record %d = %q, %v; want %q", i, r.Name, err, want)
		}
	}
	if r, err := c.Peek(t.Context(), keys[0]); r.Name != "a" || err != nil {
		t.Errorf("Peek = %q, %v", r.Name, err)
	}
	if err := c.Remove(t.Context(), keys[0]); err != nil {
		t.Error(err)
	}
	if err := c.Remove(t.Context(), keys[0]); !errors.Is(err, errs.NotFound) {
		t.Errorf("Remove again: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
