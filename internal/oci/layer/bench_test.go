package layer_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/oci/layer"
)

// corpus makes a tree to measure with, and returns its directory and the bytes in it. The sorts are those of
// docs/decisions/0006-compression.md, scaled down.
func corpus(b *testing.B, sort string) (dir string, size int64) {
	b.Helper()
	dir = b.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("lorem%d ipsum dolor ", i)
	}
	text := func(n int) []byte {
		var buf bytes.Buffer
		for buf.Len() < n {
			buf.WriteString(words[r.IntN(len(words))])
		}
		return buf.Bytes()[:n]
	}
	write := func(name string, data []byte) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
		size += int64(len(data))
	}
	switch sort {
	case "tree":
		for i := range 2000 {
			write(fmt.Sprintf("d%d/s%d/f%d.js", i%20, i%7, i), text(200+r.IntN(24_000)))
		}
	case "big":
		noise := make([]byte, 16<<20)
		_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
		write("random", noise)
		write("text", text(16<<20))
	case "usr":
		const program = "/proc/self/exe"
		data, err := os.ReadFile(program)
		if err != nil {
			b.Fatal(err)
		}
		for i := range 4 {
			write(fmt.Sprintf("bin/program%d", i), data)
		}
		write("share/doc", text(1<<20))
	}
	return dir, size
}

func eachCorpus(b *testing.B, run func(b *testing.B, dir string)) {
	b.Helper()
	for _, sort := range []string{"tree", "big", "usr"} {
		b.Run(sort, func(b *testing.B) {
			dir, size := corpus(b, sort)
			b.SetBytes(size)
			b.ReportAllocs()
			run(b, dir)
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, algorithm := range []string{"gzip", "zstd", "none"} {
		b.Run(algorithm, func(b *testing.B) {
			eachCorpus(b, func(b *testing.B, dir string) {
				opts := layer.Options{Compression: layer.Compression{Algorithm: algorithm}}
				for b.Loop() {
					if _, err := layer.Write(b.Context(), io.Discard, layer.Upper(b.Context(), dir), opts); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkWriteTiny measures what a layer costs however small it is.
func BenchmarkWriteTiny(b *testing.B) {
	f := reg("f", "content")
	for b.Loop() {
		if _, err := layer.Write(b.Context(), io.Discard, seq(f), layer.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpper(b *testing.B) {
	dir, _ := corpus(b, "tree")
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range layer.Upper(b.Context(), dir) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	eachCorpus(b, func(b *testing.B, dir string) {
		into := fresh(b)
		for b.Loop() {
			if err := layer.Place(b.Context(), into(), layer.Upper(b.Context(), dir), layer.PlaceOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkApply(b *testing.B) {
	eachCorpus(b, func(b *testing.B, dir string) {
		var blob bytes.Buffer
		if _, err := layer.Write(b.Context(), &blob, layer.Upper(b.Context(), dir), layer.Options{}); err != nil {
			b.Fatal(err)
		}
		into := fresh(b)
		for b.Loop() {
			plain, err := layer.Decompress(bytes.NewReader(blob.Bytes()))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := layer.Apply(b.Context(), into(), plain, layer.ApplyOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// fresh returns a function that returns a new directory each time. What came before stays until the end: removing it
// would slow down what comes after.
func fresh(b *testing.B) func() string {
	b.Helper()
	parent := b.TempDir()
	n := 0
	return func() string {
		n++
		dir := filepath.Join(parent, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		return dir
	}
}

func BenchmarkDecompress(b *testing.B) {
	var blob bytes.Buffer
	res, err := layer.Write(b.Context(), &blob, seq(reg("f", strings.Repeat("some text with words ", 1<<20))), layer.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(res.Uncompressed)
	for b.Loop() {
		r, err := layer.Decompress(bytes.NewReader(blob.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}
