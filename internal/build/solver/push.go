package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// pusher sends layers to the repositories of a build's tags as they come about.
type pusher struct {
	b     *builder
	repos []ref.Ref // one for each repository
	tags  []ref.Ref

	mu   sync.Mutex
	sent map[*rung]*future[struct{}]
}

func newPusher(b *builder, tags []ref.Ref) *pusher {
	p := &pusher{b: b, tags: tags, sent: map[*rung]*future[struct{}]{}}
	for _, t := range tags {
		if !slices.ContainsFunc(p.repos, func(r ref.Ref) bool { return r.Name() == t.Name() }) {
			p.repos = append(p.repos, t)
		}
	}
	return p
}

// layer begins to send a layer to every repository.
func (p *pusher) layer(r *rung) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.sent[r]; ok {
		return
	}
	f := newFuture[struct{}]()
	p.sent[r] = f
	p.b.group.Go(func() error {
		err := p.send(p.b.group.ctx, r)
		f.set(struct{}{}, err)
		return err
	})
}

func (p *pusher) send(ctx context.Context, r *rung) error {
	if r.writer == nil { // not being packed: there is nothing to follow, only a blob to wait for
		if _, err := r.packed(ctx); err != nil {
			return err
		}
	}
	src := p.source(ctx, r)
	for _, repo := range p.repos {
		pushed, err := p.b.Registry.PushBlob(ctx, repo, src)
		if err != nil {
			return fmt.Errorf("push %s: %w", repo.Familiar(), err)
		}
		p.counted(pushed)
	}
	return nil
}

func (p *pusher) counted(pushed registry.Pushed) {
	p.b.count(func(n *build.Stats) {
		switch {
		case pushed.Existed:
			n.BlobsExisting++
		case pushed.Mounted:
			n.BlobsMounted++
		default:
			n.BlobsPushed++
			n.BytesPushed += pushed.Bytes
		}
	})
}

// source is where the registry client takes a layer from: the store, the packing under way, or the base image's own
// registry when the layer was never needed here.
func (p *pusher) source(ctx context.Context, r *rung) registry.Source {
	src := registry.Source{
		Descriptor: func(ctx context.Context) (oci.Descriptor, error) {
			v, err := r.packed(ctx)
			return v.desc, err
		},
		Known: r.blob.ready,
		Open: func(offset int64) (io.ReadCloser, error) {
			if !r.blob.ready() {
				return r.writer.Follow(offset), nil
			}
			return p.openAt(ctx, r, offset)
		},
	}
	if r.base != nil && !r.base.warm {
		src.MountFrom = []ref.Ref{r.base.ref}
	}
	return src
}

func (p *pusher) openAt(ctx context.Context, r *rung, offset int64) (io.ReadCloser, error) {
	v, err := r.packed(ctx)
	if err != nil {
		return nil, err
	}
	f, err := p.b.openLayer(ctx, r, v.desc)
	if err != nil || offset == 0 {
		return f, err
	}
	if s, ok := f.(io.Seeker); ok {
		_, err = s.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, f, offset)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// image waits for the layers and sends config and manifest, which make the image appear.
func (p *pusher) image(ctx context.Context, im *build.Image) error {
	for _, repo := range p.repos {
		pushed, err := p.b.Registry.PushBlob(ctx, repo, registry.Source{
			Descriptor: func(context.Context) (oci.Descriptor, error) { return im.Config, nil },
			Known:      func() bool { return true },
			Open: func(offset int64) (io.ReadCloser, error) {
				return io.NopCloser(newReader(im.RawConfig[offset:])), nil
			},
		})
		if err != nil {
			return fmt.Errorf("push %s: %w", repo.Familiar(), err)
		}
		p.counted(pushed)
	}
	p.mu.Lock()
	waits := make([]*future[struct{}], 0, len(p.sent))
	for _, f := range p.sent {
		waits = append(waits, f)
	}
	p.mu.Unlock()
	for _, f := range waits {
		if _, err := f.wait(ctx); err != nil {
			return err
		}
	}
	for _, t := range p.tags {
		if _, err := p.b.Registry.PushManifest(ctx, t, im.Manifest.MediaType, im.Raw); err != nil {
			return fmt.Errorf("push %s: %w", t.Familiar(), err)
		}
		if t.Tag() == "" {
			continue // part of an index, which is the result
		}
		p.b.events.send(build.Event{
			Kind: build.Result, Digest: im.Manifest.Digest.String(), Text: t.Familiar() + "@" + im.Manifest.Digest.String(),
		})
	}
	return nil
}
