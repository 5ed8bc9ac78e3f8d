package blobtest

import (
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
)

func holder(t *testing.T, s blob.Store) blob.Holder {
	t.Helper()
	h, ok := s.(blob.Holder)
	if !ok {
		t.Skip("not a blob.Holder")
	}
	return h
}

func wantHeld(t *testing.T, s blob.Store, d oci.Digest) {
	t.Helper()
	if err := s.Delete(t.Context(), d); !errors.Is(err, errs.Conflict) {
		t.Errorf("Delete of a held blob: %v, want a conflict", err)
	}
}

func wantDeleted(t *testing.T, s blob.Store, d oci.Digest) {
	t.Helper()
	if err := s.Delete(t.Context(), d); err != nil {
		t.Errorf("Delete: %v", err)
	}
	gone(t, s, d)
}

func hold(t *testing.T, s blob.Store) {
	h := holder(t, s)
	if _, err := h.Hold(t.Context(), digest.FromString("missing")); !errors.Is(err, errs.NotFound) {
		t.Errorf("Hold of what is not there: %v, want not found", err)
	}
	d := put(t, s, random(100))
	var held []blob.Reader
	for range 2 {
		r, err := h.Hold(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	for _, r := range held {
		wantHeld(t, s, d)
		if data, err := io.ReadAll(r); len(data) != 100 || r.Size() != 100 || err != nil {
			t.Errorf("read %d of %d bytes, %v", len(data), r.Size(), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	wantDeleted(t, s, d)
}

func writersHold(t *testing.T, s blob.Store) {
	holder(t, s)
	for range 2 { // the second finds the blob there, and holds that one
		w := create(t, s)
		write(t, w, random(100))
		d := commit(t, w, "").Digest
		wantHeld(t, s, d)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		check(t, s, d, random(100))
	}
	first, second := create(t, s), create(t, s)
	write(t, first, random(100))
	write(t, second, random(100))
	d := commit(t, first, "").Digest
	commit(t, second, d)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, s, d)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	wantDeleted(t, s, d)
}

func keeper(t *testing.T, s blob.Store) {
	h := holder(t, s)
	k := blob.NewKeeper(h)
	var kept []oci.Digest
	stat, opened, foreign := put(t, s, random(1)), put(t, s, random(2)), put(t, s, random(3))
	if size, err := k.Stat(t.Context(), stat); size != 1 || err != nil {
		t.Errorf("Stat = %d, %v", size, err)
	}
	r, err := k.Open(t.Context(), opened)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w := create(t, k)
	if _, ok := w.(blob.Summer); ok != isSummer(t, s) {
		t.Error("the keeper changes whether a writer is a Summer")
	}
	write(t, w, random(4))
	kept = append(kept, stat, opened, put(t, k, random(5)), commit(t, w, "").Digest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range kept {
		wantHeld(t, s, d)
	}
	wantDeleted(t, s, foreign)
	if _, err := k.Stat(t.Context(), foreign); !errors.Is(err, errs.NotFound) {
		t.Errorf("Stat of what is gone: %v, want not found", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range kept {
		wantDeleted(t, s, d)
	}
}

func isSummer(t *testing.T, s blob.Store) bool {
	t.Helper()
	_, ok := create(t, s).(blob.Summer)
	return ok
}

// deleteBesideUse deletes a blob again and again while others write it and rely on it: what a keeper has committed or
// found, it can open.
func deleteBesideUse(t *testing.T, s blob.Store) {
	h := holder(t, s)
	data := random(5000)
	d := digest.FromBytes(data)
	stop := make(chan struct{})
	var deleter sync.WaitGroup
	deleter.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Delete(t.Context(), d); err != nil && !errors.Is(err, errs.Conflict) {
				t.Errorf("Delete: %v", err)
				return
			}
		}
	})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 50 {
				if err := useOnce(t, h, data); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	users.Wait()
	close(stop)
	deleter.Wait()
}

func useOnce(t *testing.T, h blob.Holder, data []byte) (err error) {
	t.Helper()
	k := blob.NewKeeper(h)
	defer func() { err = errors.Join(err, k.Close()) }()
	d := digest.FromBytes(data)
	if _, err := k.Stat(t.Context(), d); errors.Is(err, errs.NotFound) {
		if _, err := k.Put(t.Context(), data); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	r, err := k.Open(t.Context(), d)
	if err != nil {
		return err
	}
	return r.Close()
}
