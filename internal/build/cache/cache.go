// Package cache remembers what operations of a build came to, by key, in a folder of this machine.
//
// A record is one small JSON file named by its key, replaced by rename: readers see the old one or the new one, and a
// build that is killed leaves at most a temporary file, which the next one's Open removes.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Local is a build.Cache in a folder.
type Local struct{ dir string }

var _ build.Cache = (*Local)(nil)

const tempPrefix = ".record-"

// abandoned is the age after which a temporary file has no writer any more: writing one takes microseconds.
const abandoned = time.Hour

// Open returns the cache in dir, which is made when it is missing.
func Open(dir string, now time.Time) (*Local, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	for _, f := range left {
		if info, err := os.Lstat(f); err == nil && now.Sub(info.ModTime()) > abandoned {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("open cache: %w", err)
			}
		}
	}
	return &Local{dir: dir}, nil
}

func (l *Local) path(key oci.Digest) string {
	hex := key.Encoded()
	return filepath.Join(l.dir, hex[:2], hex[2:])
}

// Lookup implements build.Cache. A record that cannot be decoded is as good as none: it is removed, so that the
// operation runs and stores a sound one.
func (l *Local) Lookup(_ context.Context, key oci.Digest) (build.Record, error) {
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
	tmp, err := os.CreateTemp(l.dir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cache: %w", err), os.Remove(tmp.Name()))
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	to := l.path(key)
	err = os.Rename(tmp.Name(), to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		err = os.Rename(tmp.Name(), to)
	}
	return err
}

// Len counts the records, for tests and `slipway cache du`.
func (l *Local) Len() (int, error) {
	n := 0
	err := filepath.WalkDir(l.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), tempPrefix) {
			n++
		}
		return err
	})
	return n, err
}
