// Package lazy reads blobs that are far away, in chunks, as they are asked for. What was fetched once is kept in a file
// without a name, and counted: how much of an image a container needs is what accelerated images are about.
package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"slipway/internal/errs"
)

const (
	// ChunkSize is the least that is fetched: less is not worth a request.
	ChunkSize = 128 << 10
	// maxRequest is the most that is fetched at once.
	maxRequest = 32 * ChunkSize
)

// Fetch fills p with what a blob has from off on.
type Fetch func(ctx context.Context, p []byte, off int64) error

// Blob is a blob that is far away. Its methods may be called by several goroutines at once; a chunk that two ask for is
// fetched once.
type Blob struct {
	ctx   context.Context //nolint:containedctx // io.ReaderAt has none
	fetch Fetch
	size  int64
	kept  *os.File

	mu       sync.Mutex
	state    []state       // of chunks
	changed  chan struct{} // closed when a fetch ends
	fetched  int64
	requests int
}

// state is that of a chunk.
type state uint8

const (
	missing state = iota
	coming
	here
)

// Open returns a blob of size bytes. What is fetched of it is kept in dir, or in the system's folder for temporary files if
// that is empty, until Close. Reading ends with ctx.
func Open(ctx context.Context, fetch Fetch, size int64, dir string) (*Blob, error) {
	if size < 0 {
		return nil, fmt.Errorf("blob of %d bytes: %w", size, errs.Invalid)
	}
	f, err := os.CreateTemp(dir, "lazy-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Blob{
		ctx: ctx, fetch: fetch, size: size, kept: f, changed: make(chan struct{}),
		state: make([]state, (size+ChunkSize-1)/ChunkSize),
	}, nil
}

// Size returns the length of the blob.
func (b *Blob) Size() int64 { return b.size }

// Close forgets what was fetched.
func (b *Blob) Close() error { return b.kept.Close() }

// Fetched returns how many bytes were fetched so far, in how many requests.
func (b *Blob) Fetched() (bytes int64, requests int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fetched, b.requests
}

// ReadAt implements io.ReaderAt.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, errs.Invalid)
	}
	if off >= b.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), b.size-off))
	if n > 0 {
		if err := b.need(int(off/ChunkSize), int((off+int64(n)-1)/ChunkSize)+1); err != nil {
			return 0, err
		}
	}
	if _, err := b.kept.ReadAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// need returns when the chunks from first up to end are here.
func (b *Blob) need(first, end int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for first < end {
		if b.state[first] == here {
			first++
			continue
		}
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		switch b.state[first] {
		case coming:
			changed := b.changed
			b.mu.Unlock()
			select {
			case <-changed:
			case <-b.ctx.Done():
			}
			b.mu.Lock()
		case missing:
			last := first
			for last < end && b.state[last] == missing && last-first < maxRequest/ChunkSize {
				b.state[last] = coming
				last++
			}
			if err := b.get(first, last); err != nil {
				return err
			}
		}
	}
	return nil
}

// get fetches chunks that this goroutine has taken on. The lock is held, but not while they come.
func (b *Blob) get(first, end int) error {
	start := int64(first) * ChunkSize
	p := make([]byte, min(int64(end)*ChunkSize, b.size)-start)
	b.mu.Unlock()
	err := b.fetch(b.ctx, p, start)
	if err == nil {
		_, err = b.kept.WriteAt(p, start)
	}
	b.mu.Lock()
	became := here
	if err != nil {
		became = missing // whoever waits tries again
	} else {
		b.fetched += int64(len(p))
	}
	b.requests++
	for i := first; i < end; i++ {
		b.state[i] = became
	}
	close(b.changed)
	b.changed = make(chan struct{})
	return err
}
