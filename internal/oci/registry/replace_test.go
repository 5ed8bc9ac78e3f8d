package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

// numbered is the nth of many manifests.
func numbered(n int) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"n":"%d"}}`, oci.MediaTypeIndex, n)
}

func TestReplaceManifest(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	c := newClient(t, registry.Options{})
	r := h.ref(t, "app")
	first, err := c.ReplaceManifest(t.Context(), r, oci.MediaTypeIndex, numbered(1), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []oci.Digest{"", digest.FromString("another")} {
		if _, err := c.ReplaceManifest(t.Context(), r, oci.MediaTypeIndex, numbered(2), old); !errors.Is(err, errs.Conflict) {
			t.Errorf("replace %q = %v, want a conflict", old, err)
		}
	}
	second, err := c.ReplaceManifest(t.Context(), r, oci.MediaTypeIndex, numbered(2), first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := c.Resolve(t.Context(), r); err != nil || got.Digest != second.Digest {
		t.Errorf("Resolve = %s, %v, want %s", got.Digest, err, second.Digest)
	}
}

// TestReplaceManifestRaces lets writers pass the look at the tag together: of all that expect the same manifest one wins.
func TestReplaceManifestRaces(t *testing.T) {
	t.Parallel()
	const writers = 8
	var looked sync.WaitGroup
	looked.Add(writers)
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.Method == http.MethodPut {
			looked.Done()
			looked.Wait()
		}
		next.ServeHTTP(w, r)
	})
	r := h.ref(t, "app")
	var writing sync.WaitGroup
	failures := make(chan error, writers)
	for n := range writers {
		c := newClient(t, registry.Options{})
		writing.Go(func() {
			if _, err := c.ReplaceManifest(t.Context(), r, oci.MediaTypeIndex, numbered(n), ""); err != nil {
				failures <- err
			}
		})
	}
	writing.Wait()
	close(failures)
	if n := len(failures); n != writers-1 {
		t.Errorf("%d of %d writers failed, want all but one", n, writers)
	}
	for err := range failures {
		if !errors.Is(err, errs.Conflict) {
			t.Errorf("a writer that lost: %v, want a conflict", err)
		}
	}
}
