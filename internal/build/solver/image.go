package solver

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/oci"
)

// finish puts the image together from the target's stack, writes the outputs and pushes it.
func (b *builder) finish(ctx context.Context, st *stack) (*build.Image, error) {
	if !b.wantsImage() {
		return &build.Image{}, b.output(ctx, st, nil)
	}
	st, err := b.squash(ctx, st)
	if err != nil {
		return nil, err
	}
	im, err := b.assemble(ctx, st)
	if err != nil {
		return nil, err
	}
	if err := b.keepLayers(ctx, st); err != nil {
		return nil, err
	}
	if err := b.attest(ctx, st, im); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.output(ctx, st, im) })
	if b.push != nil {
		g.Go(func() error {
			ev := b.events.start("push " + b.push.tags[0].Familiar())
			err := b.push.image(ctx, im)
			ev.End("", err)
			return err
		})
	}
	return im, g.Wait()
}

// keepLayers fetches what the store lacks of the image, when the request asks for it.
func (b *builder) keepLayers(ctx context.Context, st *stack) error {
	if !b.req.Keep {
		return nil
	}
	for _, r := range st.rungs {
		p, err := r.packed(ctx)
		if err != nil {
			return err
		}
		if _, err := b.Blobs.Stat(ctx, p.desc.Digest); err == nil {
			continue
		}
		if err := b.fetchLayer(ctx, r, p.desc); err != nil {
			return fmt.Errorf("fetch layer %s: %w", p.desc.Digest, err)
		}
	}
	return nil
}

func (b *builder) fetchLayer(ctx context.Context, r *rung, desc oci.Descriptor) (err error) {
	src, err := b.openLayer(ctx, r, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	_, err = io.Copy(io.Discard, src)
	return err
}

func (b *builder) assemble(ctx context.Context, st *stack) (*build.Image, error) {
	config := b.graph.Target.Config
	config.History = st.history
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = nil
	config.Created = stamp(st)
	if b.req.Epoch != nil {
		config.Created = b.req.Epoch
	}
	im := &build.Image{}
	for _, r := range st.rungs {
		p, err := r.packed(ctx)
		if err != nil {
			return nil, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, p.diffID)
		desc, err := b.req.Shape.layer(p.desc)
		if err != nil {
			return nil, err
		}
		im.Layers = append(im.Layers, desc)
	}
	var err error
	if im.RawConfig, err = oci.Marshal(config); err != nil {
		return nil, err
	}
	im.Config = oci.Describe(b.req.Shape.configType(), im.RawConfig)
	layers := im.Layers
	if layers == nil {
		layers = []oci.Descriptor{} // the specification wants a list, even of nothing
	}
	shape := b.req.Shape
	if shape.Annotations, err = b.annotations(st); err != nil {
		return nil, err
	}
	if im.Raw, err = oci.Marshal(shape.manifest(im.Config, layers)); err != nil {
		return nil, err
	}
	im.Manifest = oci.DescribeManifest(im.Raw)
	im.Manifest.Platform = &config.Platform
	im.Manifest.Annotations = b.req.Shape.DescriptorAnnotations
	for _, data := range [][]byte{im.RawConfig, im.Raw} {
		if _, err := b.Blobs.Put(ctx, data); err != nil {
			return nil, err
		}
	}
	return im, nil
}
