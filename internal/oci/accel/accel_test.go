package accel_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/blob/dir"
)

const mark = "plain"

// plain is a format that leaves the tar as it is.
type plain struct{ stacked bool }

func (plain) Name() string             { return "plain" }
func (plain) Settings() string         { return "1" }
func (p plain) Stacked() bool          { return p.stacked }
func (plain) Finish(*oci.Manifest)     {}
func (plain) Is(d oci.Descriptor) bool { return d.Annotations[mark] != "" }

func (p plain) Convert(ctx context.Context, dst io.Writer, in accel.Stack) (_ accel.Layer, err error) {
	if ctx.Err() != nil {
		return accel.Layer{}, context.Cause(ctx)
	}
	if p.stacked && len(in.Tars) != len(in.Below)+1 {
		return accel.Layer{}, fmt.Errorf("%d tars on %d layers", len(in.Tars), len(in.Below))
	}
	r, err := in.Top()(ctx)
	if err != nil {
		return accel.Layer{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum, size, failed := digest.SHA256.Digester(), int64(0), error(nil)
	read := reader(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if err != nil && !errors.Is(err, io.EOF) {
			failed = err
		}
		if _, err := io.MultiWriter(sum.Hash(), dst).Write(p[:n]); err != nil {
			failed = err
			return n, err
		}
		size += int64(n)
		return n, err
	})
	for t := tar.NewReader(read); ; {
		if _, err = t.Next(); err == nil {
			_, err = io.Copy(io.Discard, t)
		}
		if errors.Is(err, io.EOF) {
			return accel.Layer{Descriptor: oci.Descriptor{
				MediaType: oci.MediaTypeLayer, Digest: sum.Digest(), Size: size, Annotations: map[string]string{mark: "yes"},
			}, DiffID: sum.Digest()}, nil
		}
		if failed != nil {
			return accel.Layer{}, failed
		}
		if err != nil {
			return accel.Layer{}, errs.Mark(err, errs.Corrupt)
		}
	}
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

func TestSuite(t *testing.T) {
	acceltest.Test(t, func(*testing.T) accel.Format { return plain{} })
}

func TestKey(t *testing.T) {
	t.Parallel()
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	if accel.Key(plain{}, []oci.Digest{a, c}) != accel.Key(plain{}, []oci.Digest{b, c}) {
		t.Error("what is below counts for a format that is not stacked")
	}
	if accel.Key(plain{stacked: true}, []oci.Digest{a, c}) == accel.Key(plain{stacked: true}, []oci.Digest{b, c}) {
		t.Error("what is below does not count for a stacked format")
	}
	if accel.Key(plain{}, []oci.Digest{a}) == accel.Key(plain{}, []oci.Digest{b}) {
		t.Error("the layer does not count")
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	blobs, err := dir.Open(t.TempDir(), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "accelerated")
	cache := accel.OpenCache(folder, blobs)
	key := digest.FromString("key")
	if _, err := cache.Lookup(ctx, key); !errors.Is(err, errs.NotFound) {
		t.Errorf("in an empty cache: %v, want NotFound", err)
	}
	d, err := blobs.Put(ctx, []byte("converted"))
	if err != nil {
		t.Fatal(err)
	}
	want := accel.Layer{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeLayerGzip, Digest: d, Size: 9, Annotations: map[string]string{"toc": "x"}},
		DiffID:     digest.FromString("plain"),
	}
	if err := cache.Store(ctx, key, want); err != nil {
		t.Fatal(err)
	}
	got, err := accel.OpenCache(folder, blobs).Lookup(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Lookup mismatch (-want +got):\n%s", diff)
	}
	if err := blobs.Delete(ctx, d); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Lookup(ctx, key); !errors.Is(err, errs.NotFound) {
		t.Errorf("without the blob: %v, want NotFound", err)
	}
}

func TestCacheDamaged(t *testing.T) {
	t.Parallel()
	blobs, err := dir.Open(t.TempDir(), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	folder, key := t.TempDir(), digest.FromString("key")
	for name, record := range map[string]string{
		"cut": `{"descriptor":{"digest":"sha256:`, "empty": "", "no digest": `{"descriptor":{"digest":"../../x","size":3}}`,
	} {
		if err := os.WriteFile(filepath.Join(folder, key.Encoded()), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := accel.OpenCache(folder, blobs).Lookup(t.Context(), key); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
}
