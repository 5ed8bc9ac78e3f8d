package registry_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/registry"
)

func TestReadBlobAt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault    misbehave
		requests int
		kind     error
	}{
		"a registry that behaves": {behave, 1, nil},
		"a connection that breaks once": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if n == 1 && r.Method == http.MethodGet {
				w = &abortAfter{w, 100}
			}
			next.ServeHTTP(w, r)
		}, 2, nil},
		"whole blobs only": {func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
			r.Header.Del("Range")
			next.ServeHTTP(w, r)
		}, 1, errs.Unavailable},
		"another part": {func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
			if r.Header.Get("Range") != "" {
				r.Header.Set("Range", "bytes=7-1006")
			}
			next.ServeHTTP(w, r)
		}, 1, errs.Corrupt},
		"less than it says": {func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
			if r.Method != http.MethodGet {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Range", "bytes 1000-1999/307200")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 10))
		}, 5, errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			_, layer := seed(t, h, "app:v1")
			h.asked()
			var slept pauses
			client := newClient(t, registry.Options{Sleep: slept.sleep})
			p := make([]byte, 1000)
			err := client.ReadBlobAt(t.Context(), h.ref(t, "app:v1"), describe(layer), p, 1000)
			if !errors.Is(err, c.kind) || err == nil && !bytes.Equal(p, layer[1000:2000]) {
				t.Errorf("error %v, want %v", err, c.kind)
			}
			if asked := h.asked(); len(asked) != c.requests {
				t.Errorf("requests %v, want %d", asked, c.requests)
			}
		})
	}
}

func TestReadBlobAtBounds(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	_, layer := seed(t, h, "app:v1")
	c := newClient(t, registry.Options{})
	all := make([]byte, len(layer))
	if err := c.ReadBlobAt(t.Context(), h.ref(t, "app:v1"), describe(layer), all, 0); err != nil || !bytes.Equal(all, layer) {
		t.Errorf("all of it: %v", err)
	}
	for _, x := range []struct {
		n   int
		off int64
	}{{10, -1}, {0, 5}, {10, int64(len(layer)) - 9}, {1, 1 << 62}} {
		if err := c.ReadBlobAt(t.Context(), h.ref(t, "app:v1"), describe(layer), make([]byte, x.n), x.off); !errors.Is(err, errs.Invalid) {
			t.Errorf("%d bytes at %d: %v", x.n, x.off, err)
		}
	}
	gone := describe([]byte("another"))
	if err := c.ReadBlobAt(t.Context(), h.ref(t, "app:v1"), gone, make([]byte, 1), 0); !errors.Is(err, errs.NotFound) ||
		!strings.Contains(err.Error(), "read 1 bytes at 0 of "+gone.Digest.String()) {
		t.Errorf("a blob that is not there: %v", err)
	}
}
