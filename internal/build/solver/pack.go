package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/tree"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/snapshot"
)

// leave makes a layer of what a COPY or WORKDIR gathered; nil when that is nothing. Its blob is packed straight from
// the sources while the build goes on; its folder, if somebody will read one, is written meanwhile.
func (b *builder) leave(ctx context.Context, c *tree.Copy, why purpose, st *stack) (*rung, error) {
	if c.Len() == 0 {
		b.remember(build.Record{Created: b.created(), Name: why.name()}, st, why.keys...)
		return nil, nil
	}
	r := &rung{created: b.created()}
	if !why.folder {
		if err := b.pack(ctx, r, nil, c.Files(), st, why); err != nil {
			return nil, err
		}
		r.index = layer.NewIndex(c.Entries())
		return r, nil
	}
	draft, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	r.folder = draft.ID()
	if why.blob {
		if err := b.pack(ctx, r, draft, c.Files(), st, why); err != nil {
			return nil, err
		}
	}
	if err := layer.Place(ctx, draft.Dir(), c.Files(), layer.PlaceOptions{Epoch: b.epoch(why)}); err != nil {
		return nil, err
	}
	r.index = layer.NewIndex(c.Entries())
	if !why.blob {
		return r, b.keep(ctx, r, draft, st, why)
	}
	return r, nil
}

// keepDraft makes a layer of what a process left in its upper directory; nil when that is nothing.
func (b *builder) keepDraft(ctx context.Context, draft snapshot.Draft, why purpose, st *stack) (*rung, error) {
	if err := dateFolder(ctx, draft.Dir(), b.epoch(why)); err != nil {
		return nil, err
	}
	empty, err := isEmpty(ctx, draft.Dir())
	if err != nil {
		return nil, err
	}
	if empty {
		if err := draft.Discard(); err != nil {
			return nil, err
		}
		b.remember(build.Record{Created: b.created(), Name: why.name()}, st, why.keys...)
		return nil, nil
	}
	r := &rung{created: b.created(), folder: draft.ID()}
	if why.blob {
		return r, b.pack(ctx, r, draft, layer.Upper(ctx, draft.Dir()), st, why)
	}
	return r, b.keep(ctx, r, draft, st, why)
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

// keep remembers a layer by its folder alone. Should the image turn out to need its blob, that is made then.
func (b *builder) keep(ctx context.Context, r *rung, draft snapshot.Draft, st *stack, why purpose) error {
	key := digest.FromString("folder " + string(draft.ID()))
	if err := draft.Publish(ctx, key); err != nil {
		return err
	}
	rec := build.Record{Folder: key, Created: r.created, Name: why.name()}
	b.packLater(r, rec, why.keys[0], st.identity)
	b.remember(rec, st, why.keys...)
	return nil
}

// recorded is a layer that a cache remembers.
func (b *builder) recorded(ctx context.Context, rec build.Record, key oci.Digest) (*rung, error) {
	r := &rung{id: resolved(rec.Identity()), created: b.recordedAt(rec.Created)}
	if rec.Folder != "" {
		if id, err := b.findFolder(ctx, rec.Folder); err == nil {
			r.folder = id
		} else if rec.Layer == nil {
			return nil, fmt.Errorf("layer folder %s: %w", rec.Folder, err)
		}
	}
	if rec.Layer == nil {
		b.packLater(r, rec, key, func(context.Context) (oci.Digest, error) { return rec.Below, nil })
		return r, nil
	}
	r.blob = resolved(packed{desc: *rec.Layer, diffID: rec.DiffID})
	return r, nil
}

// packLater arranges for a layer to be packed from its folder when somebody asks for its blob. The record of key then
// names the blob, too.
func (b *builder) packLater(r *rung, rec build.Record, key oci.Digest, below func(context.Context) (oci.Digest, error)) {
	r.id, r.blob = resolved(rec.Folder), newFuture[packed]()
	r.begin = sync.OnceFunc(func() {
		b.group.Go(func() error {
			w, err := b.createBlob(b.group.ctx)
			if err != nil {
				r.blob.set(packed{}, err)
				return err
			}
			p, err := b.compress(b.group.ctx, w, layer.Upper(b.group.ctx, b.Snapshots.Dir(r.folder)), nil) // which is dated
			err = errors.Join(err, w.Close())
			r.blob.set(p, err)
			if err != nil {
				return err
			}
			if rec.Below, err = below(b.group.ctx); err != nil {
				return err
			}
			rec.Layer, rec.DiffID = &p.desc, p.diffID
			return b.Cache.Store(b.group.ctx, key, rec)
		})
	})
}

// pack starts to compress a layer. The rung's blob is set when it is in the store; the layer is remembered under its
// keys when it is also known what it stands on.
func (b *builder) pack(ctx context.Context, r *rung, draft snapshot.Draft, files iter.Seq2[layer.File, error], st *stack, why purpose) error {
	w, err := b.createBlob(ctx)
	if err != nil {
		return err
	}
	r.writer, r.blob, r.id = w, newFuture[packed](), newFuture[oci.Digest]()
	b.group.Go(func() (err error) {
		defer func() { err = errors.Join(err, w.Close()) }()
		p, err := b.compress(b.group.ctx, w, files, b.epoch(why))
		if why.step != nil {
			err = b.at(why.step, err)
		}
		if err != nil {
			b.group.fail(err) // before those who wait for the layer can
		}
		r.blob.set(p, err)
		r.id.set(p.diffID, err)
		if err != nil {
			return err
		}
		if draft != nil {
			if err := draft.Publish(b.group.ctx, p.diffID); err != nil {
				return err
			}
		}
		b.remember(build.Record{Layer: &p.desc, DiffID: p.diffID, Created: r.created, Name: why.name()}, st, why.keys...)
		return nil
	})
	return nil
}

func (b *builder) compress(ctx context.Context, w blobWriter, files iter.Seq2[layer.File, error], epoch *time.Time) (packed, error) {
	select {
	case b.packs <- struct{}{}:
	case <-ctx.Done():
		return packed{}, context.Cause(ctx)
	}
	defer func() { <-b.packs }()
	desc, diffID, err := b.write(ctx, w, files, epoch)
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	if _, err := w.Commit(ctx, desc.Digest); err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	b.count(func(n *build.Stats) { n.LayersPacked++; n.BytesPacked += desc.Size })
	return packed{desc: desc, diffID: diffID}, nil
}

type blobWriter interface {
	io.Writer
	Commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error)
}

// remember stores what an operation left on a state, once that state has an identity.
func (b *builder) remember(r build.Record, st *stack, keys ...oci.Digest) {
	b.group.Go(func() error {
		below, err := st.identity(b.group.ctx)
		if err != nil {
			return err
		}
		r.Below = below
		for _, k := range keys {
			if err := b.Cache.Store(b.group.ctx, k, r); err != nil {
				return err
			}
		}
		return nil
	})
}
