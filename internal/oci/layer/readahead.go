package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/oci"
)

const (
	chunkSize = 256 << 10
	maxChunks = 8
)

// aheadReader reads a stream in one goroutine and hashes it in another, while its owner uses the bytes.
type aheadReader struct {
	ctx   context.Context //nolint:containedctx // lives for one Apply
	quit  context.CancelCauseFunc
	group errgroup.Group
	free  chan *chunk
	out   chan *chunk
	hash  hash.Hash
	size  int64

	cur  *chunk
	rest []byte // of cur
}

// chunk is a piece of the stream. The owner and the hash both use it.
type chunk struct {
	data  []byte
	err   error // comes after data
	users atomic.Int32
}

// readAhead starts reading r. The caller must call stop, which waits until r.Read returns.
func readAhead(ctx context.Context, r io.Reader) *aheadReader {
	a := &aheadReader{free: make(chan *chunk, maxChunks), out: make(chan *chunk, maxChunks), hash: sha256.New()}
	a.ctx, a.quit = context.WithCancelCause(ctx)
	sums := make(chan *chunk, maxChunks)
	a.group.Go(func() error {
		defer close(sums)
		defer close(a.out)
		a.fetch(r, sums)
		return nil
	})
	a.group.Go(func() error {
		for c := range sums {
			a.hash.Write(c.data)
			a.size += int64(len(c.data))
			a.done(c)
		}
		return nil
	})
	return a
}

// fetch reads until the end, an error, or stop. The channels have room for all chunks.
func (a *aheadReader) fetch(r io.Reader, sums chan<- *chunk) {
	for made := 0; ; {
		var c *chunk
		if made < maxChunks {
			made++
			c = &chunk{data: make([]byte, chunkSize)}
		} else {
			select {
			case c = <-a.free:
			case <-a.ctx.Done():
				return
			}
		}
		c.data, c.err = readUpTo(r, c.data[:chunkSize])
		c.users.Store(2)
		end := c.err != nil
		sums <- c
		a.out <- c
		if end {
			return
		}
	}
}

// readUpTo fills p as far as it goes. It is io.ReadFull, but tells an end from one that came too soon.
func readUpTo(r io.Reader, p []byte) ([]byte, error) {
	n := 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return p[:n], err
		}
	}
	return p, nil
}

func (a *aheadReader) done(c *chunk) {
	if c.users.Add(-1) == 0 {
		a.free <- c
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if err := a.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// advance takes the next chunk. The last one, which has the error, stays.
func (a *aheadReader) advance() error {
	if a.cur != nil {
		if a.cur.err != nil {
			return a.cur.err
		}
		a.done(a.cur)
		a.cur = nil
	}
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	c, ok := <-a.out
	if !ok {
		return context.Cause(a.ctx)
	}
	a.cur, a.rest = c, c.data
	return nil
}

// broken returns the error that the stream ended with, if its owner came to it: nil for a proper end.
func (a *aheadReader) broken() error {
	if a.cur == nil || errors.Is(a.cur.err, io.EOF) {
		return nil
	}
	return a.cur.err
}

// stop ends the reading and waits for it.
func (a *aheadReader) stop() {
	a.quit(nil)
	_ = a.group.Wait() // neither goroutine fails: errors travel with the chunks
}

// sum returns the digest and the length of the stream, once it was read to its end and stopped.
func (a *aheadReader) sum() (oci.Digest, int64) {
	return digest.NewDigest(digest.SHA256, a.hash), a.size
}
