package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// locks is a folder of lock files, one for each layer that somebody works on. The kernel lets go of a lock when its
// process ends, however that happens.
type locks string

// lockPause is how often a lock that another process holds is tried. Unpacking a layer takes longer.
const lockPause = 20 * time.Millisecond

// lock waits until it has the lock of a layer.
func (l locks) lock(ctx context.Context, d oci.Digest) (unlock func(), err error) {
	for {
		f, err := l.try(d)
		if err == nil {
			return func() { _ = f.Close() }, nil // nothing was written
		}
		if !errors.Is(err, errs.Conflict) {
			return nil, fmt.Errorf("lock layer %s: %w", d, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// try takes a lock, which whoever has it lets go of by closing the file. If somebody has it the error is of kind
// errs.Conflict.
func (l locks) try(d oci.Digest) (_ *os.File, err error) {
	if err := os.MkdirAll(string(l), 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(string(l), d.Encoded())
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && named(f, name) {
		return f, nil
	}
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) { // sweep may have removed it
		err = errs.Conflict
	}
	return nil, errors.Join(err, f.Close())
}

// named says whether f is still the file with this name.
func named(f *os.File, name string) bool {
	mine, err := f.Stat()
	there, wrong := os.Lstat(name)
	return err == nil && wrong == nil && os.SameFile(mine, there)
}

// sweep removes the locks that nobody holds.
func (l locks) sweep() error {
	files, err := os.ReadDir(string(l))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("locks: %w", err)
	}
	for _, file := range files {
		if err := removeUnlocked(filepath.Join(string(l), file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("locks: %w", err)
		}
	}
	return nil
}

func removeUnlocked(name string) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && !named(f, name) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(name)
}
