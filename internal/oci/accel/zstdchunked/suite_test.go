package zstdchunked_test

import (
	"testing"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/zstdchunked"
)

func TestSuite(t *testing.T) {
	acceltest.Test(t, func(t *testing.T) accel.Format {
		t.Helper()
		f, err := zstdchunked.New(zstdchunked.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}
