package dir

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
)

var errAborted = errors.New("writer closed before commit")

// writer is one blob being written.
type writer struct {
	store  *Store
	file   *shared
	hash   hash.Hash
	path   string   // of the ingest file; empty when it is no longer there
	there  *os.File // the blob that was there already, held; nil when the file became it
	closed bool
}

var (
	_ blob.Writer = (*writer)(nil)
	_ blob.Summer = (*writer)(nil)
)

// Create implements [blob.Store].
func (s *Store) Create(ctx context.Context) (blob.Writer, error) {
	w, err := s.create(ctx)
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return w, nil
}

func (s *Store) create(ctx context.Context) (*writer, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := s.temp()
	if err != nil {
		return nil, bare(err)
	}
	w := &writer{store: s, path: f.Name(), hash: sha256.New(), file: &shared{file: f, users: 1}}
	w.file.grown.L = &w.file.mu
	return w, nil
}

// temp makes a locked file in ingest. Recover may come between making and locking it; then there is another try. The
// lock is that of a holder, so that the blob is held from the moment it has its name.
func (s *Store) temp() (*os.File, error) {
	for {
		f, err := os.OpenFile(filepath.Join(s.ingest(), rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err = flock(f, unix.LOCK_SH)
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink == 1 {
			return f, nil
		}
		_ = f.Close() // nothing was written
		if err != nil && !errors.Is(err, errs.Conflict) {
			return nil, errors.Join(err, os.Remove(f.Name()))
		}
	}
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, data []byte) (_ oci.Digest, err error) {
	d := digest.FromBytes(data)
	if _, err := s.Stat(ctx, d); err == nil {
		return d, nil
	}
	w, err := s.create(ctx)
	if err != nil {
		return "", fmt.Errorf("put blob %s: %w", d, err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	if _, err := w.Commit(ctx, d); err != nil {
		return "", err
	}
	return d, nil
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.file.file.Write(p)
	w.hash.Write(p[:n])
	if err != nil {
		err = fmt.Errorf("write blob: %w", bare(err))
	}
	w.file.add(int64(n))
	return n, err
}

// Sum implements [blob.Summer].
func (w *writer) Sum() oci.Digest { return digest.NewDigest(digest.SHA256, w.hash) }

// Commit implements [blob.Writer].
func (w *writer) Commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error) {
	desc, err := w.commit(ctx, want)
	if err != nil {
		err = fmt.Errorf("commit blob: %w", err)
		return oci.Descriptor{}, errors.Join(err, w.abort(err))
	}
	w.file.end(io.EOF)
	return desc, nil
}

func (w *writer) commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error) {
	if w.path == "" {
		return oci.Descriptor{}, errors.New("writer is finished")
	}
	if ctx.Err() != nil {
		return oci.Descriptor{}, context.Cause(ctx)
	}
	got, err := w.digest(want)
	if err != nil {
		return oci.Descriptor{}, err
	}
	if want != "" && got != want {
		return oci.Descriptor{}, fmt.Errorf("%w: digest is %s, not %s", errs.Corrupt, got, want)
	}
	if err := w.publish(ctx, got); err != nil {
		return oci.Descriptor{}, bare(err)
	}
	return oci.Descriptor{Digest: got, Size: w.file.written}, nil
}

// publish gives the file its name, unless there is such a blob: that one stays, since somebody may hold it.
func (w *writer) publish(ctx context.Context, d oci.Digest) error {
	path, err := w.store.Path(d)
	if err != nil {
		return err
	}
	if err := w.store.mark(w.file.file); err != nil {
		return err
	}
	for {
		err := w.name(path)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		there, err := w.store.hold(ctx, d)
		if err == nil {
			w.there = there.File
			return w.drop()
		}
		if !errors.Is(err, errs.NotFound) { // if it was removed, or was damaged, ours takes its place
			return err
		}
	}
}

// name moves the file to path if nothing is there.
func (w *writer) name(path string) error {
	err := os.Link(w.path, path)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		err = unix.Renameat2(unix.AT_FDCWD, w.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE) // no links here
	} else if err == nil {
		err = os.Remove(w.path)
	}
	if err != nil {
		return err
	}
	w.path = ""
	if w.store.opts.Sync {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// digest returns the digest of what was written, by the algorithm of want. Only sha256 is computed on the way.
func (w *writer) digest(want oci.Digest) (oci.Digest, error) {
	if want == "" {
		return w.Sum(), nil
	}
	path, err := w.store.Path(want)
	if err != nil || want.Algorithm() == digest.SHA256 {
		return w.Sum(), err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", bare(err)
	}
	return want.Algorithm().FromReader(io.NewSectionReader(w.file.file, 0, w.file.written))
}

// Close implements [blob.Writer].
func (w *writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := errors.Join(w.abort(errAborted), w.file.release())
	if w.there != nil {
		err = errors.Join(err, w.there.Close())
	}
	return err
}

// abort removes the ingest file, if it is still there, and tells the followers why.
func (w *writer) abort(cause error) error {
	w.file.end(cause)
	if err := w.drop(); err != nil {
		return fmt.Errorf("abort blob: %w", err)
	}
	return nil
}

// drop removes the ingest file, if it is still there.
func (w *writer) drop() error {
	if w.path == "" {
		return nil
	}
	path := w.path
	w.path = ""
	return os.Remove(path)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// shared is the file of a blob being written, between its writer and its followers. The last to release it closes it.
type shared struct {
	file *os.File

	mu      sync.Mutex
	grown   sync.Cond // written or ended changed
	written int64
	ended   error // why there will be no more: io.EOF, or what went wrong
	users   int
}

func (s *shared) add(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written += n
	s.grown.Broadcast()
}

// end says that there will be no more bytes. Only the first reason counts.
func (s *shared) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = reason
		s.grown.Broadcast()
	}
}

func (s *shared) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 {
		return nil
	}
	return s.file.Close()
}
