package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/snapshot"
)

// squash makes one layer of those that a stack adds to its base image. What one of them made and another deleted is in
// none, not even by name. The layer is remembered like the result of an operation.
func (b *builder) squash(ctx context.Context, st *stack) (*stack, error) {
	n, lines := st.base()
	base, own := &stack{rungs: st.rungs[:n]}, &stack{rungs: st.rungs[n:]}
	if !b.req.Shape.Squash || len(own.rungs) < 2 {
		b.pushSquashed(own.rungs...)
		return st, nil
	}
	r, err := b.squashed(ctx, base, own, st)
	if err != nil {
		return nil, fmt.Errorf("squash: %w", err)
	}
	out := &stack{rungs: append(slices.Clip(base.rungs), r), created: st.created}
	for i, h := range st.history {
		h.EmptyLayer = h.EmptyLayer || i >= lines
		out.history = append(out.history, h)
	}
	h := oci.History{CreatedBy: "slipway build --squash", Comment: fmt.Sprintf("%d layers in one", len(own.rungs)), Created: stamp(st)}
	b.pushSquashed(r)
	return out.with(h), nil
}

// pushSquashed begins to push what a squash made, or left alone.
func (b *builder) pushSquashed(rungs ...*rung) {
	if b.push == nil || !b.req.Shape.Squash {
		return
	}
	for _, r := range rungs {
		b.push.layer(r)
	}
}

// base is how many layers of a stack, and lines of its history, are those of its base image.
func (s *stack) base() (rungs, lines int) {
	for rungs < len(s.rungs) && s.rungs[rungs].base != nil {
		rungs++
	}
	if rungs > 0 {
		lines = len(s.rungs[0].base.config.History)
	}
	return rungs, lines
}

func (b *builder) squashed(ctx context.Context, base, own, st *stack) (*rung, error) {
	below, err := base.identity(ctx)
	if err != nil {
		return nil, err
	}
	content, err := own.identity(ctx)
	if err != nil {
		return nil, err
	}
	key, err := b.newKey(keyed{Op: "squash", Parent: below, Content: content.String()})
	if err != nil {
		return nil, err
	}
	hit, err := b.lookup(ctx, key, below)
	if err == nil && !hit.Empty() {
		return b.recorded(ctx, hit, key)
	}
	if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, err
	}
	ev := b.events.start(fmt.Sprintf("squash %d layers", len(own.rungs)))
	r, err := b.squashAnew(ctx, base, st, key)
	ev.End("", err)
	return r, err
}

func (b *builder) squashAnew(ctx context.Context, base, st *stack, key oci.Digest) (*rung, error) {
	dirs, err := b.folders(ctx, st)
	if err != nil {
		return nil, err
	}
	n := len(base.rungs)
	m := &merger{ctx: b.group.ctx, dirs: dirs[n:], below: snapshot.NewView(folderLayers(dirs[:n])...)}
	r := &rung{created: st.created}
	return r, b.pack(ctx, r, nil, m.files(), base, purpose{keys: []oci.Digest{key}})
}

// merger shows several layer folders as one.
type merger struct {
	ctx   context.Context //nolint:containedctx // of the walk
	dirs  []string        // bottom first
	below *snapshot.View  // what they stand on
	names map[layerFile]string
	yield func(layer.File, error) bool
}

// layerFile tells files with several names apart.
type layerFile struct {
	dir int
	id  layer.FileID
}

// found is what one folder has under a name.
type found struct {
	layer.Node
	dir int
}

var errStopped = errors.New("stopped")

// files are those of the merged layer, in the order of layer.Upper.
func (m *merger) files() iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		m.names, m.yield = map[layerFile]string{}, yield
		all := make([]int, len(m.dirs))
		for i := range all {
			all[i] = len(all) - 1 - i
		}
		if err := m.folder(".", all, true); err != nil && !errors.Is(err, errStopped) {
			yield(layer.File{}, err)
		}
	}
}

// folder yields what is in a folder of the folders that have it, top first. open says that the folder of the file
// system below shows through.
func (m *merger) folder(path string, has []int, open bool) error {
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	here := map[string][]found{} // top first
	for _, i := range has {
		nodes, err := layer.ReadNodes(m.dirs[i], path)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			here[n.Path] = append(here[n.Path], found{n, i})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(here)) {
		if err := m.file(here[p], open); err != nil {
			return err
		}
	}
	return nil
}

// file yields what the folders have under one path.
func (m *merger) file(versions []found, open bool) error {
	top := versions[0]
	switch {
	case top.Whiteout:
		if _, there, err := m.lower(top.Path, open); err != nil || !there {
			return err
		}
		return m.emit(layer.File{Entry: top.Entry})
	case top.Mode.Type() == fs.ModeSocket:
		return nil
	case !top.IsDir():
		return m.emit(m.content(top))
	}
	has, closed := merged(versions)
	below, there, err := m.lower(top.Path, open)
	if err != nil {
		return err
	}
	top.Opaque = closed && there && below.IsDir()
	if err := m.emit(layer.File{Entry: top.Entry}); err != nil {
		return err
	}
	return m.folder(top.Path, has, open && !closed)
}

// merged says which versions of a folder show, and whether they hide what is below all of them.
func merged(versions []found) (has []int, closed bool) {
	for _, v := range versions {
		if !v.IsDir() {
			return has, true
		}
		has = append(has, v.dir)
		if v.Opaque {
			return has, true
		}
	}
	return has, false
}

// lower looks a path up in the file system below.
func (m *merger) lower(path string, open bool) (layer.Entry, bool, error) {
	if !open {
		return layer.Entry{}, false, nil
	}
	e, err := m.below.Lstat(path)
	if errors.Is(err, errs.NotFound) {
		return e, false, nil
	}
	return e, err == nil, err
}

func (m *merger) content(f found) layer.File {
	file := layer.File{Entry: f.Entry}
	if f.ID != (layer.FileID{}) {
		id := layerFile{f.dir, f.ID}
		if first, seen := m.names[id]; seen {
			file.Hard, file.Link = true, first
			return file
		}
		m.names[id] = f.Path
	}
	if file.IsRegular() {
		file.Source = filepath.Join(m.dirs[f.dir], f.Path)
		file.Open = func() (io.ReadCloser, error) { return os.Open(file.Source) }
	}
	return file
}

func (m *merger) emit(f layer.File) error {
	if !m.yield(f, nil) {
		return errStopped
	}
	return nil
}
