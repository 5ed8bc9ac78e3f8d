// Package blobtest is the suite that every implementation of blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
)

// Test runs the suite. Each call of open returns a new, empty store.
func Test(t *testing.T, open func(*testing.T) blob.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, blob.Store){
		"put and open":          putAndOpen,
		"put twice":             putTwice,
		"missing":               missing,
		"malformed digests":     malformed,
		"delete":                remove,
		"list":                  list,
		"create and commit":     createAndCommit,
		"commit checks digest":  commitChecks,
		"commit what exists":    commitExisting,
		"close without commit":  abandon,
		"sha512":                sha512,
		"follow":                follow,
		"follow from an offset": followOffset,
		"follow after commit":   followAfter,
		"follow an abandoned":   followAbandoned,
		"closing a follower":    closeFollower,
		"canceled":              canceled,
		"same blob at once":     concurrent,
		"hold":                  hold,
		"writers hold":          writersHold,
		"keeper":                keeper,
		"deleting beside use":   deleteBesideUse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// random returns n bytes that are the same for the same n.
func random(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func put(t *testing.T, s blob.Store, data []byte) oci.Digest {
	t.Helper()
	d, err := s.Put(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromBytes(data); d != want {
		t.Fatalf("Put = %s, want %s", d, want)
	}
	return d
}

// check fails unless the store has data under d.
func check(t *testing.T, s blob.Store, d oci.Digest, data []byte) {
	t.Helper()
	size, err := s.Stat(t.Context(), d)
	if err != nil || size != int64(len(data)) {
		t.Fatalf("Stat(%s) = %d, %v; want %d", d, size, err, len(data))
	}
	r, err := s.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != int64(len(data)) {
		t.Errorf("Size() = %d, want %d", r.Size(), len(data))
	}
	if len(data) <= 10_000 { // it reads byte by byte, in many ways
		if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), data); err != nil {
			t.Error(err)
		}
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v; want %d bytes", len(got), err, len(data))
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes again, %v; want %d bytes", len(got), err, len(data))
	}
}

// gone fails if the store has anything under d.
func gone(t *testing.T, s blob.Store, d oci.Digest) {
	t.Helper()
	if _, err := s.Stat(t.Context(), d); !errors.Is(err, errs.NotFound) {
		t.Errorf("Stat(%s): %v, want not found", d, err)
	}
	if r, err := s.Open(t.Context(), d); !errors.Is(err, errs.NotFound) {
		t.Errorf("Open(%s) = %v, %v, want not found", d, r, err)
	}
}

func create(t *testing.T, s blob.Store) blob.Writer {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close writer: %v", err)
		}
	})
	return w
}

func write(t *testing.T, w io.Writer, data []byte) {
	t.Helper()
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatalf("Write = %d, %v; want %d", n, err, len(data))
	}
}

func commit(t *testing.T, w blob.Writer, want oci.Digest) oci.Descriptor {
	t.Helper()
	desc, err := w.Commit(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func putAndOpen(t *testing.T, s blob.Store) {
	for _, n := range []int{0, 1, 100, 1 << 20} {
		data := random(n)
		check(t, s, put(t, s, data), data)
	}
}

func putTwice(t *testing.T, s blob.Store) {
	put(t, s, random(10))
	check(t, s, put(t, s, random(10)), random(10))
}

func missing(t *testing.T, s blob.Store) {
	gone(t, s, digest.FromString("missing"))
	gone(t, s, digest.SHA512.FromString("missing"))
}

func malformed(t *testing.T, s blob.Store) {
	hex := digest.FromString("x").Encoded()
	for _, d := range []oci.Digest{"", "sha256", "sha256:", "sha256:00", oci.Digest("sha256:../../" + hex[6:]), oci.Digest("md4:" + hex), oci.Digest("../x:" + hex)} {
		if _, err := s.Stat(t.Context(), d); !errors.Is(err, errs.Invalid) {
			t.Errorf("Stat(%q): %v, want invalid", d, err)
		}
		if _, err := s.Open(t.Context(), d); !errors.Is(err, errs.Invalid) {
			t.Errorf("Open(%q): %v, want invalid", d, err)
		}
		if err := s.Delete(t.Context(), d); !errors.Is(err, errs.Invalid) {
			t.Errorf("Delete(%q): %v, want invalid", d, err)
		}
	}
}

func remove(t *testing.T, s blob.Store) {
	d := put(t, s, random(100))
	r, err := s.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		if err := s.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		gone(t, s, d)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, random(100)) {
		t.Errorf("an open blob became unreadable: %d bytes, %v", len(got), err)
	}
	check(t, s, put(t, s, random(100)), random(100))
}

func list(t *testing.T, s blob.Store) {
	var want []oci.Digest
	for i := range 5 {
		want = append(want, put(t, s, random(i)))
	}
	write(t, create(t, s), []byte("not committed"))
	var got []oci.Digest
	for d, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("List = %v, want %v", got, want)
	}
	s.List(t.Context())(func(oci.Digest, error) bool { return false }) // must not go on
}

func createAndCommit(t *testing.T, s blob.Store) {
	data := random(3 << 20)
	w := create(t, s)
	for chunk := range slices.Chunk(data, 100_000) {
		write(t, w, chunk)
		gone(t, s, digest.FromBytes(data))
	}
	if sum, ok := w.(blob.Summer); ok && sum.Sum() != digest.FromBytes(data) {
		t.Errorf("Sum = %s, want %s", sum.Sum(), digest.FromBytes(data))
	}
	desc := commit(t, w, "")
	if desc.Digest != digest.FromBytes(data) || desc.Size != int64(len(data)) {
		t.Errorf("Commit = %+v, want %s of %d bytes", desc, digest.FromBytes(data), len(data))
	}
	check(t, s, desc.Digest, data)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	check(t, s, desc.Digest, data)
}

func commitChecks(t *testing.T, s blob.Store) {
	data, other := random(100), random(101)
	w := create(t, s)
	write(t, w, data)
	commit(t, w, digest.FromBytes(data))
	bad := create(t, s)
	write(t, bad, data)
	if _, err := bad.Commit(t.Context(), digest.FromBytes(other)); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Commit with a wrong digest: %v, want corrupt", err)
	}
	gone(t, s, digest.FromBytes(other))
	check(t, s, digest.FromBytes(data), data)
}

func commitExisting(t *testing.T, s blob.Store) {
	d := put(t, s, random(100))
	w := create(t, s)
	write(t, w, random(100))
	f := w.Follow(0)
	defer f.Close()
	if desc := commit(t, w, ""); desc.Digest != d {
		t.Errorf("Commit = %s, want %s", desc.Digest, d)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, random(100)) {
		t.Errorf("follower read %d bytes, %v", len(got), err)
	}
	check(t, s, d, random(100))
}

func abandon(t *testing.T, s blob.Store) {
	w := create(t, s)
	write(t, w, random(100))
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, s, digest.FromBytes(random(100)))
	if _, err := w.Commit(t.Context(), ""); err == nil {
		t.Error("Commit after Close succeeded")
	}
	gone(t, s, digest.FromBytes(random(100)))
}

func sha512(t *testing.T, s blob.Store) {
	data := random(1000)
	w := create(t, s)
	write(t, w, data)
	want := digest.SHA512.FromBytes(data)
	if desc := commit(t, w, want); desc.Digest != want {
		t.Errorf("Commit = %s, want %s", desc.Digest, want)
	}
	check(t, s, want, data)
}

// follow has followers of each sort read a blob while it grows.
func follow(t *testing.T, s blob.Store) {
	data := random(50_000)
	w := create(t, s)
	var wg sync.WaitGroup
	for range 4 {
		f := w.Follow(0)
		wg.Go(func() {
			defer f.Close()
			if err := iotest.TestReader(f, data); err != nil {
				t.Error(err)
			}
		})
	}
	first := w.Follow(0)
	defer first.Close()
	buf := make([]byte, 1000)
	for chunk := range slices.Chunk(data, 1000) {
		write(t, w, chunk)
		// What was written can be read before anything else happens.
		if _, err := io.ReadFull(first, buf[:len(chunk)]); err != nil || !bytes.Equal(buf[:len(chunk)], chunk) {
			t.Fatalf("follower: %v, or other bytes", err)
		}
	}
	commit(t, w, "")
	wg.Wait()
	if n, err := first.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read at the end = %d, %v; want EOF", n, err)
	}
}

func followOffset(t *testing.T, s blob.Store) {
	data := random(1000)
	w := create(t, s)
	write(t, w, data[:500])
	near, far := w.Follow(400), w.Follow(700)
	past := w.Follow(5000)
	write(t, w, data[500:])
	commit(t, w, "")
	for offset, f := range map[int]io.ReadCloser{400: near, 700: far, 1000: past} {
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data[offset:]) {
			t.Errorf("follower at %d read %d bytes, %v; want %d", offset, len(got), err, len(data)-offset)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func followAfter(t *testing.T, s blob.Store) {
	w := create(t, s)
	write(t, w, random(1000))
	d := commit(t, w, "").Digest
	f := w.Follow(10)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), d); err != nil && !errors.Is(err, errs.Conflict) { // a follower may hold the blob
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, random(1000)[10:]) {
		t.Errorf("follower read %d bytes, %v", len(got), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func followAbandoned(t *testing.T, s blob.Store) {
	w := create(t, s)
	f := w.Follow(0)
	defer f.Close()
	write(t, w, random(10))
	read := make(chan error)
	go func() {
		_, err := io.ReadAll(f)
		read <- err
	}()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("a follower of an abandoned blob saw a proper end")
	}
}

// closeFollower checks that closing ends a Read that waits.
func closeFollower(t *testing.T, s blob.Store) {
	w := create(t, s)
	f := w.Follow(0)
	read := make(chan error)
	go func() {
		_, err := f.Read(make([]byte, 1))
		read <- err
	}()
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-read; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read of a closed follower: %v, want an error", err)
	}
	write(t, w, random(10))
	commit(t, w, "")
}

func canceled(t *testing.T, s blob.Store) {
	d := put(t, s, random(10))
	w := create(t, s)
	write(t, w, random(20))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := w.Commit(ctx, ""); !errors.Is(err, cause) {
		t.Errorf("Commit: %v, want %v", err, cause)
	}
	if _, err := s.Create(ctx); !errors.Is(err, cause) {
		t.Errorf("Create: %v, want %v", err, cause)
	}
	check(t, s, d, random(10))
	gone(t, s, digest.FromBytes(random(20)))
}

func concurrent(t *testing.T, s blob.Store) {
	data := random(100_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			w, err := s.Create(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			if _, err := w.Write(data); err != nil {
				t.Error(err)
			}
			if _, err := w.Commit(t.Context(), digest.FromBytes(data)); err != nil {
				t.Error(err)
			}
			if _, err := s.Put(t.Context(), data[:10]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check(t, s, digest.FromBytes(data), data)
	check(t, s, digest.FromBytes(data[:10]), data[:10])
}
