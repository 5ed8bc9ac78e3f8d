package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/ref"
)

// Store is an image in the local store, under a name.
type Store struct {
	Blobs blob.Store
	Names *Names
	Ref   ref.Ref
	Now   func() time.Time
}

var (
	_ Source = (*Store)(nil)
	_ Target = (*Store)(nil)
)

// String implements Source and Target.
func (s *Store) String() string { return "local:" + s.Ref.Familiar() }

// Repository implements Source.
func (s *Store) Repository() ref.Ref { return ref.Ref{} }

// Root implements Source.
func (s *Store) Root(ctx context.Context) (oci.Descriptor, []byte, error) {
	named, err := s.Names.Get(s.Ref, s.Now())
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	raw, err := s.Manifest(ctx, named.Descriptor)
	return typed(named.Descriptor, raw), raw, err
}

// Manifest implements Source.
func (s *Store) Manifest(ctx context.Context, desc oci.Descriptor) (_ []byte, err error) {
	r, err := s.Blobs.Open(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	raw, err := readAll(r)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	return checked(desc, raw)
}

// Blob implements Source.
func (s *Store) Blob(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := s.Blobs.Open(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	return verify(r, desc), nil
}

// Has implements Target. That it has the name does not say that nothing was removed: everything is looked at.
func (s *Store) Has(context.Context, oci.Digest) (bool, error) { return false, nil }

// PutBlob implements Target.
func (s *Store) PutBlob(ctx context.Context, desc oci.Descriptor, _ ref.Ref, open func() (io.ReadCloser, error)) (_ int64, err error) {
	size, err := s.Blobs.Stat(ctx, desc.Digest)
	if err == nil && size == desc.Size {
		return 0, nil
	}
	if err != nil && !errors.Is(err, errs.NotFound) {
		return 0, err
	}
	r, err := open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := s.Blobs.Create(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	n, err := io.Copy(w, r)
	if err != nil {
		return n, err
	}
	_, err = w.Commit(ctx, desc.Digest)
	return n, err
}

// PutManifest implements Target.
func (s *Store) PutManifest(ctx context.Context, desc oci.Descriptor, raw []byte) error {
	if _, err := checked(desc, raw); err != nil {
		return err
	}
	_, err := s.PutBlob(ctx, oci.Descriptor{Digest: desc.Digest, Size: int64(len(raw))}, ref.Ref{}, func() (io.ReadCloser, error) {
		return memory(raw), nil
	})
	return err
}

// Name implements Target.
func (s *Store) Name(ctx context.Context, desc oci.Descriptor, raw []byte) error {
	if err := s.PutManifest(ctx, desc, raw); err != nil {
		return err
	}
	return s.Names.Set(s.Ref, oci.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: int64(len(raw))}, s.Now())
}

// maxReach is more than any image leads to.
const maxReach = 1_000_000

// Reach returns the digests of everything that a manifest in a blob store leads to, itself included. What is not there
// leads nowhere.
func Reach(ctx context.Context, blobs blob.Store, desc oci.Descriptor) ([]oci.Digest, error) {
	s := &Store{Blobs: blobs}
	var all []oci.Digest
	queue := []oci.Descriptor{desc}
	for len(queue) > 0 && len(all) < maxReach {
		d := queue[0]
		queue = queue[1:]
		all = append(all, d.Digest)
		raw, err := s.Manifest(ctx, d)
		if errors.Is(err, errs.NotFound) || errors.Is(err, errs.Corrupt) || errors.Is(err, errs.Limit) {
			continue
		}
		if err != nil {
			return nil, err
		}
		children, parts, err := parts(typed(d, raw), raw)
		if err != nil {
			continue // it leads nowhere
		}
		queue = append(queue, children...)
		for _, p := range parts {
			all = append(all, p.Digest)
		}
	}
	return all, nil
}
