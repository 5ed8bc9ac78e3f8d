package solver

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
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
		p.b.counted(pushed)
	}
	p.mu.Lock()
	waits := slices.Clone(p.sent)
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
