package app

import (
	"path/filepath"
	"sync"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/tree"
)

// ignoring answers a tree's questions from an ignore file, folder by folder.
type ignoring struct {
	mu   sync.Mutex
	dirs map[string]*dockerfile.IgnoreDir
}

// newIgnoring returns nil when nothing is ignored.
func newIgnoring(ig *dockerfile.Ignore) (tree.Ignore, error) {
	if ig == nil {
		return nil, nil
	}
	root, err := ig.Root()
	if err != nil {
		return nil, err
	}
	return &ignoring{dirs: map[string]*dockerfile.IgnoreDir{".": root}}, nil
}

// Ignored implements tree.Ignore.
func (i *ignoring) Ignored(p string, isDir bool) (out, below bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d, err := i.dir(filepath.Dir(p))
	if err != nil {
		return false, false, err
	}
	m, err := d.Match(filepath.Base(p), isDir)
	if err == nil && isDir {
		i.dirs[p] = m.Dir
	}
	return m.Hidden, m.Skip, err
}

// dir finds what matched a folder, which has been asked about before unless a path was named directly.
func (i *ignoring) dir(p string) (*dockerfile.IgnoreDir, error) {
	if d, ok := i.dirs[p]; ok {
		return d, nil
	}
	up, err := i.dir(filepath.Dir(p))
	if err != nil {
		return nil, err
	}
	m, err := up.Match(filepath.Base(p), true)
	if err != nil {
		return nil, err
	}
	i.dirs[p] = m.Dir
	return m.Dir, nil
}
