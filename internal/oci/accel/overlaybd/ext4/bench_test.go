package ext4_test

import (
	"bytes"
	"fmt"
	"testing"

	"slipway/internal/oci/accel/overlaybd/ext4"
)

// BenchmarkApply applies a layer of 5,000 files, 40 MB.
func BenchmarkApply(b *testing.B) {
	var entries []entry
	for i := range 5000 {
		entries = append(entries, file(fmt.Sprintf("usr/share/%d/%d", i/50, i), string(noise(8000))))
	}
	layer := pack(b, entries...)
	b.SetBytes(int64(len(layer)))
	b.ReportAllocs()
	for b.Loop() {
		f := ext4.New([16]byte{})
		if err := f.Apply(b.Context(), bytes.NewReader(layer), errWriter{nil}); err != nil {
			b.Fatal(err)
		}
		if err := f.Flush(errWriter{nil}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens the file system of such a layer.
func BenchmarkOpen(b *testing.B) {
	var entries []entry
	for i := range 5000 {
		entries = append(entries, file(fmt.Sprintf("usr/share/%d/%d", i/50, i), "x"))
	}
	d, _ := build(b, pack(b, entries...))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ext4.Open(d); err != nil {
			b.Fatal(err)
		}
	}
}
