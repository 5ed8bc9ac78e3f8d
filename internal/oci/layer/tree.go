package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// maxSymlinks is how many symbolic links one path may go through, as in the kernel.
const maxSymlinks = 40

// tree makes the files of a layer in a directory that was empty and that nobody else touches.
//
// It remembers every file it made. So it knows, without asking the kernel, which names are directories and which are
// symbolic links, and never follows one of those: a path is resolved in memory, inside the root, and then every system
// call is relative to a descriptor of its real directory. Directories are made at once by the owner's goroutine; all
// else is put into batches for the workers. Modes, owners and times of directories are set when all is in them.
type tree struct {
	*crew
	root    *node
	entries int
	linked  map[*Entry]bool                                 // files with several names
	below   func(path string) (Entry, io.ReadCloser, error) // nil: nothing is known of the layers below
	open    []*node                                         // directories with a handle, except the root; oldest first
	buf     []byte                                          // scratch for long files
}

// node is a file that the tree has.
type node struct {
	name     string
	parent   *node            // nil: the root
	entry    *Entry           // hard links share it; its Path is that of the first name
	children map[string]*node // nil unless a directory
	handle   *handle          // nil unless an open directory
	made     *batch           // will make it, unless nil
	// implicit directories were never listed, but something in them was.
	implicit bool
}

func newTree(ctx context.Context, dir string) (*tree, error) {
	fd, err := openFile(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	root := &node{name: ".", children: map[string]*node{}, handle: newHandle(fd)}
	return &tree{crew: newCrew(ctx), root: root, linked: map[*Entry]bool{}}, nil
}

// path returns where the node is, relative to the root.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	if n.parent.parent == nil {
		return n.name
	}
	return n.parent.path() + "/" + n.name
}

func (n *node) isDir() bool { return n.children != nil }

// resolve returns the directory in which the last name of a clean path is, and makes it if nothing did so far.
func (t *tree) resolve(name string) (dir *node, base string, err error) {
	parent, base := splitPath(name)
	links := 0
	dir, err = t.walk(t.root, parent, &links, true)
	return dir, base, err
}

// walk goes from a directory along a path. Symbolic links that the layer itself has are followed inside the root. If
// something is missing it is made, or else the result is nil.
func (t *tree) walk(dir *node, rest string, links *int, create bool) (*node, error) {
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if dir.parent != nil {
				dir = dir.parent
			}
			continue
		}
		next, err := t.step(dir, name, links, create)
		if err != nil || next == nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

// step returns the directory called name in dir.
func (t *tree) step(dir *node, name string, links *int, create bool) (*node, error) {
	child := dir.children[name]
	switch {
	case child == nil || child.entry.Whiteout:
		if !create {
			return nil, nil
		}
		return t.imply(dir, name, child)
	case child.isDir():
		return child, nil
	case child.entry.Mode.Type() == fs.ModeSymlink:
		if *links++; *links > maxSymlinks {
			return nil, fmt.Errorf("%s: %w", child.path(), unix.ELOOP)
		}
		if strings.HasPrefix(child.entry.Link, "/") {
			dir = t.root
		}
		return t.walk(dir, child.entry.Link, links, create)
	}
	if !create {
		return nil, nil
	}
	return nil, fmt.Errorf("%s: %w", child.path(), unix.ENOTDIR)
}

// imply makes a directory that has to be there although nothing listed it. It takes the place of a whiteout.
func (t *tree) imply(dir *node, name string, whiteout *node) (*node, error) {
	e := &Entry{Mode: fs.ModeDir | 0o755, ModTime: time.Unix(0, 0)}
	if whiteout != nil {
		e.Opaque = true
		if err := t.remove(whiteout); err != nil {
			return nil, err
		}
	}
	n, err := t.mkdir(dir, name, e)
	if err != nil {
		return nil, err
	}
	n.implicit = true
	return n, t.inherit(n)
}

// inherit gives an implicit directory the attributes of the one below.
func (t *tree) inherit(n *node) error {
	if t.below == nil || n.entry.Opaque {
		return nil
	}
	e, content, err := t.below(n.entry.Path)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: look below: %w", n.entry.Path, err)
	}
	if content != nil {
		return content.Close() // not a directory: the new one hides it
	}
	if e.IsDir() {
		e.Path, e.Opaque = n.entry.Path, false
		n.entry = &e
	}
	return nil
}

// add makes the file that e describes, whose content, if any, put provides. What is there already by that name makes
// way, except that a directory keeps what is in it when it is listed again.
func (t *tree) add(e *Entry, put func(dir *node, name string, e *Entry) error) error {
	t.entries++
	if e.Path == "." {
		return t.setRoot(e)
	}
	dir, name, err := t.resolve(e.Path)
	if err != nil {
		return err
	}
	old := dir.children[name]
	switch {
	case e.Whiteout && old != nil:
		// The new file hides what is below anyway; a directory must be told to (image-spec: whiteouts apply to lower
		// layers only).
		old.entry.Opaque = old.entry.Opaque || old.isDir()
		return nil
	case e.IsDir() && old != nil && old.isDir():
		e.Opaque = e.Opaque || old.entry.Opaque
		t.describe(old, e)
		old.implicit = false
		return nil
	case old != nil:
		e.Opaque = e.Opaque || e.IsDir() && (old.entry.Whiteout || !old.isDir())
		if err := t.remove(old); err != nil {
			return err
		}
	}
	switch {
	case e.IsDir():
		_, err := t.mkdir(dir, name, e)
		return err
	case e.Hard && !e.Whiteout:
		return t.link(dir, name, e)
	}
	return put(dir, name, e)
}

func (t *tree) setRoot(e *Entry) error {
	if !e.IsDir() {
		return fmt.Errorf("the root cannot be a file of mode %s: %w", e.Mode, errs.Corrupt)
	}
	e.Opaque = e.Opaque || t.root.entry != nil && t.root.entry.Opaque
	t.root.entry = e
	return nil
}

// describe gives a node its entry, with the path where it really is.
func (t *tree) describe(n *node, e *Entry) {
	e.Path = n.path()
	n.entry = e
}

// put queues a file that takes no content from the caller. The node is the tree's record of it.
func (t *tree) put(dir *node, name string, e *Entry, k task) error {
	n := &node{name: name, parent: dir}
	t.describe(n, e)
	h, err := t.handle(dir)
	if err != nil {
		return err
	}
	h.retain()
	k.dir, k.name, k.entry = h, name, e
	dir.children[name] = n
	n.made, err = t.queue(k)
	return err
}

// mkdir makes a directory at once. Until finish only its owner can use it.
func (t *tree) mkdir(dir *node, name string, e *Entry) (*node, error) {
	h, err := t.handle(dir)
	if err != nil {
		return nil, err
	}
	n := &node{name: name, parent: dir, children: map[string]*node{}}
	t.describe(n, e)
	if err := unix.Mkdirat(h.fd, name, 0o700); err != nil {
		return nil, fmt.Errorf("%s: make directory: %w", e.Path, err)
	}
	dir.children[name] = n
	return n, nil
}

// link makes one more name of a file that the layer has. The error is of kind errs.NotFound if it has no such file.
func (t *tree) link(dir *node, name string, e *Entry) error {
	target, err := t.find(e.Link)
	if err != nil {
		return err
	}
	if target == nil || target.entry.Whiteout {
		return fmt.Errorf("hard link to %s: %w", e.Link, errs.NotFound)
	}
	if target.isDir() {
		return fmt.Errorf("%s: hard link to a directory: %s: %w", e.Path, e.Link, errs.Corrupt)
	}
	if err := t.wait(target.made); err != nil {
		return err
	}
	target.made = nil
	n := &node{name: name, parent: dir, entry: target.entry}
	if err := t.linkat(target, n); err != nil {
		return fmt.Errorf("%s: link to %s: %w", n.path(), e.Link, err)
	}
	dir.children[name] = n
	t.linked[n.entry] = true
	return nil
}

func (t *tree) linkat(from, to *node) error {
	src, err := t.handle(from.parent)
	if err != nil {
		return err
	}
	src.retain() // opening the other must not close it
	defer src.release()
	dst, err := t.handle(to.parent)
	if err != nil {
		return err
	}
	return unix.Linkat(src.fd, from.name, dst.fd, to.name, 0)
}

// find returns the node at a path, or nil. Only the directories on the way are followed through symbolic links.
func (t *tree) find(name string) (*node, error) {
	parent, base := splitPath(name)
	links := 0
	dir, err := t.walk(t.root, parent, &links, false)
	if dir == nil || err != nil {
		return nil, err
	}
	return dir.children[base], nil
}

// remove takes a file, or a directory with all that is in it, away again.
func (t *tree) remove(n *node) error {
	if err := t.wait(n.made); err != nil {
		return err
	}
	h, err := t.handle(n.parent)
	if err != nil {
		return err
	}
	if !n.isDir() {
		delete(n.parent.children, n.name)
		if err := unix.Unlinkat(h.fd, n.name, 0); err != nil {
			return fmt.Errorf("%s: remove: %w", n.path(), err)
		}
		return nil
	}
	h.retain()
	defer h.release()
	for _, child := range n.children {
		if err := t.remove(child); err != nil {
			return err
		}
	}
	t.close(n)
	delete(n.parent.children, n.name)
	if err := unix.Unlinkat(h.fd, n.name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("%s: remove: %w", n.path(), err)
	}
	return nil
}
