package serve_test

import (
	"testing"

	"slipway/internal/oci/registry/serve"
)

// start runs a registry on a port of its own for as long as the test runs.
func start(t *testing.T, opts serve.Options) *serve.Registry {
	t.Helper()
	r, err := serve.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stop registry: %v", err)
		}
	})
	if err := r.Start(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return r
}
