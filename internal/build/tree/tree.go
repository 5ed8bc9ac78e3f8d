// Package tree reads what COPY and ADD copy, and works out what they leave behind.
//
// A Tree is anything that files can be copied from: the build context (Folder with an ignore file), an unpacked
// archive (Folder), or a stage's file system (snapshot.View). A Copy takes files out of trees and lays them over the
// file system below, by the rules of BuildKit's frontend, and gives back the files of the layer that this makes. It
// writes nothing: the same files go into a tar, into a folder, or both. Digest says what a COPY would read, for its
// cache key, without copying.
//
// Paths inside a tree are clean, relative and slash separated; "." is its root. A symbolic link never leads out of a
// tree: it is followed as if the tree were the whole file system.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Tree is a file tree that can be read. Implementations are safe for concurrent use. A path that does not exist is an
// error that is errs.NotFound or fs.ErrNotExist.
type Tree interface {
	// Lstat describes a path without following a symbolic link in its last element. The elements before the last
	// are real folders: see Resolve.
	Lstat(path string) (layer.Entry, error)
	// ReadDir lists a folder, sorted by name; every entry's Path is whole.
	ReadDir(path string) ([]layer.Entry, error)
	// Open reads a regular file.
	Open(path string) (io.ReadCloser, error)
	// HostPath is where a regular file stands on this machine, "" when it does not.
	HostPath(path string) (string, error)
}

// maxLinks bounds the symbolic links followed in one path, as the kernel does (path_resolution(7)).
const maxLinks = 40

// notExist says whether err is about a path that is not there.
func notExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errs.NotFound)
}

// clean makes any spelling of a path inside a tree the canonical one. Nothing climbs above the root.
func clean(p string) string {
	p = path.Join("/", p)[1:]
	if p == "" {
		return "."
	}
	return p
}

// join appends name to a canonical path.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// parent is the folder that holds a canonical path; the root holds itself.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return "."
}

// lstater is the part of a tree that resolving a path needs.
type lstater interface {
	Lstat(path string) (layer.Entry, error)
}

// Resolve follows every symbolic link of p inside t. Elements that do not exist stay as they are, so that the result
// can be created. With followLast false a link in the last element is left alone.
func Resolve(t lstater, p string, followLast bool) (string, error) {
	rest := strings.Split(clean(p), "/")
	done := "."
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = parent(done)
			continue
		}
		next := join(done, name)
		if len(rest) == 0 && !followLast {
			return next, nil
		}
		e, err := t.Lstat(next)
		if notExist(err) {
			done = next
			continue
		}
		if err != nil {
			return "", err
		}
		if e.Mode.Type() != fs.ModeSymlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", p)
		}
		if path.IsAbs(e.Link) {
			done = "."
		}
		rest = append(strings.Split(e.Link, "/"), rest...)
	}
	return done, nil
}
