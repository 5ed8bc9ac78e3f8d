// Package cache remembers what operations of a build came to, by key, in a folder of this machine.
//
// A record is one small JSON file named by its key, replaced by rename: readers see the old one or the new one, and a
// build that is killed leaves at most a temporary file, which Recover removes. Its modification time is when it last
// answered.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/tempfile"
)

// Local is a build.Cache in a folder.
type Local struct{ dir string }

var _ build.Cache = (*Local)(nil)

const tempPrefix = ".record-"

// Open returns the cache in dir, which is made when it is missing.
func Open(dir string) (*Local, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return &Local{dir: dir}, nil
}

// Recover removes what processes that died left half written. It may run at any time.
func (l *Local) Recover() error {
	if _, err := tempfile.Recover(l.dir, tempPrefix); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

func (l *Local) path(key oci.Digest) string {
	hex := key.Encoded()
	return filepath.Join(l.dir, hex[:2], hex[2:])
}

// Lookup implements build.Cache.
func (l *Local) Lookup(_ context.Context, key oci.Digest) (build.Record, error) {
	r, err := l.read(key)
	if err != nil {
		return r, err
	}
	now := time.Now()
	if err := os.Chtimes(l.path(key), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("cache: %w", err)
	}
	return r, nil
}

// read returns a record. One that cannot be decoded is as good as none: it is removed, so that the operation runs and
// stores a sound one.
func (l *Local) read(key oci.Digest) (build.Record, error) {
	var r build.Record
	data, err := os.ReadFile(l.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return r, errs.NotFound
	}
	if err != nil {
		return r, fmt.Errorf("cache: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		if err := os.Remove(l.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, fmt.Errorf("cache: %w", err)
		}
		return build.Record{}, errs.NotFound
	}
	return r, nil
}

// Store implements build.Cache.
func (l *Local) Store(_ context.Context, key oci.Digest, r build.Record) (err error) {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	tmp, err := tempfile.Create(l.dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: Recover takes what is closed for abandoned
	if _, err = tmp.Write(data); err == nil {
		err = rename(tmp.Name(), l.path(key))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cache: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// rename moves a file, and makes the folder that it goes to when it is missing.
func rename(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Rename(from, to)
}
