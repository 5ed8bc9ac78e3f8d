package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/layer"
	"slipway/internal/snapshot"
)

// packed is a layer as an image names it.
type packed struct {
	desc   oci.Descriptor
	diffID oci.Digest
}

// rung is one layer of a stack, in whichever forms it exists.
type rung struct {
	// id stands for the layer's content in the identity of a stack: its diffID, or what its folder is published under
	// when it was made for its files alone.
	id *future[oci.Digest]
	// blob is the layer as an image needs it. Use packed, which begins the work when nobody has.
	blob *future[packed]
	// begin starts to pack the layer. Nil when that was done at once, or when the blob came from elsewhere.
	begin func()
	// writer is the blob while it is being packed: an upload follows it. Nil when the blob came from elsewhere.
	writer blob.Writer
	// base is the image the layer came with, when it did; its blob may have to be fetched.
	base *baseImage
	// folder holds the layer's files, when it was made in this build: "" until the layer is unpacked.
	folder snapshot.ID
	// index finds the layer's files without a folder. Nil when there is none.
	index *layer.Index
	// created is when the layer was made.
	created time.Time
}

// packed waits for the layer's blob, whose making it begins if need be.
func (r *rung) packed(ctx context.Context) (packed, error) {
	if r.begin != nil {
		r.begin()
	}
	return r.blob.wait(ctx)
}

// stack is a file system: layers, bottom first, and the history of how it came about.
type stack struct {
	rungs   []*rung
	history []oci.History
	created time.Time
}

// on returns a stack with one more layer. The receiver stays as it is: other stages may stand on it.
func (s *stack) on(r *rung) *stack {
	return &stack{rungs: append(slices.Clip(s.rungs), r), history: s.history, created: r.created}
}

// with returns a stack with one more line of history.
func (s *stack) with(h oci.History) *stack {
	return &stack{rungs: s.rungs, history: append(slices.Clip(s.history), h), created: s.created}
}

// identity stands for the stack's content, when every layer has its own.
func (s *stack) identity(ctx context.Context) (oci.Digest, error) {
	var id oci.Digest
	for _, r := range s.rungs {
		one, err := r.id.wait(ctx)
		if err != nil {
			return "", err
		}
		id = chain(id, one)
	}
	return id, nil
}

// folders unpacks what is not unpacked yet and returns the layers' folders, bottom first.
func (b *builder) folders(ctx context.Context, s *stack) ([]string, error) {
	ids, err := b.unpackAll(ctx, s, func(*rung) bool { return true })
	if err != nil {
		return nil, err
	}
	dirs := make([]string, len(ids))
	for i, id := range ids {
		dirs[i] = b.Snapshots.Dir(id)
	}
	return dirs, nil
}

// unpackAll makes folders of the layers that are needed, side by side. The ID of any other is "".
func (b *builder) unpackAll(ctx context.Context, s *stack, needed func(*rung) bool) ([]snapshot.ID, error) {
	pending := make([]*future[snapshot.ID], len(s.rungs))
	for i, r := range s.rungs {
		switch {
		case !needed(r):
			pending[i] = resolved(snapshot.ID(""))
		case r.folder != "":
			pending[i] = resolved(r.folder)
		default:
			var err error
			if pending[i], err = b.unpackRung(ctx, &stack{rungs: s.rungs[:i+1]}); err != nil {
				return nil, err
			}
		}
	}
	ids := make([]snapshot.ID, len(pending))
	for i, f := range pending {
		id, err := f.wait(ctx)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

// unpackRung begins to make a folder of a stack's topmost layer.
func (b *builder) unpackRung(ctx context.Context, s *stack) (*future[snapshot.ID], error) {
	key, err := s.identity(ctx)
	if err != nil {
		return nil, err
	}
	top := len(s.rungs) - 1
	r := s.rungs[top]
	p, err := r.packed(ctx)
	if err != nil {
		return nil, err
	}
	return b.unpack.start(b.group, key, func() (snapshot.ID, error) {
		return b.unpackLayer(b.group.ctx, r, p, key, &stack{rungs: s.rungs[:top]})
	}), nil
}

// view shows a stack without mounting it. Layers that exist as folders are read there, others through their index;
// what has neither is unpacked.
func (b *builder) view(ctx context.Context, s *stack) (*snapshot.View, error) {
	ids, err := b.unpackAll(ctx, s, func(r *rung) bool { return r.index == nil })
	if err != nil {
		return nil, err
	}
	layers := make([]snapshot.Layer, len(ids))
	for i, id := range ids {
		layers[i].Index = s.rungs[i].index
		if id == "" {
			id = s.rungs[i].folder
		}
		if id != "" {
			layers[i].Dir = b.Snapshots.Dir(id)
		}
	}
	return snapshot.NewView(layers...), nil
}

// fullView shows a stack whose every file can be read.
func (b *builder) fullView(ctx context.Context, s *stack) (*snapshot.View, error) {
	dirs, err := b.folders(ctx, s)
	if err != nil {
		return nil, err
	}
	return snapshot.NewView(folderLayers(dirs)...), nil
}

// unpackLayer makes a layer's folder from its blob, unless this machine has it already. A layer that leans on those
// below it (a folder it never lists, a hard link out of it) is kept under the identity of its stack, since it looks
// different elsewhere; every other one under its diffID, for any stack.
func (b *builder) unpackLayer(ctx context.Context, r *rung, p packed, stackID oci.Digest, under *stack) (snapshot.ID, error) {
	for _, key := range []oci.Digest{p.diffID, stackID} {
		if id, err := b.findFolder(ctx, key); !errors.Is(err, errs.NotFound) {
			return id, err
		}
	}
	unlock, err := b.Lock(ctx, p.diffID) // each layer once per machine
	if err != nil {
		return "", err
	}
	defer unlock()
	if id, err := b.findFolder(ctx, p.diffID); err == nil {
		return id, nil
	}
	name := "layer " + short(p.desc.Digest)
	if r.base != nil {
		name = "unpack " + r.base.ref.Familiar() + " " + short(p.desc.Digest)
	}
	st := b.events.start(name)
	id, err := b.unpackBlob(ctx, st, r, p, stackID, under)
	st.End("", err)
	if err != nil {
		of := p.desc.Digest.String()
		if r.base != nil {
			of += " of " + r.base.ref.Familiar()
		}
		return "", fmt.Errorf("unpack layer %s: %w", of, err)
	}
	return id, b.hold(ctx, id)
}

func (b *builder) unpackBlob(ctx context.Context, st *step, r *rung, p packed, stackID oci.Digest, under *stack) (snapshot.ID, error) {
	src, err := b.openLayer(ctx, r, p.desc)
	if err != nil {
		return "", err
	}
	draft, applied, err := b.apply(ctx, st, src, p, layer.ApplyOptions{})
	if err != nil {
		return "", err
	}
	if !applied.Dependent() {
		return draft.ID(), draft.Publish(ctx, p.diffID)
	}
	if err := draft.Discard(); err != nil {
		return "", err
	}
	below, err := b.below(ctx, under)
	if err != nil {
		return "", err
	}
	if src, err = b.openLayer(ctx, r, p.desc); err != nil {
		return "", err
	}
	draft, _, err = b.apply(ctx, st, src, p, layer.ApplyOptions{Below: below})
	if err != nil {
		return "", err
	}
	return draft.ID(), draft.Publish(ctx, stackID)
}

// below looks files up in the layers under one.
func (b *builder) below(ctx context.Context, under *stack) (func(string) (layer.Entry, io.ReadCloser, error), error) {
	v, err := b.fullView(ctx, under)
	if err != nil {
		return nil, err
	}
	return func(p string) (layer.Entry, io.ReadCloser, error) {
		e, err := v.Lstat(p)
		if err != nil || !e.Mode.IsRegular() {
			return e, nil, err
		}
		content, err := v.Open(p)
		return e, content, err
	}, nil
}

// apply unpacks a compressed layer into a new draft and checks its diffID.
func (b *builder) apply(ctx context.Context, st *step, src io.ReadCloser, p packed, opts layer.ApplyOptions) (_ snapshot.Draft, _ layer.Applied, err error) {
	defer func() { err = errors.Join(err, src.Close()) }()
	b.unpacks <- struct{}{}
	defer func() { <-b.unpacks }()
	draft, err := b.begin(ctx)
	if err != nil {
		return nil, layer.Applied{}, err
	}
	counted := &counter{r: src, step: st, total: p.desc.Size}
	tar, err := layer.Decompress(counted)
	if err != nil {
		return nil, layer.Applied{}, err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	opts.MaxBytes = maxLayerBytes
	applied, err := layer.Apply(ctx, draft.Dir(), tar, opts)
	if err != nil {
		return nil, layer.Applied{}, err
	}
	if applied.DiffID != p.diffID {
		return nil, layer.Applied{}, fmt.Errorf("the content is %s, the config says %s: %w", applied.DiffID, p.diffID, errs.Corrupt)
	}
	if _, err := io.Copy(io.Discard, counted); err != nil { // what follows the tar is part of the digest
		return nil, layer.Applied{}, err
	}
	return draft, applied, nil
}

// maxLayerBytes is more than any layer holds. A hole in a file takes no room, but its zeros have to be counted: it bounds
// how long a few bytes of a stranger's can keep a processor busy, to minutes.
const maxLayerBytes = 1 << 40

// counter reports how much of a layer has been read, not more often than a person can see.
type counter struct {
	r     io.Reader
	step  *step
	total int64
	n     int64
	told  int64
}

const progressEvery = 4 << 20

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n-c.told >= progressEvery {
		c.told = c.n
		c.step.Progress(c.n, c.total)
	}
	return n, err
}

// openLayer reads a layer's blob: from the store, or from where its image or record is, into the store on the way. What a folder
// of warmed images has is not copied.
func (b *builder) openLayer(ctx context.Context, r *rung, desc oci.Descriptor) (io.ReadCloser, error) {
	if r.base != nil && r.base.in != nil {
		return r.base.in.Open(ctx, desc.Digest)
	}
	f, err := b.Blobs.Open(ctx, desc.Digest)
	if err == nil || !errors.Is(err, errs.NotFound) {
		return f, err
	}
	var remote io.ReadCloser
	if r.base != nil {
		remote, err = b.openRemote(ctx, r.base, desc)
	} else {
		remote, err = b.imports.open(ctx, desc)
	}
	if err != nil {
		return nil, err
	}
	w, err := b.createBlob(ctx)
	if err != nil {
		return nil, errors.Join(err, remote.Close())
	}
	return &teeBlob{ctx: ctx, src: remote, w: w, want: desc.Digest}, nil
}

// teeBlob stores a blob while it is read. Only a blob read to its verified end is kept.
type teeBlob struct {
	ctx  context.Context //nolint:containedctx // of the read under way
	src  io.ReadCloser
	w    blob.Writer
	want oci.Digest
	kept bool
}

func (t *teeBlob) Read(p []byte) (int, error) {
	n, err := t.src.Read(p)
	if n > 0 {
		if _, err := t.w.Write(p[:n]); err != nil {
			return n, err
		}
	}
	if errors.Is(err, io.EOF) && !t.kept {
		if _, err := t.w.Commit(t.ctx, t.want); err != nil {
			return n, err
		}
		t.kept = true
	}
	return n, err
}

func (t *teeBlob) Close() error { return errors.Join(t.src.Close(), t.w.Close()) }

// findFolder looks a folder up and holds it for the time of the build, or returns errs.NotFound: also when somebody is
// removing it.
func (b *builder) findFolder(ctx context.Context, key oci.Digest) (snapshot.ID, error) {
	id, err := b.Snapshots.Lookup(ctx, key)
	if err != nil {
		return "", err
	}
	if err := b.hold(ctx, id); err != nil {
		if errors.Is(err, errs.Conflict) {
			err = errs.Mark(err, errs.NotFound)
		}
		return "", err
	}
	return id, nil
}

// hold keeps a folder from being removed while the build runs.
func (b *builder) hold(ctx context.Context, id snapshot.ID) error {
	b.holdMu.Lock()
	defer b.holdMu.Unlock()
	if b.held[id] != nil {
		return nil
	}
	release, err := b.Snapshots.Hold(ctx, id)
	if err != nil {
		return err
	}
	b.held[id] = release
	return nil
}

// imageStack is the file system of a base image.
func (b *builder) imageStack(im *baseImage) *stack {
	s := &stack{history: im.config.History}
	if im.config.Created != nil {
		s.created = *im.config.Created
	}
	for i, desc := range im.manifest.Layers {
		s.rungs = append(s.rungs, &rung{
			id:      resolved(im.config.RootFS.DiffIDs[i]),
			blob:    resolved(packed{desc: desc, diffID: im.config.RootFS.DiffIDs[i]}),
			base:    im,
			created: s.created,
		})
	}
	return s
}

func short(d oci.Digest) string {
	if e := d.Encoded(); len(e) > 12 {
		return e[:12]
	}
	return d.String()
}

// stamp is the time that a step which makes no layer gets in the history: that of the state it was made on, so that the
// same build gives the same config.
func stamp(s *stack) *time.Time {
	if s.created.IsZero() {
		return nil
	}
	t := s.created
	return &t
}
