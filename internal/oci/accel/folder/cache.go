package folder

import (
	"container/list"
	"context"
	"sync"

	"slipway/internal/oci/accel/estargz"
)

const defaultCache = 64 << 20

// cache keeps chunks that were fetched: the kernel reads a chunk in many pieces, and several processes the same file.
// Each chunk is fetched once, whoever asks meanwhile waits.
type cache struct {
	mu    sync.Mutex
	room  int64
	byKey map[chunkKey]*list.Element // of recent
	// recent holds *chunk, the one used last in front.
	recent *list.List
}

type chunkKey struct {
	file  *estargz.File
	index int
}

// chunk is content on its way, or there.
type chunk struct {
	key   chunkKey
	ready chan struct{}
	data  []byte
	first int64
	err   error
}

func newCache(room int64) *cache {
	if room <= 0 {
		room = defaultCache
	}
	return &cache{room: room, byKey: map[chunkKey]*list.Element{}, recent: list.New()}
}

// readAt reads a file's content like an io.ReaderAt. It returns after a chunk: whoever wants more asks again.
func (c *cache) readAt(ctx context.Context, r *estargz.Reader, f *estargz.File, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off+int64(n) < f.Size {
		data, first, err := c.chunk(ctx, r, f, off+int64(n))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], data[off+int64(n)-first:])
	}
	return n, nil
}

func (c *cache) chunk(ctx context.Context, r *estargz.Reader, f *estargz.File, off int64) ([]byte, int64, error) {
	key := chunkKey{f, f.ChunkAt(off)}
	c.mu.Lock()
	e, ok := c.byKey[key]
	if ok {
		c.recent.MoveToFront(e)
	} else {
		e = c.recent.PushFront(&chunk{key: key, ready: make(chan struct{})})
		c.byKey[key] = e
	}
	c.mu.Unlock()
	got := e.Value.(*chunk) //nolint:forcetypeassert // nothing else is in there
	if !ok {
		data, first, err := r.Chunk(ctx, f, off)
		c.keep(e, got, data, first, err)
	}
	select {
	case <-got.ready:
		return got.data, got.first, got.err
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
}

// keep makes a chunk known, and room for it. What failed is asked for again.
func (c *cache) keep(e *list.Element, got *chunk, data []byte, first int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	got.data, got.first, got.err = data, first, err
	close(got.ready)
	if got.err != nil {
		c.drop(e, got)
		return
	}
	c.room -= int64(len(got.data))
	for old := c.recent.Back(); c.room < 0 && old != nil && old != e; {
		before := old.Prev()
		if last := old.Value.(*chunk); last.data != nil { //nolint:forcetypeassert // nothing else is in there
			c.room += int64(len(last.data))
			c.drop(old, last)
		}
		old = before
	}
}

func (c *cache) drop(e *list.Element, got *chunk) {
	c.recent.Remove(e)
	delete(c.byKey, got.key)
}
