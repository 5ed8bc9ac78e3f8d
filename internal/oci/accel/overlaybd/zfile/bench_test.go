package zfile_test

import (
	"testing"

	"slipway/internal/oci/accel/overlaybd/zfile"
)

// nowhere swallows what is written.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func BenchmarkWriter(b *testing.B) {
	data := mixed(64 << 20)
	for _, algorithm := range []string{"lz4", "zstd"} {
		b.Run(algorithm, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				w, err := zfile.NewWriter(nowhere{}, zfile.Options{Algorithm: algorithm})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Finish(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	data := mixed(16 << 20)
	for _, algorithm := range []string{"lz4", "zstd"} {
		r := open(b, compress(b, data, zfile.Options{Algorithm: algorithm}))
		p := make([]byte, 128<<10)
		b.Run(algorithm, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			off := int64(0)
			for b.Loop() {
				if _, err := r.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(len(p))) % (r.Size() - int64(len(p)))
			}
		})
	}
}
