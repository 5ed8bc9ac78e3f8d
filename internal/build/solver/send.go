package solver

import (
	"context"
	"errors"
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

// sender brings layers to repositories and caches, each once, as they come about. What goes to several repositories of
// a registry is sent to the first and mounted into the others.
type sender struct {
	b *builder

	mu   sync.Mutex
	sent map[sendKey]*future[struct{}]
	last map[sendKey]sending // to a registry
}

// sendKey is a layer and where it goes: a repository, a folder, or a registry as a whole.
type sendKey struct {
	layer *rung
	to    string
}

// sending is a layer on its way into one repository of a registry after others.
type sending struct {
	done  *future[struct{}]
	repos []ref.Ref
}

// destination is where a layer goes, and why, for the message when it does not arrive.
type destination struct {
	place remote.Place
	what  string // "push", "write cache"
	// must stops the build at once when the layer does not arrive; else whoever waits learns of it.
	must bool
}

func newSender(b *builder) *sender {
	return &sender{b: b, sent: map[sendKey]*future[struct{}]{}, last: map[sendKey]sending{}}
}

// start begins to bring a layer somewhere, unless that has begun.
func (s *sender) start(r *rung, to destination) *future[struct{}] {
	repo := to.place.Ref()
	name := repo.Name()
	if repo == (ref.Ref{}) {
		name = to.place.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.sent[sendKey{r, name}]; ok {
		return f
	}
	f := newFuture[struct{}]()
	s.sent[sendKey{r, name}] = f
	before := s.last[sendKey{r, repo.Registry()}]
	if repo != (ref.Ref{}) {
		s.last[sendKey{r, repo.Registry()}] = sending{f, append(slices.Clip(before.repos), repo)}
	}
	s.b.group.Go(func() error {
		err := s.send(s.b.group.ctx, r, to.place, before)
		if err != nil {
			err = fmt.Errorf("%s %s: %w", to.what, to.place, err)
		}
		f.set(struct{}{}, err)
		if to.must {
			return err
		}
		return nil
	})
	return f
}

func (s *sender) send(ctx context.Context, r *rung, to remote.Place, before sending) (err error) {
	if before.done != nil {
		if _, err := before.done.wait(ctx); err != nil {
			before.repos = nil // it is sent once more
		}
	}
	if r.writer == nil { // it may have to be packed first: then it is known and may be there already
		if _, err := r.packed(ctx); err != nil {
			return err
		}
	}
	mounts := before.repos
	repo := to.Ref()
	if repo != (ref.Ref{}) && r.blob.ready() && r.blob.err == nil {
		known, err := s.b.Places.Of(repo.Registry(), r.blob.value.desc.Digest)
		if err != nil {
			return err
		}
		mounts = append(slices.Clip(mounts), known...)
	}
	pushed, err := to.Put(s.b.noticed(ctx), s.source(ctx, r, mounts))
	if err != nil {
		return err
	}
	s.b.counted(pushed)
	if repo == (ref.Ref{}) {
		return nil
	}
	return s.b.Places.Add(pushed.Descriptor.Digest, repo)
}

func (b *builder) counted(pushed registry.Pushed) {
	b.count(func(n *build.Stats) {
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

// source is where the registry client takes a layer from: another repository of the registry, the store, the packing
// under way, or the registry of the base image or the cache when the layer was never needed here.
func (s *sender) source(ctx context.Context, r *rung, mounts []ref.Ref) registry.Source {
	src := registry.Source{
		MountFrom: slices.Clone(mounts),
		Descriptor: func(ctx context.Context) (oci.Descriptor, error) {
			v, err := r.packed(ctx)
			return v.desc, err
		},
		Known: r.blob.ready,
		Open: func(offset int64) (io.ReadCloser, error) {
			if !r.blob.ready() {
				return r.writer.Follow(offset), nil
			}
			return s.openAt(ctx, r, offset)
		},
	}
	if r.base != nil && r.base.in == nil {
		src.MountFrom = append(src.MountFrom, r.base.ref)
	}
	src.MountFrom = append(src.MountFrom, s.b.imports.repositories(r)...)
	return src
}

func (s *sender) openAt(ctx context.Context, r *rung, offset int64) (io.ReadCloser, error) {
	v, err := r.packed(ctx)
	if err != nil {
		return nil, err
	}
	f, err := s.b.openLayer(ctx, r, v.desc)
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
