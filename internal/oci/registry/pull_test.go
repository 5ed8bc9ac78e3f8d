package registry_test

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	manifest, layer := seed(t, h, "app:v1")
	c := newClient(t, registry.Options{})
	r := h.ref(t, "app:v1")

	desc, data, err := c.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := oci.Describe(oci.MediaTypeManifest, manifest); !bytes.Equal(data, manifest) || desc.Digest != want.Digest || desc.Size != want.Size || desc.MediaType != want.MediaType {
		t.Errorf("Resolve = %v, %q", desc, data)
	}
	head, err := c.Head(t.Context(), r)
	if err != nil || head.Digest != desc.Digest || head.Size != desc.Size || head.MediaType != desc.MediaType {
		t.Errorf("Head = %v, %v; want %v", head, err, desc)
	}
	if _, _, err := c.Resolve(t.Context(), r.WithDigest(desc.Digest)); err != nil {
		t.Errorf("Resolve by digest: %v", err)
	}
	got, err := readBlob(t, c, r, describe(layer))
	if err != nil || !bytes.Equal(got, layer) {
		t.Errorf("Blob: %d bytes, %v", len(got), err)
	}
	// No ping, no challenge, no second thought: one request each.
	want := []string{"GET manifests", "HEAD manifests", "GET manifests", "GET blobs"}
	if diff := cmp.Diff(want, h.asked()); diff != "" {
		t.Errorf("requests mismatch (-want +got)\n%s", diff)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	answer := func(contentType, body string) misbehave {
		return func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		fault misbehave
		ref   string
		kind  error
		text  string
	}{
		"not found": {behave, "app:none", errs.NotFound, "404 manifest unknown"},
		"a digest header that is wrong": {
			func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
				w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
				answer(oci.MediaTypeManifest, "{}")(w, r, n, next)
			}, "app:v1", errs.Corrupt, "registry lies",
		},
		"a digest header that is none": {
			func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
				w.Header().Set("Docker-Content-Digest", "no digest")
				answer(oci.MediaTypeManifest, "{}")(w, r, n, next)
			}, "app:v1", errs.Corrupt, "registry lies",
		},
		"other content than asked for": {
			answer(oci.MediaTypeManifest, "{}"), "app@" + digest.FromString("x").String(), errs.Corrupt, "registry lies",
		},
		"a manifest that calls itself an index": {
			answer(oci.MediaTypeManifest, `{"mediaType":"`+oci.MediaTypeIndex+`"}`), "app:v1", errs.Corrupt, "registry lies",
		},
		"layers and manifests":  {answer(oci.MediaTypeManifest, `{"layers":[],"manifests":[]}`), "app:v1", errs.Corrupt, "both"},
		"no JSON":               {answer(oci.MediaTypeManifest, `<html>`), "app:v1", errs.Corrupt, "not valid JSON"},
		"an endless manifest":   {endless, "app:v1", errs.Limit, "larger than 4194304 bytes"},
		"denied":                {always(403, "DENIED", "go away"), "app:v1", errs.Denied, "403 denied: go away"},
		"unauthorized":          {always(401, "UNAUTHORIZED", "who"), "app:v1", errs.Denied, "401 unauthorized: who"},
		"down":                  {always(503, "UNAVAILABLE", ""), "app:v1", errs.Unavailable, "503 unavailable"},
		"rate limit of an hour": {tooMany("3600"), "app:v1", errs.Unavailable, "429 toomanyrequests"},
		"an error that is no JSON": {func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			http.Error(w, "a\nb\x1b[31m", http.StatusTeapot)
		}, "app:v1", nil, "418 i'm a teapot: a b [31m"},
		"the first manifest format": {answer("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}"), "app:v1", nil, "first manifest format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			r := h.ref(t, c.ref)
			_, _, err := newClient(t, registry.Options{}).Resolve(t.Context(), r)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Resolve: %v; want %v that says %q", err, c.kind, c.text)
			}
			if !strings.HasPrefix(err.Error(), "resolve "+r.String()+": ") {
				t.Errorf("error does not say what failed: %v", err)
			}
			if errors.Is(err, errs.Denied) && !strings.Contains(errs.HintOf(err), "docker login "+h.host()) {
				t.Errorf("hint %q does not tell how to log in", errs.HintOf(err))
			}
		})
	}
}

func endless(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
	w.Header().Set("Content-Type", oci.MediaTypeManifest)
	for {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

func always(status int, code, message string) misbehave {
	return func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) { refuse(w, status, code, message) }
}

func tooMany(retryAfter string) misbehave {
	return func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if n > 2 && len(retryAfter) < 3 {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
	}
}

func TestRetryWaits(t *testing.T) {
	t.Parallel()
	t.Run("as long as the registry asks", func(t *testing.T) {
		t.Parallel()
		h := newHostile(t, func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == http.MethodGet {
				tooMany("7")(w, r, n, next)
				return
			}
			next.ServeHTTP(w, r)
		})
		seed(t, h, "app:v1")
		var slept pauses
		c := newClient(t, registry.Options{Sleep: slept.sleep})
		if _, _, err := c.Resolve(t.Context(), h.ref(t, "app:v1")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]time.Duration{7 * time.Second, 7 * time.Second}, slept.list); diff != "" {
			t.Errorf("pauses mismatch (-want +got)\n%s", diff)
		}
	})
	t.Run("longer each time, and not forever", func(t *testing.T) {
		t.Parallel()
		h := newHostile(t, always(500, "UNKNOWN", "oops"))
		var slept pauses
		c := newClient(t, registry.Options{Sleep: slept.sleep, Retry: registry.Retry{Tries: 5, Max: time.Second}})
		if _, _, err := c.Resolve(t.Context(), h.ref(t, "app:v1")); !errors.Is(err, errs.Unavailable) {
			t.Fatalf("Resolve: %v, want Unavailable", err)
		}
		for i, want := range []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second} {
			if i >= len(slept.list) || slept.list[i] < want/2 || slept.list[i] > want {
				t.Fatalf("pauses %v, want number %d between %v and %v", slept.list, i, want/2, want)
			}
		}
		if got := len(h.asked()); got != 5 {
			t.Errorf("%d requests, want 5", got)
		}
	})
}

// TestBlobSurvives reads a blob from registries that misbehave in ways that can be made good.
func TestBlobSurvives(t *testing.T) {
	t.Parallel()
	dropping := func(after int, until int) misbehave {
		return func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if n <= until && kindOf(r.URL.Path) == "blobs" && r.Method == http.MethodGet {
				w = &abortAfter{w, after}
			}
			next.ServeHTTP(w, r)
		}
	}
	for name, c := range map[string]struct {
		fault    misbehave
		requests int
	}{
		"a connection that breaks once":        {dropping(100_000, 1), 2},
		"a connection that breaks at once":     {dropping(0, 1), 2},
		"a connection that breaks every 70 kB": {dropping(70_000, 100), 5},
		"an error, then the blob": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if n < 3 && r.Method == http.MethodGet {
				refuse(w, 502, "", "")
				return
			}
			next.ServeHTTP(w, r)
		}, 3},
		"a connection that falls asleep": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if n == 1 && r.Method == http.MethodGet {
				w.Header().Set("Content-Length", strconv.Itoa(300<<10))
				_, _ = w.Write(content(300 << 10)[:50_000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		}, 2},
		"no Range": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			r.Header.Del("Range")
			dropping(100_000, 1)(w, r, n, next)
		}, 2},
		"no Content-Length": {func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
			if r.Method == http.MethodGet {
				w = unsized{w}
			}
			next.ServeHTTP(w, r)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			_, layer := seed(t, h, "app:v1")
			client := newClient(t, registry.Options{Stall: 200 * time.Millisecond})
			got, err := readBlob(t, client, h.ref(t, "app:v1"), describe(layer))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, layer) {
				t.Error("read other bytes than were pushed")
			}
			if asked := h.asked(); len(asked) != c.requests {
				t.Errorf("requests %v, want %d", asked, c.requests)
			}
		})
	}
}

// unsized hides how long the answer is.
type unsized struct{ http.ResponseWriter }

func (u unsized) WriteHeader(status int) {
	u.Header().Del("Content-Length")
	u.ResponseWriter.WriteHeader(status)
}

// TestBlobRefuses reads a blob from registries that lie about it.
func TestBlobRefuses(t *testing.T) {
	t.Parallel()
	layer := content(200_000)
	serving := func(body []byte, sized bool) misbehave {
		return func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) {
			if sized {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			} else if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
			_, _ = w.Write(body)
		}
	}
	flipped := bytes.Clone(layer)
	flipped[150_000] ^= 1
	for name, c := range map[string]struct {
		fault misbehave
		kind  error
	}{
		"other bytes":                {serving(flipped, true), errs.Corrupt},
		"too long":                   {serving(append(bytes.Clone(layer), 0), true), errs.Corrupt},
		"too long, unannounced":      {serving(append(bytes.Clone(layer), 0), false), errs.Corrupt},
		"too short":                  {serving(layer[:100_000], true), errs.Corrupt},
		"too short, unannounced":     {serving(layer[:10_000], false), errs.Unavailable},
		"no such blob":               {behave, errs.NotFound},
		"a range that was not asked": {badRange(layer), errs.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			r := h.ref(t, "app:v1")
			_, err := readBlob(t, newClient(t, registry.Options{}), r, describe(layer))
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), "read "+describe(layer).Digest.String()+" of "+r.Name()) {
				t.Errorf("reading the blob: %v, want %v", err, c.kind)
			}
		})
	}
}

func badRange(layer []byte) misbehave {
	return func(w http.ResponseWriter, _ *http.Request, n int, _ http.Handler) {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		if n == 1 {
			_, _ = (&abortAfter{w, 100}).Write(layer)
		}
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Content-Range", "bytes 7-106/200000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(layer[:100])
	}
}

func TestRedirectsLeaveCredentialsBehind(t *testing.T) {
	t.Parallel()
	layer := content(1000)
	var leaked string
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("Authorization")
		_, _ = w.Write(layer)
	}))
	t.Cleanup(store.Close)
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			refuse(w, 401, "UNAUTHORIZED", "")
			return
		}
		http.Redirect(w, r, store.URL+"/elsewhere?signature=secret", http.StatusTemporaryRedirect)
	})
	c := newClient(t, registry.Options{Keychain: keychain{Username: "me", Password: "hunter2"}})
	got, err := readBlob(t, c, h.ref(t, "app:v1"), describe(layer))
	if err != nil || !bytes.Equal(got, layer) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if leaked != "" {
		t.Errorf("the other host was sent Authorization %q", leaked)
	}
}

func TestBlobFromItsDescriptor(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	data := []byte("{}")
	desc := describe(data)
	desc.Data = data
	got, err := readBlob(t, newClient(t, registry.Options{}), h.ref(t, "app:v1"), desc)
	if err != nil || !bytes.Equal(got, data) || len(h.asked()) != 0 {
		t.Errorf("read %q, %v, want the descriptor's data without a request", got, err)
	}
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	origin, mirror := newHostile(t, behave), newHostile(t, behave)
	manifest, layer := seed(t, origin, "app:v1")
	seed(t, mirror, "cache/other:v1")
	gone := httptest.NewServer(nil)
	gone.Close()
	c := newClient(t, registry.Options{Mirrors: map[string][]string{
		origin.host(): {gone.URL, mirror.host() + "/cache"},
	}})
	_, got, err := c.Resolve(t.Context(), origin.ref(t, "app:v1"))
	if err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("a mirror's miss: %v, want the registry's manifest", err)
	}
	// The layer is in the mirror too, by its other name.
	seed(t, mirror, "cache/app:v2")
	origin.asked()
	if _, err := readBlob(t, c, origin.ref(t, "app:v1"), describe(layer)); err != nil {
		t.Error(err)
	}
	if asked := origin.asked(); len(asked) != 0 {
		t.Errorf("the registry was asked %v for what a mirror has", asked)
	}
}

func TestPlainHTTPThenTLSOnLoopback(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "https://")
	image := parse(t, host+"/app:v1")

	c := newClient(t, registry.Options{Insecure: []string{host}})
	if _, err := c.PushBlob(t.Context(), image, complete([]byte("x"))); err != nil {
		t.Errorf("an insecure host with a certificate of its own: %v", err)
	}
	c = newClient(t, registry.Options{})
	_, _, err := c.Resolve(t.Context(), image)
	if err == nil || !strings.Contains(err.Error(), "certificate") || !strings.Contains(errs.HintOf(err), "--insecure-registry") {
		t.Errorf("an unknown certificate: %v (hint %q), want it refused", err, errs.HintOf(err))
	}
}
