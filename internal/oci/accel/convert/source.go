package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
)

// source is a layer of the original. Its bytes are held against its digest and its diffID, though a format may not read
// all of them: what follows the end of a tar is no file.
type source struct {
	c        *Converter
	from     ref.Ref
	desc     oci.Descriptor
	diffID   oci.Digest
	local    bool // fetch it whole before it is read
	progress func(n int64)

	mu       sync.Mutex
	verified bool
	streams  []*stream
}

// stream is one reading of a source.
type stream struct {
	s     *source
	raw   io.ReadCloser
	plain io.ReadCloser
	sum   hash.Hash // nil when the source is verified
	read  int64
	told  int64
}

// tar is accel.Tar.
func (s *source) tar(ctx context.Context) (io.ReadCloser, error) {
	raw, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	st := &stream{s: s, raw: raw}
	if st.plain, err = layer.Decompress(readerFunc(st.fetch)); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.verified {
		st.sum = sha256.New()
	}
	s.streams = append(s.streams, st)
	return st, nil
}

// open opens the layer as it is stored, here or in the registry.
func (s *source) open(ctx context.Context) (io.ReadCloser, error) {
	f, err := s.c.Blobs.Open(ctx, s.desc.Digest)
	if err == nil || !errors.Is(err, errs.NotFound) {
		return f, err
	}
	if !s.local {
		return s.c.Registry.Blob(ctx, s.from, s.desc)
	}
	if err := s.fetch(ctx); err != nil {
		return nil, err
	}
	return s.c.Blobs.Open(ctx, s.desc.Digest)
}

// fetch brings the layer into the store.
func (s *source) fetch(ctx context.Context) (err error) {
	r, err := s.c.Registry.Blob(ctx, s.from, s.desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := s.c.Blobs.Create(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	_, err = w.Commit(ctx, s.desc.Digest)
	return err
}

// progressStep is after how many bytes progress is told again.
const progressStep = 1 << 20

func (st *stream) fetch(p []byte) (int, error) {
	n, err := st.raw.Read(p)
	if st.read += int64(n); st.s.progress != nil && (st.read-st.told >= progressStep || err != nil) {
		st.told = st.read
		st.s.progress(st.read)
	}
	return n, err
}

// Read implements io.Reader.
func (st *stream) Read(p []byte) (int, error) {
	n, err := st.plain.Read(p)
	if st.sum != nil {
		st.sum.Write(p[:n])
	}
	return n, err
}

// Close implements io.Closer. The stream stays open until finish: there may be more to verify.
func (st *stream) Close() error { return nil }

// finish closes what was opened. After a conversion that went well it reads one stream to its end, if none has been
// before, and compares what it was with what it should be.
func (s *source) finish(verify bool) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if verify && !s.verified {
			if err = st.verify(); err == nil {
				s.verified, verify = true, false
			}
		}
		err = errors.Join(err, st.plain.Close(), st.raw.Close())
	}
	s.streams = nil
	return err
}

func (st *stream) verify() error {
	if _, err := io.Copy(io.Discard, st); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, readerFunc(st.fetch)); err != nil { // the client verifies the blob at its end
		return err
	}
	if got := digest.NewDigest(digest.SHA256, st.sum); got != st.s.diffID {
		return fmt.Errorf("%w: its tar is %s, the image's config says %s", errs.Corrupt, got, st.s.diffID)
	}
	return nil
}

// readerFunc is a function as a reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
