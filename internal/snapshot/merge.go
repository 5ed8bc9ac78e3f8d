package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// found is a file and the layer that has it.
type found struct {
	node
	layer int // index of View.layers
}

// node is a file of one layer.
type node struct {
	layer.Node
	// first is the first name of the file, if an index says so. Else all names of a file have the same ID.
	first string
}

// lookup returns what one layer has at a clean relative path.
func (l *Layer) lookup(name string) (n node, ok bool, err error) {
	if l.Index != nil {
		e, ok := l.Index.Lookup(name)
		return l.indexed(e), ok, nil
	}
	n.Node, err = layer.ReadNode(l.Dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	return n, err == nil, err
}

// list returns what one layer has in the directory at a path.
func (l *Layer) list(name string) ([]node, error) {
	if l.Index != nil {
		children := l.Index.Children(name)
		nodes := make([]node, len(children))
		for i, e := range children {
			nodes[i] = l.indexed(e)
		}
		return nodes, nil
	}
	files, err := layer.ReadNodes(l.Dir, name)
	if err != nil {
		return nil, err
	}
	nodes := make([]node, len(files))
	for i, f := range files {
		nodes[i].Node = f
	}
	return nodes, nil
}

// indexed describes an entry of the index; a hard link as the file that it names.
func (l *Layer) indexed(e layer.Entry) (n node) {
	n.Entry, n.first = e, e.Path
	if !e.Hard {
		return n
	}
	if target, ok := l.Index.Lookup(e.Link); ok && !target.Hard {
		n.Entry = target
		n.Path = e.Path
		n.first = target.Path
	}
	return n
}

// root returns the merged root directory.
func (v *View) root() (*directory, found, error) {
	var top found
	top.Entry = layer.Entry{Path: ".", Mode: fs.ModeDir | 0o755}
	if len(v.layers) > 0 {
		n, ok, err := v.layers[0].lookup(".")
		if err != nil {
			return nil, top, err
		}
		if ok {
			top.node = n
		}
	}
	all := make([]int, len(v.layers))
	for i := range all {
		all[i] = i
	}
	d, err := v.directory(".", all)
	return d, top, err
}

// directory returns the merged directory at name, which the candidates, top first, may have a part of.
func (v *View) directory(name string, candidates []int) (*directory, error) {
	v.mu.Lock()
	d := v.dirs[name]
	v.mu.Unlock()
	if d != nil {
		return d, nil
	}
	d = &directory{path: name}
	for _, i := range candidates {
		n, ok, err := v.layers[i].lookup(name)
		if err != nil {
			return nil, err
		}
		if name == "." {
			// Every layer has a root, listed or not. The kernel merges all of them, marked as opaque or not.
			ok, n.Mode, n.Opaque = true, fs.ModeDir, false
		}
		if !ok {
			continue
		}
		if !n.IsDir() {
			break // hides what is below
		}
		d.layers = append(d.layers, i)
		if n.Opaque {
			break
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirs[name] = d
	return d, nil
}

// child returns the file called name in a directory.
func (v *View) child(d *directory, name string) (found, error) {
	p := path.Join(d.path, name)
	for _, i := range d.layers {
		n, ok, err := v.layers[i].lookup(p)
		if err != nil {
			return found{}, err
		}
		if ok && n.Whiteout {
			break
		}
		if ok {
			return found{n, i}, nil
		}
	}
	return found{}, errs.NotFound
}

// resolver walks one path.
type resolver struct {
	v     *View
	stack []place // directories from the root to where the walk is
	links int
}

type place struct {
	dir  *directory
	file found
}

// resolve returns the file at name, and what it merges if it is a directory. follow says whether a symbolic link at
// the end of name is followed.
func (v *View) resolve(name string, follow bool) (found, *directory, error) {
	if f, d, ok, err := v.shortcut(name, follow); ok || err != nil {
		return f, d, err
	}
	d, top, err := v.root()
	if err != nil {
		return found{}, nil, err
	}
	r := &resolver{v: v, stack: []place{{d, top}}}
	f, err := r.walk(name, follow)
	if err != nil {
		return found{}, nil, err
	}
	return f, r.top().dir, nil
}

// shortcut resolves a name in a directory that was looked into before: since those are known by their real paths there
// are no symbolic links on the way. It is not ok if the name has to be walked.
func (v *View) shortcut(name string, follow bool) (f found, d *directory, ok bool, err error) {
	if strings.Contains(name, "..") {
		return f, nil, false, nil
	}
	parent, base := path.Split(path.Clean("/" + name))
	v.mu.Lock()
	d = v.dirs[cmp.Or(strings.Trim(parent, "/"), ".")]
	v.mu.Unlock()
	if d == nil || base == "" {
		return f, nil, false, nil
	}
	f, err = v.child(d, base)
	switch {
	case err != nil:
		return f, nil, false, err
	case f.IsDir():
		d, err = v.directory(f.Path, d.layers)
	case f.Mode.Type() == fs.ModeSymlink && follow:
		return f, nil, false, nil
	}
	return f, d, err == nil, err
}

func (r *resolver) top() place { return r.stack[len(r.stack)-1] }

// walk follows a path from where the walk is, or from the root, and returns the file at its end.
func (r *resolver) walk(name string, follow bool) (found, error) {
	if strings.HasPrefix(name, "/") {
		r.stack = r.stack[:1]
	}
	f := r.top().file
	for name = strings.TrimLeft(name, "/"); name != ""; {
		if !f.IsDir() {
			return found{}, errs.Mark(fmt.Errorf("%s: %w", f.Path, unix.ENOTDIR), errs.NotFound)
		}
		var step string
		step, name, _ = strings.Cut(name, "/")
		name = strings.TrimLeft(name, "/")
		var err error
		if f, err = r.step(step, follow || name != ""); err != nil {
			return found{}, err
		}
	}
	return f, nil
}

// step goes to one name in the present directory.
func (r *resolver) step(name string, follow bool) (found, error) {
	switch name {
	case ".":
		return r.top().file, nil
	case "..":
		r.stack = r.stack[:max(len(r.stack)-1, 1)]
		return r.top().file, nil
	}
	parent := r.top().dir
	f, err := r.v.child(parent, name)
	if err != nil {
		return found{}, err
	}
	switch {
	case f.IsDir():
		d, err := r.v.directory(f.Path, parent.layers)
		if err != nil {
			return found{}, err
		}
		r.stack = append(r.stack, place{d, f})
	case f.Mode.Type() == fs.ModeSymlink && follow:
		if r.links++; r.links > maxSymlinks {
			return found{}, fmt.Errorf("%s: %w", f.Path, unix.ELOOP)
		}
		return r.walk(f.Link, true)
	}
	return f, nil
}

// readDir returns the files in a merged directory, by name.
func (v *View) readDir(d *directory) ([]found, error) {
	var files []found
	seen := map[string]bool{}
	for _, i := range d.layers {
		nodes, err := v.layers[i].list(d.path)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if seen[n.Path] {
				continue
			}
			seen[n.Path] = true
			if !n.Whiteout {
				files = append(files, found{n, i})
			}
		}
	}
	slices.SortFunc(files, func(a, b found) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// source returns the path on this machine of a regular file.
func (v *View) source(f *found) (string, error) {
	l := &v.layers[f.layer]
	if l.Dir == "" {
		return "", fmt.Errorf("%s: %w", l.Name, ErrNotUnpacked)
	}
	return filepath.Join(l.Dir, f.Path), nil
}
