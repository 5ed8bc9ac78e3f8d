package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// ErrNotUnpacked says that the content of a file is in a layer of which there is only an index.
var ErrNotUnpacked = fmt.Errorf("layer is not unpacked: %w", errs.Unavailable)

// maxSymlinks is how many symbolic links one path may go through, as in the kernel.
const maxSymlinks = 40

// Layer is one layer of a View: a folder, an index, or both, which saves looking into the folder.
type Layer struct {
	// Name says in errors which layer it is: its digest, or what made it.
	Name string
	// Dir is the layer folder, if it is unpacked.
	Dir string
	// Index holds its entries, if they are known.
	Index *layer.Index
}

// View is the merged tree of layers, as an overlay mount of them would show it, read without any mount. Paths are
// slash separated; absolute ones and relative ones both count from the root, and none leads out of it. Symbolic links
// are followed inside the root.
//
// The layers must not change while the view is in use. Its methods may be called by several goroutines at once.
type View struct {
	layers []Layer // top first

	mu   sync.Mutex
	dirs map[string]*directory // every directory that was looked into
	// listed are the regular files of every directory that was listed, with their places on this machine: whoever lists
	// a directory goes on to read what is in it, and would pay for the whole path again.
	listed map[string]string
}

// directory is what the layers have at the path of a merged directory.
type directory struct {
	path   string
	layers []int // indexes of View.layers that have it, top first
}

// NewView returns the view of layers, bottom first.
func NewView(layers ...Layer) *View {
	v := &View{layers: slices.Clone(layers), dirs: map[string]*directory{}, listed: map[string]string{}}
	slices.Reverse(v.layers)
	return v
}

// Lstat returns the file at name. If that is a symbolic link it is the link itself. The Path of the entry is where the
// file really is; a hard link is described as the file that it names. If there is none the error is of kind
// errs.NotFound.
func (v *View) Lstat(name string) (layer.Entry, error) {
	f, _, err := v.resolve(name, false)
	return f.Entry, wrap("lstat", name, err)
}

// Stat is Lstat, but follows a symbolic link at the end of name too.
func (v *View) Stat(name string) (layer.Entry, error) {
	f, _, err := v.resolve(name, true)
	return f.Entry, wrap("stat", name, err)
}

// Resolve returns the path, without symbolic links, of the file at name.
func (v *View) Resolve(name string) (string, error) {
	f, _, err := v.resolve(name, true)
	return f.Path, wrap("resolve", name, err)
}

// ReadDir returns the files in the directory at name, by name.
func (v *View) ReadDir(name string) ([]layer.Entry, error) {
	f, d, err := v.resolve(name, true)
	if err == nil && !f.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, wrap("read directory", name, err)
	}
	files, err := v.readDir(d)
	if err != nil {
		return nil, wrap("read directory", name, err)
	}
	entries := make([]layer.Entry, len(files))
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range files {
		entries[i] = files[i].Entry
		if l := &v.layers[files[i].layer]; l.Dir != "" && files[i].Mode.IsRegular() {
			v.listed[files[i].Path] = filepath.Join(l.Dir, files[i].Path)
		}
	}
	return entries, nil
}

// HostPath returns the path on this machine of the regular file at name. If its layer is not unpacked the error is
// ErrNotUnpacked and names the layer.
func (v *View) HostPath(name string) (string, error) {
	v.mu.Lock()
	p, ok := v.listed[name]
	v.mu.Unlock()
	if ok {
		return p, nil
	}
	f, _, err := v.resolve(name, true)
	if err == nil && !f.Mode.IsRegular() {
		err = fmt.Errorf("not a regular file but %s: %w", f.Mode, errs.Invalid)
	}
	if err != nil {
		return "", wrap("locate", name, err)
	}
	p, err = v.source(&f)
	return p, wrap("locate", name, err)
}

// Open returns the content of the regular file at name. Its errors are those of HostPath.
func (v *View) Open(name string) (io.ReadCloser, error) {
	p, err := v.HostPath(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, wrap("open", name, err)
	}
	return f, nil
}

// Walk yields the file at name, a symbolic link at its end followed, and if that is a directory everything in it:
// each directory before what is in it, names in byte order. Paths are those in the view. Further names of a file are
// hard links to the first that the walk met. Sockets are left out. An error ends the sequence; one of kind
// ErrNotUnpacked comes before any file of that layer is read.
func (v *View) Walk(ctx context.Context, name string) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		f, d, err := v.resolve(name, true)
		if err == nil {
			w := &walk{ctx: ctx, view: v, first: map[identity]string{}, yield: yield}
			err = w.tree(f, d)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(layer.File{}, wrap("walk", name, err))
		}
	}
}

// errStopped says that whoever ranges over a walk wants no more of it.
var errStopped = errors.New("stopped")

// walk is one Walk.
type walk struct {
	ctx   context.Context //nolint:containedctx // lives for one walk
	view  *View
	first map[identity]string // files that may have several names -> the first that was met
	yield func(layer.File, error) bool
}

// identity tells the files of a view apart.
type identity struct {
	layer int
	id    layer.FileID
	first string
}

func (w *walk) tree(f found, d *directory) error {
	if f.Mode.Type() == fs.ModeSocket {
		return nil
	}
	file, err := w.file(&f)
	if err != nil {
		return err
	}
	if !w.yield(file, nil) {
		return errStopped
	}
	if !f.IsDir() {
		return nil
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	files, err := w.view.readDir(d)
	if err != nil {
		return err
	}
	for _, child := range files {
		var sub *directory
		if child.IsDir() {
			if sub, err = w.view.directory(child.Path, d.layers); err != nil {
				return err
			}
		}
		if err := w.tree(child, sub); err != nil {
			return err
		}
	}
	return nil
}

// file adds to a found file where its content is, and whether it is one more name of a file that was met before.
func (w *walk) file(f *found) (layer.File, error) {
	file := layer.File{Entry: f.Entry}
	file.Opaque = false // the view shows what is left, not what is hidden
	if id := (identity{f.layer, f.ID, f.first}); !f.IsDir() && (f.first != "" || f.ID != layer.FileID{}) {
		if first, seen := w.first[id]; seen {
			file.Hard, file.Link = true, first
			return file, nil
		}
		w.first[id] = f.Path
	}
	if !f.IsRegular() {
		return file, nil
	}
	source, err := w.view.source(f)
	if err != nil {
		return file, fmt.Errorf("%s: %w", f.Path, err)
	}
	file.Source = source
	file.Open = func() (io.ReadCloser, error) { return os.Open(source) }
	return file, nil
}

func wrap(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}
