package solver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// baseImage is an image that the build stands on or copies from.
type baseImage struct {
	name     string  // as the Dockerfile says
	ref      ref.Ref // where it is
	manifest oci.Manifest
	digest   oci.Digest
	config   oci.Image
	in       Bases // that have its blobs; nil for its registry
}

// resolve looks up images that the plan needs, side by side, and adds them to have.
func (b *builder) resolve(ctx context.Context, needs []plan.Need, have map[plan.Need]plan.Image) error {
	g, ctx := errgroup.WithContext(ctx)
	found := make([]*baseImage, len(needs))
	for i, n := range needs {
		g.Go(func() (err error) {
			found[i], err = b.resolveOne(ctx, n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, n := range needs {
		im := found[i]
		have[n] = plan.Image{Ref: n.Ref, Digest: im.digest, Config: im.config}
		b.images.start(b.group, imageKey(n.Ref, im.digest), func() (*baseImage, error) { return im, nil })
	}
	return nil
}

func imageKey(name string, d oci.Digest) string { return name + "@" + d.String() }

// image returns an image that resolve has found.
func (b *builder) image(ctx context.Context, im *plan.Image) (*baseImage, error) {
	return b.images.start(b.group, imageKey(im.Ref, im.Digest), func() (*baseImage, error) {
		return nil, bug("image %s was not resolved", im.Ref)
	}).wait(ctx)
}

func (b *builder) resolveOne(ctx context.Context, n plan.Need) (im *baseImage, err error) {
	r, err := ref.Parse(n.Ref)
	if err != nil {
		return nil, err
	}
	st := b.events.start("resolve " + r.Familiar())
	defer func() {
		text := ""
		if err == nil {
			text = im.digest.String()
		}
		st.End(text, err)
	}()
	return b.lookUp(ctx, n)
}

// lookUp finds an image in the folder of warmed ones, or in its registry.
func (b *builder) lookUp(ctx context.Context, n plan.Need) (*baseImage, error) {
	r, err := ref.Parse(n.Ref)
	if err != nil {
		return nil, err
	}
	if b.req.MapRef != nil {
		r = b.req.MapRef(r)
	}
	platform, err := oci.ParsePlatform(n.Platform)
	if err != nil {
		return nil, err
	}
	if n.Context != "" {
		im, err := b.heldBase(ctx, b.req.Contexts[n.Context].Bases, n.Ref, r, platform)
		if err != nil {
			err = fmt.Errorf("build context %s: %w", n.Context, err)
		}
		return im, err
	}
	im, err := b.heldBase(ctx, b.req.Bases, n.Ref, r, platform)
	if !errors.Is(err, errs.NotFound) {
		return im, err
	}
	return b.fetchBase(ctx, n.Ref, r, platform)
}

// heldBase takes an image from a place of its own, if there is one.
func (b *builder) heldBase(ctx context.Context, in Bases, name string, r ref.Ref, p oci.Platform) (*baseImage, error) {
	if in == nil {
		return nil, errs.NotFound
	}
	desc, raw, err := in.Base(ctx, r, p)
	if err != nil {
		return nil, err
	}
	im := &baseImage{name: name, ref: r, digest: desc.Digest, in: in}
	if err := json.Unmarshal(raw, &im.manifest); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", name, errs.Mark(err, errs.Corrupt))
	}
	return im, b.readConfig(ctx, im)
}

// fetchBase takes an image's manifest and config from its registry, or from the blob store when its digest is known.
func (b *builder) fetchBase(ctx context.Context, name string, r ref.Ref, p oci.Platform) (*baseImage, error) {
	desc, raw, err := b.manifestBytes(ctx, r)
	if err != nil {
		return nil, err
	}
	if oci.IsIndex(desc.MediaType) {
		if desc, err = oci.Choose(raw, p); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, raw, err = b.manifestBytes(ctx, r.WithDigest(desc.Digest)); err != nil {
			return nil, err
		}
	}
	im := &baseImage{name: name, ref: r, digest: desc.Digest}
	if err := json.Unmarshal(raw, &im.manifest); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", name, errs.Mark(err, errs.Corrupt))
	}
	if im.manifest.Config.Digest == "" {
		return nil, fmt.Errorf("manifest of %s: %s is not an image: %w", name, desc.MediaType, errs.Invalid)
	}
	return im, b.readConfig(ctx, im)
}

// manifestBytes gets a manifest: a digest that the store has needs no network.
func (b *builder) manifestBytes(ctx context.Context, r ref.Ref) (oci.Descriptor, []byte, error) {
	if d := r.Digest(); d != "" {
		if raw, err := b.readBlob(ctx, d); err == nil {
			return oci.DescribeManifest(raw), raw, nil
		} else if !errors.Is(err, errs.NotFound) {
			return oci.Descriptor{}, nil, err
		}
	}
	desc, raw, err := b.Registry.Resolve(ctx, r)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	if _, err := b.Blobs.Put(ctx, raw); err != nil {
		return oci.Descriptor{}, nil, err
	}
	return desc, raw, nil
}

// readBlob returns a small blob of the store whole.
func (b *builder) readBlob(ctx context.Context, d oci.Digest) (_ []byte, err error) {
	r, err := b.Blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() > oci.MaxManifestBytes {
		return nil, fmt.Errorf("blob %s: %d bytes is too large for a manifest: %w", d, r.Size(), errs.Invalid)
	}
	return io.ReadAll(r)
}

func (b *builder) readConfig(ctx context.Context, im *baseImage) error {
	desc := im.manifest.Config
	raw, err := b.readBlob(ctx, desc.Digest)
	if errors.Is(err, errs.NotFound) {
		raw, err = b.fetchConfig(ctx, im, desc)
	}
	if err != nil {
		return fmt.Errorf("config of %s: %w", im.name, err)
	}
	if err := json.Unmarshal(raw, &im.config); err != nil {
		return fmt.Errorf("config of %s: %w", im.name, errs.Mark(err, errs.Corrupt))
	}
	return im.check()
}

// check holds what a stranger wrote against what everything after relies on.
func (im *baseImage) check() error {
	for _, desc := range im.manifest.Layers {
		if err := desc.Digest.Validate(); err != nil {
			return fmt.Errorf("manifest of %s: layer %q: %w", im.name, desc.Digest, errs.Mark(err, errs.Corrupt))
		}
	}
	ids := im.config.RootFS.DiffIDs
	if n, m := len(ids), len(im.manifest.Layers); n != m {
		return fmt.Errorf("config of %s: %d diff_ids for %d layers: %w", im.name, n, m, errs.Corrupt)
	}
	for _, id := range ids {
		if err := id.Validate(); err != nil {
			return fmt.Errorf("config of %s: diff_id %q: %w", im.name, id, errs.Mark(err, errs.Corrupt))
		}
	}
	return nil
}

func (b *builder) fetchConfig(ctx context.Context, im *baseImage, desc oci.Descriptor) (_ []byte, err error) {
	if desc.Size > oci.MaxManifestBytes {
		return nil, fmt.Errorf("%d bytes is too large: %w", desc.Size, errs.Invalid)
	}
	r, err := b.openRemote(ctx, im, desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	raw, err := io.ReadAll(io.LimitReader(r, oci.MaxManifestBytes))
	if err != nil {
		return nil, err
	}
	_, err = b.Blobs.Put(ctx, raw)
	return raw, err
}

// openRemote reads a blob of a base image from where the image is kept.
func (b *builder) openRemote(ctx context.Context, im *baseImage, desc oci.Descriptor) (io.ReadCloser, error) {
	if im.in != nil {
		return im.in.Open(ctx, desc.Digest)
	}
	return b.Registry.Blob(ctx, im.ref, desc)
}
