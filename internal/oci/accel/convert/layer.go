package convert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/docker/go-units"
	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// job is the conversion of one layer.
type job struct {
	*Converter
	r       Request
	sources []*source // up to this layer
	below   []Layer   // what came of those below, for formats that are stacked
	desc    oci.Descriptor
	diffID  oci.Digest
}

func (j *job) run(ctx context.Context) (Layer, error) {
	if j.r.Format.Is(j.desc) {
		return j.keep(ctx, Already)
	}
	if !isTar(j.desc.MediaType) {
		return j.unfit(ctx, fmt.Errorf("%s is no layer of files", j.desc.MediaType))
	}
	digests := make([]oci.Digest, len(j.sources))
	for i, s := range j.sources {
		digests[i] = s.desc.Digest
	}
	key := accel.Key(j.r.Format, digests)
	made, err := j.Cache.Lookup(ctx, key)
	if err == nil {
		return Layer{j.desc, made, Remembered}, j.push(ctx, made.Descriptor)
	}
	if !errors.Is(err, errs.NotFound) {
		return Layer{}, err
	}
	made, err = j.convert(ctx)
	if errors.Is(err, accel.ErrUnfit) {
		return j.unfit(ctx, err)
	}
	if err != nil {
		return Layer{}, err
	}
	return Layer{j.desc, made, Converted}, j.Cache.Store(ctx, key, made)
}

func isTar(mediaType string) bool {
	switch mediaType {
	case oci.MediaTypeLayer, oci.MediaTypeLayerGzip, oci.MediaTypeLayerZstd, oci.DockerLayer, oci.DockerLayerGzip, oci.DockerLayerZstd:
		return true
	}
	return false
}

// unfit leaves a layer as it is, where the format can live with that.
func (j *job) unfit(ctx context.Context, why error) (Layer, error) {
	if j.r.Format.Stacked() {
		return Layer{}, errs.Mark(fmt.Errorf("%s has no place for it: %w", j.r.Format.Name(), why), errs.Invalid)
	}
	j.r.Steps.Note("Layer " + j.desc.Digest.String() + " stays as it is: " + why.Error())
	return j.keep(ctx, Kept)
}

// keep puts the original's layer into the image.
func (j *job) keep(ctx context.Context, how string) (Layer, error) {
	l := Layer{j.desc, accel.Layer{Descriptor: j.desc, DiffID: j.diffID}, how}
	switch l.Descriptor.MediaType { // the new manifest is one of the OCI's
	case oci.DockerLayer:
		l.Descriptor.MediaType = oci.MediaTypeLayer
	case oci.DockerLayerGzip:
		l.Descriptor.MediaType = oci.MediaTypeLayerGzip
	case oci.DockerLayerZstd:
		l.Descriptor.MediaType = oci.MediaTypeLayerZstd
	}
	if j.r.From.Name() == j.r.To.Name() || len(j.desc.URLs) > 0 {
		return l, nil
	}
	_, err := j.Registry.PushBlob(ctx, j.r.To, registry.Source{
		MountFrom:  []ref.Ref{j.r.From},
		Descriptor: func(context.Context) (oci.Descriptor, error) { return j.desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			b, err := j.Registry.Blob(ctx, j.r.From, j.desc)
			if err == nil {
				_, err = io.CopyN(io.Discard, b, offset)
			}
			return b, err
		},
	})
	return l, err
}

// push sends a blob of the store.
func (j *job) push(ctx context.Context, d oci.Descriptor) error {
	_, err := j.Registry.PushBlob(ctx, j.r.To, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return d, nil },
		Open:       func(offset int64) (io.ReadCloser, error) { return j.openAt(ctx, d.Digest, offset) },
	})
	return err
}

func (c *Converter) openAt(ctx context.Context, d oci.Digest, offset int64) (io.ReadCloser, error) {
	f, err := c.Blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// convert converts the layer and sends what is written at the same time.
func (j *job) convert(ctx context.Context) (_ accel.Layer, err error) {
	step := j.r.Steps.Start("convert " + j.desc.Digest.String())
	var made accel.Layer
	defer func() {
		text := ""
		if err == nil {
			text = units.HumanSize(float64(j.desc.Size)) + " -> " + units.HumanSize(float64(made.Descriptor.Size))
		}
		step.End(text, err)
	}()
	top := j.sources[len(j.sources)-1]
	top.progress = func(n int64) { step.Progress(n, j.desc.Size) }
	w, err := j.Blobs.Create(ctx)
	if err != nil {
		return made, err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	sending := newSending(j.Converter, w)
	var g errgroup.Group
	g.Go(func() error {
		_, err := j.Registry.PushBlob(ctx, j.r.To, sending.source(ctx))
		if err != nil {
			fail(err)
		}
		return err
	})
	g.Go(func() error {
		l, err := j.write(ctx, w)
		if err != nil {
			fail(err) // before the sending can fail of it
		}
		made = l
		sending.end(l.Descriptor, err)
		return errors.Join(err, w.Close())
	})
	if err := g.Wait(); err != nil {
		return made, cmp.Or(context.Cause(ctx), err)
	}
	return made, nil
}

// write writes the converted layer into the store, once the original proved to be what it should.
func (j *job) write(ctx context.Context, w blob.Writer) (_ accel.Layer, err error) {
	stack := accel.Stack{Tars: []accel.Tar{j.sources[len(j.sources)-1].tar}}
	if j.r.Format.Stacked() {
		stack.Tars = nil
		for _, s := range j.sources {
			stack.Tars = append(stack.Tars, s.tar)
		}
		for _, l := range j.below {
			stack.Below = append(stack.Below, accel.Converted{Layer: l.Layer, Open: func(ctx context.Context) (accel.Blob, error) {
				return j.Blobs.Open(ctx, l.Descriptor.Digest)
			}})
		}
	}
	made, err := j.r.Format.Convert(ctx, w, stack)
	for _, s := range j.sources[len(j.sources)-len(stack.Tars):] {
		err = errors.Join(err, s.finish(err == nil))
	}
	if err != nil {
		return accel.Layer{}, err
	}
	_, err = w.Commit(ctx, made.Descriptor.Digest)
	return made, err
}

// sending is a layer that is sent while it is written.
type sending struct {
	c    *Converter
	w    blob.Writer
	done chan struct{}
	desc oci.Descriptor
	err  error
	over atomic.Bool
}

func newSending(c *Converter, w blob.Writer) *sending {
	return &sending{c: c, w: w, done: make(chan struct{})}
}

// end says what came of the writing.
func (s *sending) end(d oci.Descriptor, err error) {
	s.desc, s.err = d, err
	s.over.Store(true)
	close(s.done)
}

func (s *sending) source(ctx context.Context) registry.Source {
	return registry.Source{
		Known: s.over.Load,
		Descriptor: func(ctx context.Context) (oci.Descriptor, error) {
			select {
			case <-s.done:
				return s.desc, s.err
			case <-ctx.Done():
				return oci.Descriptor{}, context.Cause(ctx)
			}
		},
		Open: func(offset int64) (io.ReadCloser, error) {
			if s.over.Load() {
				if s.err != nil {
					return nil, s.err
				}
				return s.c.openAt(ctx, s.desc.Digest, offset)
			}
			return s.w.Follow(offset), nil
		},
	}
}
