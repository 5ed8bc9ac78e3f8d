package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"slipway/internal/build"
	"slipway/internal/build/tree"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/snapshot"
)

// leave makes a layer of what a COPY or WORKDIR gathered; nil when that is nothing. Its blob is packed straight from
// the sources while the build goes on; its folder, if somebody will read one, is written meanwhile.
func (b *builder) leave(ctx context.Context, c *tree.Copy, key, alias oci.Digest, st *stack, folder bool) (*rung, error) {
	if c.Len() == 0 {
		return nil, b.remember(ctx, build.Record{Created: b.created()}, st, key, alias)
	}
	r := &rung{created: b.created(), packed: newFuture[packed]()}
	var draft snapshot.Draft
	if folder {
		var err error
		if draft, err = b.begin(ctx); err != nil {
			return nil, err
		}
		r.folder = draft.ID()
	}
	if err := b.pack(ctx, r, draft, c.Files(), st, key, alias); err != nil {
		return nil, err
	}
	if folder {
		if err := layer.Place(ctx, draft.Dir(), c.Files(), layer.PlaceOptions{Epoch: b.req.Epoch}); err != nil {
			return nil, err
		}
	}
	r.index = layer.NewIndex(entries(c.Files()))
	return r, nil
}

// entries drops the contents of files.
func entries(files iter.Seq2[layer.File, error]) []layer.Entry {
	var out []layer.Entry
	for f := range files {
		out = append(out, f.Entry)
	}
	return out
}

// packDraft makes a layer of what a process left in its upper directory; nil when that is nothing.
func (b *builder) packDraft(ctx context.Context, draft snapshot.Draft, key oci.Digest, st *stack) (*rung, error) {
	empty, err := isEmpty(ctx, draft.Dir())
	if err != nil {
		return nil, err
	}
	if empty {
		if err := draft.Discard(); err != nil {
			return nil, err
		}
		return nil, b.remember(ctx, build.Record{Created: b.created()}, st, key, "")
	}
	r := &rung{created: b.created(), packed: newFuture[packed](), folder: draft.ID()}
	return r, b.pack(ctx, r, draft, layer.Upper(ctx, draft.Dir()), st, key, "")
}

func isEmpty(ctx context.Context, dir string) (bool, error) {
	for f, err := range layer.Upper(ctx, dir) {
		if err != nil {
			return false, err
		}
		if f.Path != "." {
			return false, nil
		}
	}
	return true, nil
}

// pack starts to compress a layer. The rung's future is set when the blob is in the store; the layer is remembered
// under its keys when it is also known what it stands on.
func (b *builder) pack(ctx context.Context, r *rung, draft snapshot.Draft, files iter.Seq2[layer.File, error], st *stack, keys ...oci.Digest) error {
	w, err := b.Blobs.Create(ctx)
	if err != nil {
		return err
	}
	r.writer = w
	b.group.Go(func() (err error) {
		defer func() { err = errors.Join(err, w.Close()) }()
		p, err := b.compress(ctx, w, files)
		r.packed.set(p, err)
		if err != nil {
			return err
		}
		if draft != nil {
			if err := b.publish(ctx, draft, p.diffID); err != nil {
				return err
			}
		}
		return b.remember(ctx, build.Record{Layer: &p.desc, DiffID: p.diffID, Created: r.created}, st, keys...)
	})
	return nil
}

func (b *builder) compress(ctx context.Context, w blobWriter, files iter.Seq2[layer.File, error]) (packed, error) {
	select {
	case b.packs <- struct{}{}:
	case <-ctx.Done():
		return packed{}, context.Cause(ctx)
	}
	defer func() { <-b.packs }()
	res, err := layer.Write(ctx, w, files, layer.Options{Compression: b.req.Compression, Epoch: b.req.Epoch})
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	if _, err := w.Commit(ctx, res.Descriptor.Digest); err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	b.count(func(n *build.Stats) { n.LayersPacked++; n.BytesPacked += res.Descriptor.Size })
	return packed{desc: res.Descriptor, diffID: res.DiffID}, nil
}

type blobWriter interface {
	io.Writer
	Commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error)
}

// publish makes a draft known under its layer, for other builds.
func (b *builder) publish(ctx context.Context, draft snapshot.Draft, diffID oci.Digest) error {
	return draft.Publish(ctx, diffID)
}

// remember stores what an operation left on a state, once that state has a name.
func (b *builder) remember(ctx context.Context, r build.Record, st *stack, keys ...oci.Digest) error {
	b.group.Go(func() error {
		below, err := st.chainID(ctx)
		if err != nil {
			return err
		}
		r.Below = below
		for _, k := range keys {
			if k == "" {
				continue
			}
			if err := b.Cache.Store(ctx, k, r); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}
