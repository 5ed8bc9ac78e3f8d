package solver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// pusher sends layers to the repositories of a build's tags as they come about, and the image when it is whole.
type pusher struct {
	b     *builder
	repos []ref.Ref // one for each repository
	tags  []ref.Ref

	mu   sync.Mutex
	sent []*future[struct{}]
}

func newPusher(b *builder, tags []ref.Ref) *pusher {
	p := &pusher{b: b, tags: tags}
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
	for _, repo := range p.repos {
		to := destination{place: remote.NewRegistry(p.b.Registry, repo), what: "push", must: true}
		p.sent = append(p.sent, p.b.sender.start(r, to))
	}
}

// image waits for the layers and sends config and manifest, which make the image appear.
func (p *pusher) image(ctx context.Context, im *build.Image) error {
	g, gctx := errgroup.WithContext(p.b.noticed(ctx))
	for _, repo := range p.repos {
		g.Go(func() error {
			pushed, err := p.b.Registry.PushBlob(gctx, repo, bytesSource(im.Config, im.RawConfig))
			if err != nil {
				return fmt.Errorf("push %s: %w", repo.Familiar(), err)
			}
			p.b.counted(pushed)
			return nil
		})
	}
	p.mu.Lock()
	waits := slices.Clone(p.sent)
	p.mu.Unlock()
	for _, f := range waits {
		g.Go(func() error {
			_, err := f.wait(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := p.b.pushTags(ctx, p.tags, im, p.b.events); err != nil {
		return err
	}
	return p.b.pushAttached(ctx, p.repos, im)
}

// noticed is a context whose requests tell of tries that failed.
func (b *builder) noticed(ctx context.Context) context.Context {
	return registry.WithNotice(ctx, b.events.note)
}

// bytesSource is a blob in memory.
func bytesSource(d oci.Descriptor, data []byte) registry.Source {
	return registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return d, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	}
}

// PushTags makes tags point at an image or index whose parts are in their repositories, all at once. A reference
// without a tag gets the manifest under its digest.
func (s *Solver) PushTags(ctx context.Context, tags []ref.Ref, im *build.Image, sink build.Sink) error {
	return s.pushTags(ctx, tags, im, newEvents(sink, s.Now))
}

func (s *Solver) pushTags(ctx context.Context, tags []ref.Ref, im *build.Image, ev *events) error {
	g, gctx := errgroup.WithContext(registry.WithNotice(ctx, ev.note))
	for _, t := range tags {
		g.Go(func() error {
			if err := s.pushTag(gctx, t, im, ev); err != nil {
				return fmt.Errorf("push %s: %w", t.Familiar(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, t := range tags {
		if t.Tag() == "" {
			continue // part of an index, which is the result
		}
		ev.send(build.Event{
			Kind: build.Result, Digest: im.Manifest.Digest.String(), Text: t.Familiar() + "@" + im.Manifest.Digest.String(),
		})
	}
	return nil
}

// pushTag makes one tag point at an image. A registry that lets no tag move may refuse even to leave it where it is:
// then it is where it should be.
func (s *Solver) pushTag(ctx context.Context, t ref.Ref, im *build.Image, ev *events) error {
	_, err := s.Registry.PushManifest(ctx, t, im.Manifest.MediaType, im.Raw)
	if !errors.Is(err, errs.Exists) {
		return err
	}
	there, _, resolved := s.Registry.Resolve(ctx, t)
	if resolved != nil || there.Digest != im.Manifest.Digest {
		return err
	}
	ev.note(t.Familiar() + " is immutable, and is this image already")
	return nil
}
