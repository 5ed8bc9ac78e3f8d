package archive

import (
	"context"
	"fmt"
	"io"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Registry keeps mounts in a repository, each under a tag of its own.
type Registry struct {
	client *registry.Client
	repo   ref.Ref
}

var _ Place = (*Registry)(nil)

// NewRegistry returns the place in a repository, whatever r's tag is.
func NewRegistry(client *registry.Client, r ref.Ref) *Registry {
	return &Registry{client: client, repo: r.WithDigest("").WithTag("")}
}

// String implements Place.
func (p *Registry) String() string { return p.repo.Name() }

// tagPrefix begins the tags, so that other things can be in the repository.
const tagPrefix = "cache-mount-"

// tagged is the reference of what is kept under a key. Half of the digest tells mounts apart as well as all of it.
func (p *Registry) tagged(key oci.Digest) ref.Ref {
	return p.repo.WithTag(tagPrefix + key.Encoded()[:32])
}

// Load implements Place.
func (p *Registry) Load(ctx context.Context, key oci.Digest) ([]byte, error) {
	desc, data, err := p.client.Resolve(ctx, p.tagged(key))
	if err != nil {
		return nil, err
	}
	if oci.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("%s is an index, and keeps no cache mount: %w", p.tagged(key).Familiar(), errs.Corrupt)
	}
	return data, nil
}

// Open implements Place.
func (p *Registry) Open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	return p.client.Blob(ctx, p.repo, desc)
}

// Put implements Place.
func (p *Registry) Put(ctx context.Context, src registry.Source) (registry.Pushed, error) {
	return p.client.PushBlob(ctx, p.repo, src)
}

// Store implements Place.
func (p *Registry) Store(ctx context.Context, key oci.Digest, manifest []byte) error {
	_, err := p.client.PushManifest(ctx, p.tagged(key), oci.MediaTypeManifest, manifest)
	return err
}
