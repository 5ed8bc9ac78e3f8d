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

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/disk"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/tempfile"
)

// Usage is what one record takes.
type Usage struct {
	Key  oci.Digest
	Size int64     // on the disk
	Used time.Time // last
}

// Usage lists the records. Those that come or go meanwhile may be missed.
func (l *Local) Usage(ctx context.Context) ([]Usage, error) {
	files, err := filepath.Glob(filepath.Join(l.dir, "??", "*"))
	if err != nil {
		return nil, err
	}
	var all []Usage
	for _, file := range files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		key := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(file))+filepath.Base(file))
		if key.Validate() != nil {
			continue // not a record
		}
		info, err := os.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("usage of the cache: %w", err)
		}
		all = append(all, Usage{Key: key, Size: disk.Size(info), Used: info.ModTime()})
	}
	return all, nil
}

// Peek returns the record of a key as Lookup does, but counts as no use.
func (l *Local) Peek(_ context.Context, key oci.Digest) (build.Record, error) { return l.read(key) }

// Remove removes the record of a key. If there is none the error is of kind errs.NotFound.
func (l *Local) Remove(_ context.Context, key oci.Digest) error {
	err := os.Remove(l.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return errs.NotFound
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// Forget removes the records that are about something which is gone, and returns how many that were. A record that a
// build stores in the place of such a one meanwhile stays.
func (l *Local) Forget(ctx context.Context, gone func(build.Record) (bool, error)) (n int, err error) {
	all, err := l.Usage(ctx)
	if err != nil {
		return 0, err
	}
	for _, u := range all {
		r, err := l.read(u.Key)
		if errors.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return n, err
		}
		is, err := gone(r)
		if err != nil {
			return n, err
		}
		if !is {
			continue
		}
		removed, err := l.removeIf(u.Key, r)
		if err != nil {
			return n, fmt.Errorf("cache: %w", err)
		}
		if removed {
			n++
		}
	}
	return n, nil
}

// removeIf removes the record of a key if it is still r. It is moved away before it is looked at, and back if it is
// another.
func (l *Local) removeIf(key oci.Digest, r build.Record) (removed bool, err error) {
	tmp, err := tempfile.Create(l.dir, tempPrefix)
	if err != nil {
		return false, err
	}
	aside := tmp.Name()
	defer func() {
		if lost := os.Remove(aside); lost != nil && !errors.Is(lost, fs.ErrNotExist) {
			err = errors.Join(err, lost)
		}
		err = errors.Join(err, tmp.Close())
	}()
	if err := os.Rename(l.path(key), aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	data, err := os.ReadFile(aside)
	if errors.Is(err, fs.ErrNotExist) { // Recover takes it for what a process left that died
		return true, nil
	}
	if err != nil {
		return false, err
	}
	var now build.Record
	if err := json.Unmarshal(data, &now); err == nil && !same(now, r) {
		err := os.Link(aside, l.path(key))
		if errors.Is(err, fs.ErrExist) { // and yet another one
			err = nil
		}
		return false, err
	}
	return true, nil
}

func same(a, b build.Record) bool {
	one, err := json.Marshal(a)
	other, wrong := json.Marshal(b)
	return err == nil && wrong == nil && string(one) == string(other)
}
