package zfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/accel/overlaybd/zfile"
)

// memory is a file in memory.
type memory struct {
	mu   sync.Mutex
	data []byte
	full int64 // writes beyond it fail, unless it is 0
}

var errFull = errors.New("no space left")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := off + int64(len(p)); m.full > 0 && end > m.full {
		return 0, errFull
	} else if end > int64(len(m.data)) {
		m.data = append(m.data, make([]byte, end-int64(len(m.data)))...)
	}
	return copy(m.data[off:], p), nil
}

func compress(t testing.TB, data []byte, opts zfile.Options) []byte {
	t.Helper()
	var out memory
	w, err := zfile.NewWriter(&out, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// Uneven pieces: how the bytes are cut must not matter.
	for rest, n := data, 1; len(rest) > 0; n = n*3 + 7 {
		piece := rest[:min(n, len(rest))]
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
		rest = rest[len(piece):]
	}
	size, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(len(out.data)) {
		t.Fatalf("Finish says %d bytes, there are %d", size, len(out.data))
	}
	return out.data
}

func open(t testing.TB, data []byte) *zfile.Reader {
	t.Helper()
	r, err := zfile.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func random(n int) []byte {
	data := make([]byte, n)
	c := rand.NewChaCha8([32]byte{1})
	_, _ = c.Read(data) // never fails
	return data
}

// mixed has text, zeros and noise, of n bytes.
func mixed(n int) []byte {
	var b bytes.Buffer
	noise := random(5000)
	for i := 0; b.Len() < n; i++ {
		for range 100 {
			fmt.Fprintf(&b, "line %d of a file that is like most files\n", i)
		}
		b.Write(make([]byte, 3000))
		b.Write(noise)
	}
	return b.Bytes()[:n]
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	inputs := map[string][]byte{
		"a byte":           []byte("x"),
		"a block":          mixed(4096),
		"a block and more": mixed(32<<10 + 1),
		"zeros":            make([]byte, 100_000),
		"noise":            random(200_000),
		"several batches":  mixed(1_700_001),
	}
	for _, opts := range []zfile.Options{
		{},
		{Algorithm: "zstd"},
		{Algorithm: "lz4", BlockSize: 16 << 10},
		{Algorithm: "zstd", BlockSize: 4 << 10},
	} {
		for name, data := range inputs {
			t.Run(fmt.Sprintf("%s-%d/%s", opts.Algorithm, opts.BlockSize, name), func(t *testing.T) {
				t.Parallel()
				r := open(t, compress(t, data, opts))
				if r.Size() != int64(len(data)) {
					t.Fatalf("size %d, want %d", r.Size(), len(data))
				}
				got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("read %d bytes, %v; they differ from the %d that were written", len(got), err, len(data))
				}
				rnd := rand.New(rand.NewPCG(1, 2))
				for range 50 {
					off := rnd.IntN(len(data))
					p := make([]byte, rnd.IntN(70_000))
					n, err := r.ReadAt(p, int64(off))
					want := data[off:min(off+len(p), len(data))]
					if !bytes.Equal(p[:n], want) || (err != nil) != (n < len(p)) || err != nil && !errors.Is(err, io.EOF) {
						t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
					}
				}
			})
		}
	}
}

func TestOutputDependsOnInputAlone(t *testing.T) {
	t.Parallel()
	data := mixed(3_000_000)
	for _, algorithm := range []string{"lz4", "zstd"} {
		want := compress(t, data, zfile.Options{Algorithm: algorithm, Workers: 1})
		for _, workers := range []int{2, 3, 0} {
			if !bytes.Equal(compress(t, data, zfile.Options{Algorithm: algorithm, Workers: workers}), want) {
				t.Errorf("%s: %d workers give other bytes than one", algorithm, workers)
			}
		}
	}
}

// crc is CRC-32C bit by bit, as the consumer computes it: no inversion at either end.
func crc(sum uint32, data []byte) uint32 {
	for _, b := range data {
		sum ^= uint32(b)
		for range 8 {
			sum = sum>>1 ^ 0x82f63b78&-(sum&1)
		}
	}
	return sum
}

// TestLayout reads the format with nothing of the package: what other programs rely on, offset by offset.
func TestLayout(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	plain := mixed(10_000)
	for _, tt := range []struct {
		opts      zfile.Options
		algorithm byte
		block     int
	}{{zfile.Options{}, 1, 4096}, {zfile.Options{Algorithm: "zstd"}, 2, 32768}} {
		data := compress(t, plain, tt.opts)
		for place, b := range map[string][]byte{"header": data[:512], "trailer": data[len(data)-512:]} {
			flags := uint64(1 | 2 | 8 | 16)
			if place == "trailer" {
				flags = 2 | 4 | 16
			}
			index := data[le.Uint64(b[40:]) : len(data)-512]
			count := (len(plain) + tt.block - 1) / tt.block
			zeroed := append(append(append([]byte{}, b[:28]...), 0, 0, 0, 0), b[32:]...)
			for what, ok := range map[string]bool{
				"magic":        string(b[:24]) == "ZFile\x00\x01\x00tuji.yyf@Alibaba",
				"size":         le.Uint32(b[24:]) == 96,
				"digest":       le.Uint32(b[28:]) == crc(0, zeroed),
				"flags":        le.Uint64(b[32:]) == flags,
				"index length": len(index) == 4*count,
				"index count":  le.Uint64(b[48:]) == uint64(count),
				"plain size":   le.Uint64(b[56:]) == uint64(len(plain)),
				"index sum":    le.Uint32(b[64:]) == crc(0, index),
				"block size":   le.Uint32(b[72:]) == uint32(tt.block),
				"algorithm":    b[76] == tt.algorithm,
				"verify":       b[88] == 1,
				"rest":         bytes.Equal(b[89:], make([]byte, 512-89)),
			} {
				if !ok {
					t.Errorf("%s: wrong %s in the %s", tt.opts.Algorithm, what, place)
				}
			}
			pos := 512
			for i := range count {
				n := int(le.Uint32(index[4*i:]))
				block := data[pos : pos+n]
				if got, want := le.Uint32(block[n-4:]), crc(100007, block[:n-4]); got != want {
					t.Errorf("%s: block %d has checksum %08x, not %08x", tt.opts.Algorithm, i, got, want)
				}
				pos += n
			}
		}
	}
}

// TestIncompressibleBlocks: a group of blocks that starts at a multiple of 64 KiB must be shorter than that when stored,
// but for the last block, or its consumer's table of offsets overflows.
func TestIncompressibleBlocks(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"lz4", "zstd"} {
		for block := 4 << 10; block <= 32<<10; block *= 2 {
			data := compress(t, random(64<<10), zfile.Options{Algorithm: algorithm, BlockSize: block})
			index := data[binary.LittleEndian.Uint64(data[40:]):]
			sum := 0
			for i := range 64<<10/block - 1 {
				sum += int(binary.LittleEndian.Uint32(index[4*i:]))
			}
			if sum >= 65535 {
				t.Errorf("%s %d: a group of blocks has %d bytes", algorithm, block, sum)
			}
		}
	}
}

// TestReadsStreamedFile: a file that was written to a pipe has all but flags in its trailer only.
func TestReadsStreamedFile(t *testing.T) {
	t.Parallel()
	plain := mixed(20_000)
	data := compress(t, plain, zfile.Options{})
	clear(data[28:72])
	data[32] = 1 | 2
	got, err := io.ReadAll(io.NewSectionReader(open(t, data), 0, int64(len(plain))))
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// TestEveryByteIsProtected: no single changed byte goes unnoticed, and none crashes the reader.
func TestEveryByteIsProtected(t *testing.T) {
	t.Parallel()
	plain := mixed(9_000)
	for _, algorithm := range []string{"lz4", "zstd"} {
		data := compress(t, plain, zfile.Options{Algorithm: algorithm, BlockSize: 4096})
		for i := range data[:len(data)-512] { // the trailer is not read when the header is complete
			data[i] ^= 0x41
			r, err := zfile.NewReader(bytes.NewReader(data), int64(len(data)))
			if err == nil {
				_, err = r.ReadAt(make([]byte, len(plain)), 0)
			}
			if !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Invalid) {
				t.Fatalf("%s: byte %d changed: %v", algorithm, i, err)
			}
			data[i] ^= 0x41
		}
	}
}

// seal computes the digest of a header that a test has changed.
func seal(b []byte) {
	clear(b[28:32])
	binary.LittleEndian.PutUint32(b[28:], crc(0, b[:512]))
}

func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	for name, tt := range map[string]struct {
		kind   error
		change func(b []byte)
	}{
		"index at the end of the world": {errs.Corrupt, func(b []byte) { le.PutUint64(b[40:], 1<<63) }},
		"index inside the header":       {errs.Corrupt, func(b []byte) { le.PutUint64(b[40:], 8) }},
		"index inside the blocks":       {errs.Corrupt, func(b []byte) { le.PutUint64(b[40:], 600) }},
		"huge size, huge index":         {errs.Corrupt, func(b []byte) { le.PutUint64(b[56:], 1<<60); le.PutUint64(b[48:], 1<<48) }},
		"more than there are blocks":    {errs.Corrupt, func(b []byte) { le.PutUint64(b[56:], 1<<40) }},
		"overflowing size":              {errs.Corrupt, func(b []byte) { le.PutUint64(b[56:], 1<<64-1); le.PutUint64(b[48:], 0) }},
		"nothing":                       {errs.Corrupt, func(b []byte) { le.PutUint64(b[56:], 0); le.PutUint64(b[48:], 0) }},
		"blocks of nothing":             {errs.Invalid, func(b []byte) { le.PutUint32(b[72:], 0) }},
		"blocks of 3 KiB":               {errs.Invalid, func(b []byte) { le.PutUint32(b[72:], 3<<10) }},
		"blocks of 64 KiB":              {errs.Invalid, func(b []byte) { le.PutUint32(b[72:], 64<<10) }},
		"blocks of 2 GiB":               {errs.Invalid, func(b []byte) { le.PutUint32(b[72:], 2<<30) }},
		"LZO":                           {errs.Invalid, func(b []byte) { b[76] = 0 }},
		"dictionary":                    {errs.Invalid, func(b []byte) { b[78] = 1 }},
		"size of a dictionary":          {errs.Invalid, func(b []byte) { le.PutUint32(b[84:], 100) }},
		"compressed index":              {errs.Invalid, func(b []byte) { b[32] |= 32 }},
		"unknown flag":                  {errs.Invalid, func(b []byte) { b[33] |= 1 }},
		"trailer first":                 {errs.Corrupt, func(b []byte) { b[32] &^= 1 }},
		"other algorithm":               {errs.Corrupt, func(b []byte) { b[76] = 2 }},
		"no checksums though there are": {errs.Corrupt, func(b []byte) { b[88] = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := compress(t, mixed(20_000), zfile.Options{})
			tt.change(data)
			seal(data[:512])
			r, err := zfile.NewReader(bytes.NewReader(data), int64(len(data)))
			if err == nil {
				_, err = r.ReadAt(make([]byte, 20_000), 0)
			}
			if !errors.Is(err, tt.kind) {
				t.Errorf("error %v, want kind %v", err, tt.kind)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	data := compress(t, mixed(20_000), zfile.Options{})
	for size := range len(data) - 512 {
		if _, err := zfile.NewReader(bytes.NewReader(data), int64(size)); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("%d of %d bytes: %v", size, len(data), err)
		}
		// The blob may also be shorter than its descriptor says.
		r, err := zfile.NewReader(bytes.NewReader(data[:size]), int64(len(data)))
		if err == nil {
			_, err = r.ReadAt(make([]byte, 20_000), 0)
		}
		if !errors.Is(err, errs.Corrupt) {
			t.Fatalf("%d of %d bytes: %v", size, len(data), err)
		}
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errs.Unavailable }

// TestSourceErrorsStayWhatTheyAre: a registry that is away is no corrupt blob.
func TestSourceErrorsStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	if _, err := zfile.NewReader(brokenReader{}, 10_000); !errors.Is(err, errs.Unavailable) || errors.Is(err, errs.Corrupt) {
		t.Errorf("error %v", err)
	}
}

func TestConcurrentReads(t *testing.T) {
	t.Parallel()
	plain := mixed(500_000)
	for _, algorithm := range []string{"lz4", "zstd"} {
		r := open(t, compress(t, plain, zfile.Options{Algorithm: algorithm}))
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for off := i * 1000; off+9000 < len(plain); off += 23_000 {
					p := make([]byte, 9000)
					if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, plain[off:off+9000]) {
						t.Errorf("%s: ReadAt(%d): %v", algorithm, off, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestWriterErrors(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]zfile.Options{
		"algorithm": {Algorithm: "gzip"}, "64 KiB": {BlockSize: 64 << 10}, "2 KiB": {BlockSize: 2 << 10}, "odd": {BlockSize: 5000},
		"negative": {BlockSize: -4096},
	} {
		if _, err := zfile.NewWriter(&memory{}, opts); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	w, err := zfile.NewWriter(&memory{}, zfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); !errors.Is(err, errs.Invalid) {
		t.Errorf("a file of nothing: %v", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write after Finish succeeded")
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	data := random(20 << 20)
	for _, full := range []int64{1, 600, 1 << 20} {
		w, err := zfile.NewWriter(&memory{full: full}, zfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(data)
		if err == nil {
			_, err = w.Finish()
		}
		if !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v", full, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCloseEndsAllGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	w, err := zfile.NewWriter(&memory{}, zfile.Options{Workers: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(mixed(2_000_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines before, %d after", before, n)
	}
}

func FuzzReader(f *testing.F) {
	for _, algorithm := range []string{"lz4", "zstd"} {
		f.Add(compress(f, mixed(9_000), zfile.Options{Algorithm: algorithm, BlockSize: 4096}), int64(100), 5000)
	}
	f.Fuzz(func(t *testing.T, data []byte, off int64, n int) {
		if len(data) >= 512 {
			seal(data[:512]) // or nothing would ever get beyond the digest
		}
		r, err := zfile.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		p := make([]byte, min(max(n, 0), 1<<20))
		if got, err := r.ReadAt(p, off); err == nil && got != len(p) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, nil", len(p), off, got)
		}
	})
}
