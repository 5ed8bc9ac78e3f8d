package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/accel/lazy"
)

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}

// far is a blob that is far away.
type far struct {
	data []byte
	mu   sync.Mutex
	asks []int64 // offsets
	fail int     // so many requests fail
}

var errFar = errors.New("too far")

func (f *far) fetch(_ context.Context, p []byte, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = append(f.asks, off)
	if f.fail > 0 {
		f.fail--
		return errFar
	}
	copy(p, f.data[off:])
	return nil
}

func open(t *testing.T, f *far) *lazy.Blob {
	t.Helper()
	b, err := lazy.Open(t.Context(), f.fetch, int64(len(f.data)), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestFetchesWhatIsRead(t *testing.T) {
	t.Parallel()
	const chunk = lazy.ChunkSize
	f := &far{data: content(10*chunk + 100)}
	b := open(t, f)
	for _, step := range []struct {
		name     string
		off      int64
		n        int
		fetched  int64
		requests int
	}{
		{"a byte", 3*chunk + 5, 1, chunk, 1},
		{"the same chunk", 3 * chunk, chunk, chunk, 1},
		{"two chunks, side by side", 4*chunk + 1, chunk, 3 * chunk, 2},
		{"around what is here", 2 * chunk, 5 * chunk, 5 * chunk, 4},
		{"the short end", 10 * chunk, 100, 5*chunk + 100, 5},
		{"everything", 0, 10*chunk + 100, 10*chunk + 100, 7},
	} {
		p := make([]byte, step.n)
		if n, err := b.ReadAt(p, step.off); err != nil || n != step.n || !bytes.Equal(p, f.data[step.off:step.off+int64(step.n)]) {
			t.Errorf("%s: read %d bytes, %v", step.name, n, err)
		}
		if fetched, requests := b.Fetched(); fetched != step.fetched || requests != step.requests {
			t.Errorf("%s: fetched %d bytes in %d requests, want %d in %d", step.name, fetched, requests, step.fetched, step.requests)
		}
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	f := &far{data: content(1000)}
	b := open(t, f)
	p := make([]byte, 100)
	if n, err := b.ReadAt(p, 950); n != 50 || !errors.Is(err, io.EOF) {
		t.Errorf("over the end: %d, %v", n, err)
	}
	if n, err := b.ReadAt(p, 1000); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, err := b.ReadAt(p, -1); !errors.Is(err, errs.Invalid) {
		t.Errorf("before the beginning: %v", err)
	}
	if _, err := lazy.Open(t.Context(), f.fetch, -1, t.TempDir()); !errors.Is(err, errs.Invalid) {
		t.Errorf("a blob of less than nothing: %v", err)
	}
}

func TestLongReadsAreSeveralRequests(t *testing.T) {
	t.Parallel()
	f := &far{data: content(70 * lazy.ChunkSize)}
	if data, err := io.ReadAll(io.NewSectionReader(open(t, f), 0, int64(len(f.data)))); err != nil || !bytes.Equal(data, f.data) {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
	b := open(t, f)
	f.asks = nil
	if _, err := b.ReadAt(make([]byte, len(f.data)), 0); err != nil || len(f.asks) != 3 {
		t.Errorf("%d requests, %v; want 3", len(f.asks), err)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	f := &far{data: content(1000), fail: 1}
	b := open(t, f)
	if _, err := b.ReadAt(make([]byte, 10), 0); !errors.Is(err, errFar) {
		t.Errorf("error %v", err)
	}
	p := make([]byte, 10)
	if _, err := b.ReadAt(p, 0); err != nil || !bytes.Equal(p, f.data[:10]) {
		t.Errorf("after that: %v", err)
	}
	if fetched, requests := b.Fetched(); fetched != 1000 || requests != 2 {
		t.Errorf("fetched %d bytes in %d requests", fetched, requests)
	}
}

// TestAtOnce: whoever asks for the same chunk waits for it, and does not fetch it again.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	f := &far{data: content(40 * lazy.ChunkSize)}
	b := open(t, f)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 40 {
				at := int64((k*7+i)%40) * lazy.ChunkSize
				p := make([]byte, 2000)
				if n, err := b.ReadAt(p, at); err != nil || !bytes.Equal(p[:n], f.data[at:at+2000]) {
					t.Errorf("at %d: %v", at, err)
				}
			}
		})
	}
	wg.Wait()
	if fetched, requests := b.Fetched(); fetched != int64(len(f.data)) || requests != 40 {
		t.Errorf("fetched %d of %d bytes in %d requests", fetched, len(f.data), requests)
	}
}

// TestCanceled: somebody who waits for another's fetch does not wait for ever.
func TestCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	began, gone := make(chan struct{}), errors.New("gone")
	b, err := lazy.Open(ctx, func(ctx context.Context, _ []byte, _ int64) error {
		close(began)
		<-ctx.Done()
		return context.Cause(ctx)
	}, 1000, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var wg sync.WaitGroup
	read := func() {
		if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, gone) {
			t.Errorf("error %v, want the cause", err)
		}
	}
	wg.Go(read)
	<-began
	wg.Go(read)
	cancel(gone)
	wg.Wait()
}

func TestKeepsNoName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := lazy.Open(t.Context(), (&far{data: content(10)}).fetch, 10, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
