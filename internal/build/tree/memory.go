package tree

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Empty is a tree without files.
type Empty struct{}

// Lstat implements Tree.
func (Empty) Lstat(p string) (layer.Entry, error) {
	if p == "." {
		return layer.Entry{Path: ".", Mode: fs.ModeDir | 0o755}, nil
	}
	return layer.Entry{}, fmt.Errorf("%q: %w", "/"+p, errs.NotFound)
}

// ReadDir implements Tree.
func (e Empty) ReadDir(p string) ([]layer.Entry, error) {
	_, err := e.Lstat(p)
	return nil, err
}

// Open implements Tree.
func (e Empty) Open(p string) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%q: %w", "/"+p, errs.NotFound)
}

// HostPath implements Tree.
func (e Empty) HostPath(p string) (string, error) {
	_, err := e.Lstat(p)
	return "", err
}

// Memory is a tree of one file that stands in memory: the body of a heredoc.
type Memory struct {
	Empty
	entry layer.Entry
	data  []byte
}

// NewMemory returns the tree of a file with root as its owner. name is a single element.
func NewMemory(name string, data []byte, mode fs.FileMode) *Memory {
	return &Memory{entry: layer.Entry{Path: clean(name), Mode: mode.Perm(), Size: int64(len(data))}, data: data}
}

// Lstat implements Tree.
func (m *Memory) Lstat(p string) (layer.Entry, error) {
	if p == m.entry.Path {
		return m.entry, nil
	}
	return m.Empty.Lstat(p)
}

// ReadDir implements Tree.
func (m *Memory) ReadDir(p string) ([]layer.Entry, error) {
	if p == "." {
		return []layer.Entry{m.entry}, nil
	}
	return m.Empty.ReadDir(p)
}

// HostPath implements Tree.
func (m *Memory) HostPath(p string) (string, error) {
	_, err := m.Lstat(p)
	return "", err
}

// Open implements Tree.
func (m *Memory) Open(p string) (io.ReadCloser, error) {
	if p != m.entry.Path {
		return m.Empty.Open(p)
	}
	return io.NopCloser(bytes.NewReader(m.data)), nil
}
