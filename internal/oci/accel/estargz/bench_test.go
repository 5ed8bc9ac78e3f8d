package estargz_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/estargz"
)

// layerTar is the tar that $SLIPWAY_BENCH_TAR names, else a small one.
func layerTar(b *testing.B) (t accel.Tar, size int64) {
	b.Helper()
	name := os.Getenv("SLIPWAY_BENCH_TAR")
	if name == "" {
		data := acceltest.Layers(b)[0]
		return acceltest.FromBytes(data), int64(len(data))
	}
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	return func(context.Context) (io.ReadCloser, error) { return os.Open(name) }, info.Size()
}

func BenchmarkConvert(b *testing.B) {
	t, size := layerTar(b)
	for _, level := range []int{1, 2, 6} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			f, err := estargz.New(estargz.Options{Level: level})
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
		})
	}
}
