package dir

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
	"slipway/internal/oci/blob"
)

// A lock on a blob's file, of the kernel's, says that somebody relies on the blob: shared by those that hold it,
// exclusive for the moment in which it is deleted. It goes with the process, however that ends, and because the file
// itself is locked there is nothing beside it that could be out of date.

// Hold implements [blob.Holder].
func (s *Store) Hold(ctx context.Context, d oci.Digest) (blob.Reader, error) {
	r, err := s.hold(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("hold blob %s: %w", d, err)
	}
	return r, nil
}

const (
	// holdPause is how often a lock is tried that somebody has who deletes the blob, or looks whether he could.
	holdPause = time.Millisecond
	// holdTries is how often until he is thought to be stuck.
	holdTries = 1000
)

func (s *Store) hold(ctx context.Context, d oci.Digest) (*reader, error) {
	for n := 1; ; n++ {
		r, err := s.tryHold(ctx, d)
		if !errors.Is(err, errs.Conflict) || n == holdTries {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(holdPause):
		}
	}
}

func (s *Store) tryHold(ctx context.Context, d oci.Digest) (_ *reader, err error) {
	r, err := s.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := flock(r.File, unix.LOCK_SH); err != nil {
		return nil, err
	}
	// It may have been deleted before we had the lock.
	there, err := named(r.File, r.Name())
	if err == nil && !there {
		err = errs.NotFound
	}
	if err != nil {
		return nil, err
	}
	return r, touch(r.File)
}

// touch notes that a blob was used. A store that may not be written to does without.
func touch(f *os.File) error {
	err := unix.UtimesNanoAt(int(f.Fd()), "", nil, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // before Linux 5.8
		err = unix.Futimes(int(f.Fd()), nil)
	}
	if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("note the use: %w", err)
	}
	return nil
}

// flock locks a file without waiting. The error is of kind errs.Conflict if others' locks are in the way.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%w: it is in use", errs.Conflict)
		case err != nil:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return nil
	}
}

// named says whether f is still the file at path.
func named(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// Delete implements [blob.Store].
func (s *Store) Delete(_ context.Context, d oci.Digest) error {
	path, err := s.Path(d)
	if err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	if err := remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob %s: %w", d, bare(err))
	}
	return nil
}

// remove removes a file that nobody holds.
func remove(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // some network file systems lock only what may be written to
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := flock(f, unix.LOCK_EX); err != nil {
		return err
	}
	if there, err := named(f, path); err != nil || !there {
		return err
	}
	return os.Remove(path)
}

// Usage is what one blob takes.
type Usage struct {
	Digest oci.Digest
	Size   int64     // on the disk
	Used   time.Time // last
	Held   bool      // by some process, just now
}

// Usage lists what the blobs take. Blobs that come or go meanwhile may be missed.
func (s *Store) Usage(ctx context.Context) ([]Usage, error) {
	var all []Usage
	for d, err := range s.List(ctx) {
		if err != nil {
			return nil, err
		}
		u, err := s.usage(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("usage of blob %s: %w", d, bare(err))
		}
		all = append(all, u)
	}
	return all, nil
}

func (s *Store) usage(d oci.Digest) (u Usage, err error) {
	path, err := s.Path(d)
	if err != nil {
		return u, err
	}
	f, err := os.Open(path)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return u, err
	}
	u = Usage{Digest: d, Size: st.Blocks * 512, Used: time.Unix(st.Mtim.Unix())}
	if err := flock(f, unix.LOCK_EX); errors.Is(err, errs.Conflict) {
		u.Held = true
	} else if err != nil {
		return u, err
	}
	return u, nil
}

// Writing says how much the blobs take that are being written.
func (s *Store) Writing() (int64, error) {
	files, err := os.ReadDir(s.ingest())
	if err != nil {
		return 0, fmt.Errorf("usage of blobs: %w", err)
	}
	var n int64
	for _, file := range files {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.ingest(), file.Name()), &st); err == nil {
			n += st.Blocks * 512
		} else if !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("usage of blobs: %w", err)
		}
	}
	return n, nil
}
