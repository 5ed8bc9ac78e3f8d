package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
)

// hostile is the embedded registry with a middleware that misbehaves, and a record of what it was asked.
type hostile struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	auth     []string
}

// misbehave answers a request itself, or passes it on. n counts the requests that are like it from 1 on: same method,
// same kind of path.
type misbehave func(w http.ResponseWriter, r *http.Request, n int, next http.Handler)

func behave(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) { next.ServeHTTP(w, r) }

func newHostile(t testing.TB, fault misbehave) *hostile {
	t.Helper()
	h := &hostile{}
	h.Server = httptest.NewUnstartedServer(h.wrap(newRegistry(t), fault))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Start()
	t.Cleanup(h.Close)
	return h
}

func newRegistry(t testing.TB) *serve.Registry {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (h *hostile) wrap(next http.Handler, fault misbehave) http.Handler {
	seen := make(map[string]int)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Method + " " + kindOf(r.URL.Path)
		h.mu.Lock()
		h.requests = append(h.requests, kind)
		h.auth = append(h.auth, r.Header.Get("Authorization"))
		seen[kind]++
		n := seen[kind]
		h.mu.Unlock()
		fault(w, r, n, next)
	})
}

func kindOf(path string) string {
	for _, kind := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/tags/", "/referrers/", "/token"} {
		if strings.Contains(path, kind) {
			return strings.Trim(kind, "/")
		}
	}
	return path
}

// asked returns the requests so far and forgets them.
func (h *hostile) asked() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.requests
	h.requests = nil
	return list
}

func (h *hostile) authorizations() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.auth
}

func (h *hostile) host() string { return strings.TrimPrefix(h.URL, "http://") }

func (h *hostile) ref(t testing.TB, name string) ref.Ref { return parse(t, h.host()+"/"+name) }

func parse(t testing.TB, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pauses records what a Client would have slept.
type pauses struct {
	mu   sync.Mutex
	list []time.Duration
}

func (p *pauses) sleep(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, d)
	return context.Cause(ctx)
}

// keychain knows one login for everything.
type keychain authn.AuthConfig

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(k)), nil
}

func newClient(t testing.TB, opts registry.Options) *registry.Client {
	t.Helper()
	if opts.Keychain == nil {
		opts.Keychain = keychain{}
	}
	if opts.Sleep == nil {
		opts.Sleep = new(pauses).sleep
	}
	if opts.Transport == nil {
		// A transport of the test's own, so that closing it closes the test's connections alone.
		opts.Transport = &http.Transport{MaxIdleConnsPerHost: 8}
	}
	c := registry.New(opts)
	t.Cleanup(c.Close)
	return c
}

// abortAfter lets n bytes of the body through and then breaks the connection.
type abortAfter struct {
	http.ResponseWriter
	n int
}

func (a *abortAfter) Write(p []byte) (int, error) {
	if len(p) > a.n {
		_, err := a.ResponseWriter.Write(p[:a.n])
		if f, ok := a.ResponseWriter.(http.Flusher); ok && err == nil {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	a.n -= len(p)
	return a.ResponseWriter.Write(p)
}

// cutBody lets n bytes of a request through, then the handler sees a broken connection, and then the client does.
func cutBody(r *http.Request, n int64, next http.Handler) {
	r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, n), brokenReader{}))
	next.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// content is n bytes that do not repeat soon.
func content(n int) []byte {
	data := make([]byte, n)
	x := uint32(2463534242)
	for i := range data {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		data[i] = byte(x)
	}
	return data
}

func describe(data []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: oci.MediaTypeLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// complete is the source of a blob that is there.
func complete(data []byte) registry.Source {
	return registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return describe(data), nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	}
}

// growing is the source of a blob whose digest is known only after all of it has been read once.
func growing(data []byte) registry.Source {
	done := make(chan struct{})
	var once sync.Once
	return registry.Source{
		Known: func() bool {
			select {
			case <-done:
				return true
			default:
				return false
			}
		},
		Descriptor: func(ctx context.Context) (oci.Descriptor, error) {
			select {
			case <-done:
				return describe(data), nil
			case <-ctx.Done():
				return oci.Descriptor{}, context.Cause(ctx)
			}
		},
		Open: func(offset int64) (io.ReadCloser, error) {
			finished := readerFunc(func([]byte) (int, error) {
				once.Do(func() { close(done) })
				return 0, io.EOF
			})
			return io.NopCloser(io.MultiReader(bytes.NewReader(data[offset:]), finished)), nil
		},
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// seed puts an image of one layer into a registry and returns its manifest and layer.
func seed(t testing.TB, h *hostile, name string) (manifest, layer []byte) {
	t.Helper()
	c := newClient(t, registry.Options{})
	r := h.ref(t, name)
	layer = content(300 << 10)
	config := []byte(`{"architecture":"amd64","os":"linux"}`)
	for _, data := range [][]byte{layer, config} {
		if _, err := c.PushBlob(t.Context(), r, complete(data)); err != nil {
			t.Fatal(err)
		}
	}
	m := oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), []oci.Descriptor{describe(layer)}, nil)
	manifest, err := oci.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushManifest(t.Context(), r, oci.MediaTypeManifest, manifest); err != nil {
		t.Fatal(err)
	}
	h.asked()
	return manifest, layer
}

func readBlob(t testing.TB, c *registry.Client, r ref.Ref, desc oci.Descriptor) ([]byte, error) {
	t.Helper()
	content, err := c.Blob(t.Context(), r, desc)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(content)
	return data, errors.Join(err, content.Close())
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}
