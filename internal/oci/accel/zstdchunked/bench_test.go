package zstdchunked_test

import (
	"context"
	"io"
	"os"
	"testing"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/zstdchunked"
)

// BenchmarkConvert converts the tar that $SLIPWAY_BENCH_TAR names, else a small one.
func BenchmarkConvert(b *testing.B) {
	data := acceltest.Layers(b)[0]
	t, size := acceltest.FromBytes(data), int64(len(data))
	if name := os.Getenv("SLIPWAY_BENCH_TAR"); name != "" {
		info, err := os.Stat(name)
		if err != nil {
			b.Fatal(err)
		}
		t, size = func(context.Context) (io.ReadCloser, error) { return os.Open(name) }, info.Size()
	}
	f, err := zstdchunked.New(zstdchunked.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		l, err := f.Convert(b.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{t}})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(l.Descriptor.Size)/float64(size), "ratio")
	}
}
