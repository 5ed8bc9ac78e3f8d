package tree

import (
	"slices"
	"time"

	"slipway/internal/oci/layer"
)

// Dated is a tree whose files are all of one time, for those whose own time says only when they were checked out.
type Dated struct {
	Tree
	Time time.Time
}

// Lstat implements Tree.
func (d Dated) Lstat(p string) (layer.Entry, error) {
	e, err := d.Tree.Lstat(p)
	e.ModTime = d.Time
	return e, err
}

// ReadDir implements Tree.
func (d Dated) ReadDir(p string) ([]layer.Entry, error) {
	entries, err := d.Tree.ReadDir(p)
	entries = slices.Clone(entries) // they are the tree's
	for i := range entries {
		entries[i].ModTime = d.Time
	}
	return entries, err
}

// undated is the tree whose own times a tree hides, if it does.
func undated(t Tree) Tree {
	if d, ok := t.(Dated); ok {
		return d.Tree
	}
	return t
}
