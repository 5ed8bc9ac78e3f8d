package overlaybd_test

import (
	"io"
	"os"
	"testing"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/overlaybd"
)

// BenchmarkConvert converts a layer: the plain tar that SLIPWAY_BENCH_TAR names, or else a small one.
func BenchmarkConvert(b *testing.B) {
	data := acceltest.Layers(b)[0]
	if path := os.Getenv("SLIPWAY_BENCH_TAR"); path != "" {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	for _, algorithm := range []string{"lz4", "zstd"} {
		b.Run(algorithm, func(b *testing.B) {
			f := open(b, overlaybd.Options{Algorithm: algorithm})
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				l, err := f.Convert(b.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{acceltest.FromBytes(data)}})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(l.Descriptor.Size)/1e6, "MB")
			}
		})
	}
}
