package transfer

import (
	"context"
	"errors"
	"io"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Registry is an image in a registry.
type Registry struct {
	client *registry.Client
	ref    ref.Ref
}

var (
	_ Source = (*Registry)(nil)
	_ Target = (*Registry)(nil)
)

// NewRegistry returns the image that a reference names, or is to name.
func NewRegistry(client *registry.Client, r ref.Ref) *Registry { return &Registry{client, r} }

// String implements Source and Target.
func (r *Registry) String() string { return r.ref.Familiar() }

// Repository implements Source.
func (r *Registry) Repository() ref.Ref { return r.ref }

// Root implements Source.
func (r *Registry) Root(ctx context.Context) (oci.Descriptor, []byte, error) {
	return r.client.Resolve(ctx, r.ref)
}

// Manifest implements Source.
func (r *Registry) Manifest(ctx context.Context, desc oci.Descriptor) ([]byte, error) {
	_, raw, err := r.client.Resolve(ctx, r.ref.WithDigest(desc.Digest))
	return raw, err
}

// Blob implements Source.
func (r *Registry) Blob(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	return r.client.Blob(ctx, r.ref, desc)
}

// Has implements Target.
func (r *Registry) Has(ctx context.Context, d oci.Digest) (bool, error) {
	desc, err := r.client.Head(ctx, r.ref)
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil && desc.Digest == d, err
}

// PutBlob implements Target.
func (r *Registry) PutBlob(ctx context.Context, desc oci.Descriptor, mount ref.Ref, open func() (io.ReadCloser, error)) (int64, error) {
	src := registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			f, err := open()
			if err != nil || offset == 0 {
				return f, err
			}
			if _, err := io.CopyN(io.Discard, f, offset); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		},
	}
	if mount != (ref.Ref{}) {
		src.MountFrom = []ref.Ref{mount}
	}
	pushed, err := r.client.PushBlob(ctx, r.ref, src)
	return pushed.Bytes, err
}

// PutManifest implements Target.
func (r *Registry) PutManifest(ctx context.Context, desc oci.Descriptor, raw []byte) error {
	_, err := r.client.PushManifest(ctx, r.ref.WithTag("").WithDigest(desc.Digest), desc.MediaType, raw)
	return err
}

// Name implements Target.
func (r *Registry) Name(ctx context.Context, desc oci.Descriptor, raw []byte) error {
	_, err := r.client.PushManifest(ctx, r.ref, desc.MediaType, raw)
	return err
}
