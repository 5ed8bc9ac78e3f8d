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

// Single is a tree of one file: the body of a heredoc, or what was fetched.
type Single struct {
	Empty
	entry layer.Entry
	open  func() (io.ReadCloser, error)
}

// NewSingle returns the tree of a regular file, whose Path is a single element.
func NewSingle(e layer.Entry, open func() (io.ReadCloser, error)) *Single {
	e.Path = clean(e.Path)
	return &Single{entry: e, open: open}
}

// NewMemory returns the tree of a file with root as its owner. name is a single element.
func NewMemory(name string, data []byte, mode fs.FileMode) *Single {
	return NewSingle(layer.Entry{Path: name, Mode: mode.Perm(), Size: int64(len(data))}, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}

// Lstat implements Tree.
func (s *Single) Lstat(p string) (layer.Entry, error) {
	if p == s.entry.Path {
		return s.entry, nil
	}
	return s.Empty.Lstat(p)
}

// ReadDir implements Tree.
func (s *Single) ReadDir(p string) ([]layer.Entry, error) {
	if p == "." {
		return []layer.Entry{s.entry}, nil
	}
	return s.Empty.ReadDir(p)
}

// HostPath implements Tree.
func (s *Single) HostPath(p string) (string, error) {
	_, err := s.Lstat(p)
	return "", err
}

// Open implements Tree.
func (s *Single) Open(p string) (io.ReadCloser, error) {
	if p != s.entry.Path {
		return s.Empty.Open(p)
	}
	return s.open()
}
