package estargz_test

import (
	"testing"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/estargz"
)

func TestSuite(t *testing.T) {
	for name, opts := range map[string]estargz.Options{
		"plain": {}, "fast": {Level: 1}, "first": {First: []string{"/bin/tool-link", "data/big", "not/there"}},
	} {
		t.Run(name, func(t *testing.T) {
			acceltest.Test(t, func(t *testing.T) accel.Format {
				t.Helper()
				f, err := estargz.New(opts)
				if err != nil {
					t.Fatal(err)
				}
				return f
			})
		})
	}
}
