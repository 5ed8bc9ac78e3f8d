package layer

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// maxOpenDirs bounds the descriptors that a tree keeps.
const maxOpenDirs = 64

// handle returns a descriptor of a directory, opening it if need be. It stays open until some calls later at least; a
// task that uses it retains it.
func (t *tree) handle(n *node) (*handle, error) {
	if n.handle != nil {
		return n.handle, nil
	}
	parent, err := t.handle(n.parent)
	if err != nil {
		return nil, err
	}
	fd, err := openFile(parent.fd, n.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: open: %w", n.path(), err)
	}
	n.handle = newHandle(fd)
	t.open = append(t.open, n)
	if len(t.open) > maxOpenDirs {
		t.close(t.open[0])
	}
	return n.handle, nil
}

// close gives up the tree's own use of a directory's handle.
func (t *tree) close(n *node) {
	if n.handle == nil || n.parent == nil {
		return
	}
	n.handle.release()
	n.handle = nil
	if i := slices.Index(t.open, n); i >= 0 {
		t.open = slices.Delete(t.open, i, i+1)
	}
}

// finish waits for the workers, then sets what has to wait until a directory is complete. It returns the directories
// that nothing listed.
func (t *tree) finish() (implicit []string, err error) {
	if err := t.stop(); err != nil {
		return nil, err
	}
	err = t.seal(t.root, &implicit)
	slices.Sort(implicit)
	return implicit, err
}

// abandon ends the workers and closes what is open. It may follow finish.
func (t *tree) abandon() {
	_ = t.stop() // the caller has the error
	for len(t.open) > 0 {
		t.close(t.open[0])
	}
	if t.root.handle != nil {
		t.root.handle.release()
		t.root.handle = nil
	}
}

// seal sets owner, mode, attributes and time of a directory after those in it: making files changes the time, and a
// mode may forbid it.
func (t *tree) seal(n *node, implicit *[]string) error {
	for _, child := range n.children {
		if child.isDir() {
			if err := t.seal(child, implicit); err != nil {
				return err
			}
		}
	}
	if n.entry == nil {
		return nil // a root that nothing listed keeps the mode that its maker gave it
	}
	if n.implicit {
		*implicit = append(*implicit, n.path())
	}
	h, err := t.handle(n)
	if err != nil {
		return err
	}
	if err := t.attributes(h.fd, n.entry); err != nil {
		return fmt.Errorf("%s: %w", n.path(), err)
	}
	t.close(n)
	return nil
}

// collect returns the entries of all files. Of several names of a file the first in the order of paths stands for it.
func (t *tree) collect() []Entry {
	entries := make([]Entry, 0, t.entries)
	if t.root.entry != nil {
		entries = append(entries, *t.root.entry)
	}
	return t.gather(entries, t.root, "", map[*Entry]string{})
}

func (t *tree) gather(entries []Entry, dir *node, prefix string, first map[*Entry]string) []Entry {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		n := dir.children[name]
		e := *n.entry
		if e.Path != prefix+name {
			e.Path = prefix + name
		}
		if link, again := first[n.entry]; again {
			e.Hard, e.Link = true, link
		} else if t.linked[n.entry] {
			first[n.entry] = e.Path
		}
		entries = append(entries, e)
		if n.isDir() {
			entries = t.gather(entries, n, prefix+name+"/", first)
		}
	}
	return entries
}
