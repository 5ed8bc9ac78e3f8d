// Package dir keeps blobs in a local directory, laid out as the blobs folder of an OCI image layout:
//
//	blobs/sha256/<hex>   one blob; locked (flock, shared) by whoever holds it; its modification time is its last use
//	ingest/<random>      a blob that some process is writing; locked while that process lives
//
// Blobs are not flushed to disk when they are written: on the machines this was measured on that would cost more than
// compressing them. Instead each file carries, as an extended attribute, the boot of the machine it was written in. In
// that boot the kernel answers for it; in any other, the first Open or Stat reads it once against its digest, and
// removes it if a crash left it damaged. See docs/decisions/0005-layer-folders.md. Where extended attributes do not
// work, and with [Options].Sync, blobs are flushed when they are committed.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"

	// The algorithms that a digest may name must be linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
)

// Store is a directory of blobs. See [blob.Store] for what its methods promise.
type Store struct {
	root string
	opts Options
}

var _ blob.Holder = (*Store)(nil)

// Options change how a Store works. The zero value is good.
type Options struct {
	// Sync flushes every blob to disk before Commit or Put returns. Default: blobs are verified after a restart of
	// the machine instead.
	Sync bool
	// Logger hears of damaged blobs that were removed. Default: nobody does.
	Logger *slog.Logger
	// Boot names the present boot of the machine. Default: the kernel's boot_id.
	Boot string
}

// Open returns the store in the directory root, which is created if needed.
func Open(root string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Boot == "" {
		boot, err := bootID()
		if err != nil {
			return nil, fmt.Errorf("open blob store %s: %w", root, err)
		}
		opts.Boot = boot
	}
	s := &Store{root: root, opts: opts}
	for _, dir := range []string{filepath.Join(root, oci.ImageBlobsDir, string(digest.SHA256)), s.ingest()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) ingest() string { return filepath.Join(s.root, "ingest") }

// Path returns where the blob d is, or would be. It does not say whether it is there.
func (s *Store) Path(d oci.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", errs.Mark(fmt.Errorf("digest %q: %w", string(d), err), errs.Invalid)
	}
	return filepath.Join(s.root, oci.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, d oci.Digest) (int64, error) {
	r, err := s.open(ctx, d)
	if err != nil {
		return 0, fmt.Errorf("stat blob %s: %w", d, err)
	}
	return r.size, r.Close()
}

// Open implements [blob.Store].
func (s *Store) Open(ctx context.Context, d oci.Digest) (blob.Reader, error) {
	r, err := s.open(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return r, nil
}

func (s *Store) open(ctx context.Context, d oci.Digest) (_ *reader, err error) {
	path, err := s.Path(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound
	}
	if err != nil {
		return nil, bare(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // only read
		}
	}()
	if err := s.trust(ctx, f, d); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, bare(err)
	}
	return &reader{File: f, size: info.Size()}, nil
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context) iter.Seq2[oci.Digest, error] {
	return func(yield func(oci.Digest, error) bool) {
		blobs := filepath.Join(s.root, oci.ImageBlobsDir)
		algorithms, err := os.ReadDir(blobs)
		if err != nil {
			yield("", fmt.Errorf("list blobs: %w", err))
			return
		}
		for _, algorithm := range algorithms {
			if !list(ctx, filepath.Join(blobs, algorithm.Name()), digest.Algorithm(algorithm.Name()), yield) {
				return
			}
		}
	}
}

func list(ctx context.Context, dir string, algorithm digest.Algorithm, yield func(oci.Digest, error) bool) bool {
	files, err := os.ReadDir(dir)
	if err != nil {
		return yield("", fmt.Errorf("list blobs: %w", err))
	}
	for _, file := range files {
		if ctx.Err() != nil {
			return yield("", context.Cause(ctx))
		}
		d := digest.NewDigestFromEncoded(algorithm, file.Name())
		if d.Validate() != nil {
			continue // not a blob: an editor's backup, a partial download of another program
		}
		if !yield(d, nil) {
			return false
		}
	}
	return true
}

// reader is an open blob.
type reader struct {
	*os.File
	size int64
}

func (r *reader) Size() int64 { return r.size }

// bare strips the path from a file system error: callers name the blob instead. A full disk is a limit.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Hint(errs.Mark(err, errs.Limit), "free some space, or set SLIPWAY_HOME to a folder on another file system")
	}
	return err
}
