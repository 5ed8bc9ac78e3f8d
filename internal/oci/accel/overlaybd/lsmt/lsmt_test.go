package lsmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/accel/overlaybd/lsmt"
)

const sector = lsmt.SectorSize

// write is some sectors for a layer.
type write struct{ at, n int }

// layer makes a layer of writes, each of sectors that begin with their place and mark.
func layer(t testing.TB, sectors int, mark string, writes ...write) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := lsmt.NewWriter(&out, lsmt.Options{Size: int64(sectors) * sector, UUID: lsmt.UUID{1, 2, 3}, Parent: lsmt.UUID{15: 9}})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range writes {
		if _, err := w.WriteAt(content(x.at, x.n, mark), int64(x.at)*sector); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func content(at, n int, mark string) []byte {
	p := make([]byte, n*sector)
	for i := range n {
		copy(p[i*sector:], fmt.Sprintf("%s %d", mark, at+i))
	}
	return p
}

func open(t testing.TB, data []byte) *lsmt.Layer {
	t.Helper()
	l, err := lsmt.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readAll(t testing.TB, layers ...*lsmt.Layer) []byte {
	t.Helper()
	d, err := lsmt.Stack(layers...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, writes := range map[string][]write{
		"nothing":                      nil,
		"one sector":                   {{5, 1}},
		"any order":                    {{90, 10}, {0, 3}, {40, 8}, {3, 5}},
		"joined":                       {{8, 8}, {16, 8}, {24, 8}},
		"next to each other, reversed": {{24, 8}, {16, 8}, {8, 8}},
		"the whole device":             {{0, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := make([]byte, 100*sector)
			for _, x := range writes {
				copy(want[x.at*sector:], content(x.at, x.n, "a"))
			}
			if got := readAll(t, open(t, layer(t, 100, "a", writes...))); !bytes.Equal(got, want) {
				t.Error("read other bytes than were written")
			}
		})
	}
}

// TestStack holds random stacks to a device in memory.
func TestStack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		size := 20 + rnd.IntN(200)
		want := make([]byte, size*sector)
		var layers []*lsmt.Layer
		for i := range 1 + rnd.IntN(6) {
			mark := fmt.Sprint("layer ", i)
			var writes []write
			for at := rnd.IntN(10); at < size; at += rnd.IntN(12) {
				n := min(1+rnd.IntN(20), size-at)
				writes = append(writes, write{at, n})
				copy(want[at*sector:], content(at, n, mark))
				at += n
			}
			rnd.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
			layers = append(layers, open(t, layer(t, size, mark, writes...)))
		}
		if got := readAll(t, layers...); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the stack shows other bytes than were written last", seed)
		}
		d, err := lsmt.Stack(layers...)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			off := rnd.IntN(len(want))
			p := make([]byte, rnd.IntN(10*sector))
			n, err := d.ReadAt(p, int64(off))
			if !bytes.Equal(p[:n], want[off:min(off+len(p), len(want))]) || (err != nil) != (n < len(p)) {
				t.Fatalf("seed %d: ReadAt(%d bytes, %d) = %d, %v", seed, len(p), off, n, err)
			}
		}
	}
}

// TestLargeSegments: a segment has at most 2^14-1 sectors, and pages stay in one piece.
func TestLargeSegments(t *testing.T) {
	t.Parallel()
	const sectors = 40_000
	data := layer(t, sectors, "x", write{0, sectors})
	if got := readAll(t, open(t, data)); !bytes.Equal(got, content(0, sectors, "x")) {
		t.Error("read other bytes than were written")
	}
	le := binary.LittleEndian
	trailer := data[len(data)-4096:]
	index := data[le.Uint64(trailer[32:]) : len(data)-4096]
	for i, want := range []uint64{16376, 16376, 40_000 - 2*16376} {
		if got := le.Uint64(index[16*i:]) >> 50; got != want {
			t.Errorf("segment %d has %d sectors, not %d", i, got, want)
		}
	}
}

func TestHighestLayerSaysHowLargeTheDeviceIs(t *testing.T) {
	t.Parallel()
	small, large := open(t, layer(t, 100, "a", write{0, 100})), open(t, layer(t, 200, "b", write{150, 1}))
	if got := readAll(t, small, large); len(got) != 200*sector {
		t.Errorf("%d bytes", len(got))
	}
	if got := readAll(t, large, small); len(got) != 100*sector {
		t.Errorf("%d bytes", len(got))
	}
}

// TestLayout reads the format with nothing of the package: what other programs rely on, offset by offset.
func TestLayout(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	data := layer(t, 64, "a", write{32, 8}, write{8, 16})
	trailer := data[len(data)-4096:]
	index := data[4096+24*sector : len(data)-4096]
	common := func(b []byte) map[string]bool {
		return map[string]bool{
			"magic":   string(b[:24]) == "LSMT\x00\x01\x02\x00\x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a",
			"size":    le.Uint32(b[24:]) == 390,
			"virtual": le.Uint64(b[48:]) == 64*sector,
			"uuid":    string(b[56:93]) == "01020300-0000-0000-0000-000000000000\x00",
			"parent":  string(b[93:130]) == "00000000-0000-0000-0000-000000000009\x00",
			"version": string(b[130:134]) == "\x00\x00\x01\x01",
			"rest":    bytes.Equal(b[134:4096], make([]byte, 4096-134)),
		}
	}
	checks := map[string]map[string]bool{"header": common(data), "trailer": common(trailer), "index": {
		// offset:50, length:14 | mapped:55, zeroed:1, tag:8
		"length":  len(index) == 4096,
		"first":   le.Uint64(index) == 8|16<<50 && le.Uint64(index[8:]) == 8+8,
		"second":  le.Uint64(index[16:]) == 32|8<<50 && le.Uint64(index[24:]) == 8,
		"filling": le.Uint64(index[32:]) == 1<<50-1 && le.Uint64(index[4096-16:]) == 1<<50-1,
	}}
	checks["header"]["flags"] = le.Uint32(data[28:]) == 1|2|4
	checks["trailer"]["flags"] = le.Uint32(trailer[28:]) == 2|4
	checks["trailer"]["index offset"] = le.Uint64(trailer[32:]) == 4096+24*sector
	checks["trailer"]["index count"] = le.Uint64(trailer[40:]) == 256
	for place, all := range checks {
		for what, ok := range all {
			if !ok {
				t.Errorf("wrong %s in the %s", what, place)
			}
		}
	}
}

// TestZeroedSegments: other writers say that a piece is zero, over data of a lower layer.
func TestZeroedSegments(t *testing.T) {
	t.Parallel()
	lower := layer(t, 64, "a", write{0, 64})
	upper := layer(t, 64, "b", write{8, 16})
	index := upper[4096+16*sector:]
	binary.LittleEndian.PutUint64(index[8:], 1<<55|8)
	want := content(0, 64, "a")
	clear(want[8*sector : 24*sector])
	if got := readAll(t, open(t, lower), open(t, upper)); !bytes.Equal(got, want) {
		t.Error("the lower layer shows through")
	}
}

func TestHostileLayers(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	const index = 4096 + 24*sector
	for name, tt := range map[string]struct {
		kind   error
		change func(data, trailer []byte)
	}{
		"other magic":              {errs.Corrupt, func(b, _ []byte) { b[5] = 9 }},
		"no trailer":               {errs.Corrupt, func(_, b []byte) { clear(b) }},
		"header is a trailer":      {errs.Invalid, func(b, _ []byte) { b[28] &^= 1 }},
		"index only":               {errs.Invalid, func(b, _ []byte) { b[28] &^= 2 }},
		"not sealed":               {errs.Invalid, func(_, b []byte) { b[28] &^= 4 }},
		"index far away":           {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[32:], 1<<63) }},
		"index in the header":      {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[32:], 512) }},
		"index between sectors":    {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[32:], index+16); le.PutUint64(b[40:], 1) }},
		"huge index":               {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[40:], 1<<60) }},
		"huge device":              {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[48:], 1<<63) }},
		"segment beyond device":    {errs.Corrupt, func(_, b []byte) { le.PutUint64(b[48:], 20*sector) }},
		"segment of nothing":       {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index:], 8) }},
		"segments overlap":         {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index+16:], 23|8<<50) }},
		"segments out of order":    {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index:], 40|8<<50) }},
		"stored in the header":     {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index+8:], 7) }},
		"stored after the data":    {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index+8:], 17) }},
		"zeroed, stored elsewhere": {errs.Corrupt, func(b, _ []byte) { le.PutUint64(b[index+8:], 1<<55|100) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := layer(t, 64, "a", write{32, 8}, write{8, 16})
			tt.change(data, data[len(data)-4096:])
			if _, err := lsmt.Open(bytes.NewReader(data), int64(len(data))); !errors.Is(err, tt.kind) {
				t.Errorf("error %v, want kind %v", err, tt.kind)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	data := layer(t, 64, "a", write{32, 8})
	for size := range len(data) {
		if _, err := lsmt.Open(bytes.NewReader(data), int64(size)); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("%d of %d bytes: %v", size, len(data), err)
		}
	}
	// A source that ends after the index was read.
	gone := &shrinking{data: data}
	l, err := lsmt.Open(gone, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	gone.data = data[:5000]
	d, err := lsmt.Stack(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(make([]byte, 64*sector), 0); !errors.Is(err, errs.Corrupt) {
		t.Errorf("error %v", err)
	}
}

type shrinking struct{ data []byte }

func (s *shrinking) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func TestWriterRefuses(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, -512, 100, lsmt.MaxSize + 512} {
		if _, err := lsmt.NewWriter(io.Discard, lsmt.Options{Size: size}); !errors.Is(err, errs.Invalid) {
			t.Errorf("device of %d bytes: %v", size, err)
		}
	}
	w, err := lsmt.NewWriter(io.Discard, lsmt.Options{Size: 10 * sector})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		n   int
		off int64
	}{{sector, 100}, {100, 0}, {sector, -sector}, {2 * sector, 9 * sector}, {sector, 1 << 62}} {
		if _, err := w.WriteAt(make([]byte, x.n), x.off); !errors.Is(err, errs.Invalid) {
			t.Errorf("%d bytes at %d: %v", x.n, x.off, err)
		}
	}
	for range 2 {
		if _, err := w.WriteAt(make([]byte, 2*sector), sector); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err == nil {
		t.Error("a sector that was written twice was accepted")
	}
}

func TestStackSizes(t *testing.T) {
	t.Parallel()
	l := open(t, layer(t, 8, "a"))
	if _, err := lsmt.Stack(); !errors.Is(err, errs.Limit) {
		t.Errorf("no layers: %v", err)
	}
	many := make([]*lsmt.Layer, lsmt.MaxLayers+1)
	for i := range many {
		many[i] = l
	}
	if _, err := lsmt.Stack(many...); !errors.Is(err, errs.Limit) {
		t.Errorf("%d layers: %v", len(many), err)
	}
	if _, err := lsmt.Stack(many[1:]...); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	data := layer(f, 64, "a", write{32, 8}, write{8, 16})
	f.Add(data, data, int64(700), 5000)
	f.Add(data, layer(f, 100, "b", write{0, 10}, write{20, 3}), int64(0), 100*sector)
	f.Fuzz(func(t *testing.T, lower, upper []byte, off int64, n int) {
		a, err := lsmt.Open(bytes.NewReader(lower), int64(len(lower)))
		if err != nil {
			return
		}
		b, err := lsmt.Open(bytes.NewReader(upper), int64(len(upper)))
		if err != nil {
			return
		}
		d, err := lsmt.Stack(a, b)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, min(max(n, 0), 1<<20))
		if got, err := d.ReadAt(p, off); err == nil && got != len(p) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, nil", len(p), off, got)
		}
	})
}

func BenchmarkStack(b *testing.B) {
	const size = 1 << 20
	var layers []*lsmt.Layer
	for i := range 20 {
		var writes []write
		for at := i; at+8 < size; at += 2000 + i {
			writes = append(writes, write{at, 8})
		}
		layers = append(layers, open(b, layer(b, size, "x", writes...)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := lsmt.Stack(layers...); err != nil {
			b.Fatal(err)
		}
	}
}
