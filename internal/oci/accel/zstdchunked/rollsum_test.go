package zstdchunked

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// plainly cuts content as the format has it, byte by byte.
func plainly(data []byte) (cuts []int) {
	const start uint32 = window * charOffset
	s1, s2 := start, start*(window-1)
	var last [window]byte
	roll := func(i int) bool {
		drop := uint32(last[i%window])
		last[i%window] = data[i]
		s1 += uint32(data[i]) - drop
		s2 += s1 - window*(drop+charOffset)
		return s2&splitMask == splitMask
	}
	from := 0
	cut := func(at int) {
		if at > from {
			cuts, from = append(cuts, at), at
		}
	}
	for i := 0; i < len(data); {
		n := 0
		for i+n < len(data) && data[i+n] == 0 {
			n++
		}
		if n >= holeBytes {
			cut(i)
			for k := range n {
				roll(i + k)
			}
			i += n
			cut(i)
			continue
		}
		for range max(n, 1) {
			if roll(i) {
				cut(i + 1)
			}
			i++
		}
	}
	cut(len(data))
	return cuts
}

func TestSplitter(t *testing.T) {
	t.Parallel()
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
		return b
	}
	sparse := random(300_000)
	for i := range sparse {
		if i%5 != 0 || i%10_000 < 1500 {
			sparse[i] = 0
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "a byte": {1}, "a window": random(window), "a byte more": random(window + 1), "random": random(1 << 20),
		"a hole": make([]byte, 5000), "nearly a hole": make([]byte, holeBytes-1), "just a hole": make([]byte, holeBytes),
		"holes":       slices.Concat(random(3000), make([]byte, 2000), random(10), make([]byte, 1023), random(70), make([]byte, 1024), random(200_000)),
		"many zeros":  sparse,
		"one of all":  bytes.Repeat([]byte{7}, 400_000),
		"ends hollow": append(random(100), make([]byte, 4000)...),
	} {
		s, got := newSplitter(), []int(nil)
		for at := 0; at < len(data); {
			n := s.Split(data[at:])
			if n <= 0 || n > len(data)-at {
				t.Fatalf("%s: Split returned %d", name, n)
			}
			at += n
			got = append(got, at)
		}
		if want := plainly(data); !slices.Equal(got, want) {
			t.Errorf("%s: cut at %v, want %v", name, got, want)
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s := newSplitter()
		for at := 0; at < len(data); {
			at += s.Split(data[at:])
		}
	}
}
