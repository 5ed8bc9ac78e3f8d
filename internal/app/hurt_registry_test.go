package app_test

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/app"
	settings "slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// fault is one way in which a registry misbehaves.
type fault struct {
	method, path string // the requests that it is for: path is a part of theirs
	times        int    // how many of them; 0 is all
	do           func(w http.ResponseWriter, r *http.Request, registry http.Handler)
}

// faulty is a registry with faults. Without any it is the registry behind it.
type faulty struct {
	registry http.Handler

	mu     sync.Mutex
	faults []fault
	struck int // how many requests a fault was for
}

func (f *faulty) set(faults ...fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults, f.struck = faults, 0
}

func (f *faulty) strikes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.struck
}

// next returns the fault that is for a request, or nil.
func (f *faulty) next(r *http.Request) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.faults {
		x := &f.faults[i]
		if x.times < 0 || r.Method != x.method || !strings.Contains(r.URL.Path, x.path) {
			continue
		}
		if x.times > 0 {
			if x.times--; x.times == 0 {
				x.times = -1
			}
		}
		f.struck++
		return x
	}
	return nil
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if x := f.next(r); x != nil {
		x.do(w, r, f.registry)
		return
	}
	f.registry.ServeHTTP(w, r)
}

// answer is a fault: a status, with headers as name and value in turn.
func answer(status int, header ...string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// cutAnswer is a fault: the connection breaks when n bytes of the body have been sent.
func cutAnswer(n int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		registry.ServeHTTP(&cutWriter{w, n}, r)
		panic(http.ErrAbortHandler) // breaks the connection
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if n < len(p) {
		_, _ = c.ResponseWriter.Write(p[:n]) // what breaks, breaks
		if err := http.NewResponseController(c.ResponseWriter).Flush(); err != nil {
			return 0, err
		}
		return n, io.ErrShortWrite
	}
	return c.ResponseWriter.Write(p)
}

// hangUp is a fault: the connection is closed instead of an answer.
func hangUp(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// cutRequest is a fault: the connection breaks when n bytes of an upload have been received. The registry has them.
func cutRequest(n int64) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, n), broken{}))
		registry.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// change is a fault: the answer is not what the registry says.
func change(edit func(h http.Header, body []byte) []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		rec := httptest.NewRecorder()
		registry.ServeHTTP(rec, r)
		body := edit(rec.Header(), rec.Body.Bytes())
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body) // who does not listen is not told
	}
}

func flip(_ http.Header, body []byte) []byte {
	body[len(body)/2] ^= 1
	return body
}

// shorten says a length that is its own, not the blob's.
func shorten(h http.Header, body []byte) []byte {
	h.Set("Content-Length", strconv.Itoa(len(body)/2))
	return body[:len(body)/2]
}

// stopShort sends half without saying how long it is.
func stopShort(h http.Header, body []byte) []byte {
	h.Del("Content-Length")
	h.Set("Transfer-Encoding", "chunked")
	return body[:len(body)/2]
}

// otherDigest is a fault of headers alone.
func otherDigest(h http.Header, body []byte) []byte {
	h.Set("Docker-Content-Digest", digest.FromString("another manifest").String())
	return body
}

// hostileRegistry is a registry with a base image, and what is known of that.
type hostileRegistry struct {
	addr          string
	manifest      oci.Digest
	config, layer oci.Digest
}

func newHostileRegistry(t *testing.T) *hostileRegistry {
	t.Helper()
	addr := startRegistry(t)
	pushBases(t, addr)
	h := &hostileRegistry{addr: addr}
	client := registry.New(registry.Options{})
	defer client.Close()
	desc, raw, err := client.Resolve(t.Context(), mustParse(t, addr+"/library/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	h.manifest, h.config, h.layer = desc.Digest, m.Config.Digest, m.Layers[0].Digest
	return h
}

func mustParse(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// proxyTo serves a faulty registry in front of the one at addr.
func proxyTo(t *testing.T, addr string) (*faulty, string) {
	t.Helper()
	back := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: addr})
			r.Out.Host = r.In.Host
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	f := &faulty{registry: back}
	server := httptest.NewServer(f)
	server.Config.ErrorLog = back.ErrorLog
	t.Cleanup(server.Close)
	return f, strings.TrimPrefix(server.URL, "http://")
}

// TestRegistryFaults builds and pushes while the registry misbehaves, in one way at a time. The build succeeds all the
// same or says what is wrong with what; and once the registry behaves, the same home builds the right image.
func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	h := newHostileRegistry(t)
	content := make([]byte, 300_000)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content) // never fails
	dir := write(t, "Dockerfile", "ARG ADDR\nFROM $ADDR/library/busybox\nCOPY big /big\nRUN echo run >/run.txt\n", "big", string(content))
	base, layer, config := "/library/busybox/manifests/", "/library/busybox/blobs/"+h.layer.String(), "/library/busybox/blobs/"+h.config.String()
	build := func(t *testing.T, home, addr, repository string) (string, error) {
		t.Helper()
		tag := addr + "/" + repository
		im, err := openApp(t, home, settings.Config{}).Build(within(t, 30*time.Second), app.Build{
			Context: dir, Tags: []string{tag}, Push: true, SkipPushCheck: true, Epoch: epoch, Args: map[string]string{"ADDR": addr},
		})
		if err != nil {
			return "", err
		}
		if d := im.Manifest.Digest; wantImage(t, h.addr+"/"+repository) != d {
			t.Errorf("%s is not what was pushed", d)
		}
		return im.Manifest.Digest.String(), nil
	}
	want, err := build(t, t.TempDir(), h.addr, "right")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, tc := range []struct {
		name   string
		faults []fault
		// want is the error; "" for success. ADDR is the registry's address; LAYER, CONFIG and MANIFEST are the base
		// image's digests, OTHER a digest that the registry made up, BLOB what is uploaded, and REPO where to.
		want string
		kind error
		hint string
	}{
		{name: "layer breaks off", faults: []fault{{"GET", layer, 3, cutAnswer(100_000)}}},
		{name: "layer is late", faults: []fault{{"GET", layer, 2, answer(500)}}},
		{name: "layer too many requests", faults: []fault{{"GET", layer, 1, answer(429, "Retry-After", "1")}}},
		{
			name: "layer always breaks off", faults: []fault{{"GET", layer, 0, cutAnswer(1000)}}, kind: errs.Unavailable,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: apply layer: decompress: read LAYER of ADDR/library/busybox: unexpected EOF",
		},
		{
			name: "layer breaks off for good", kind: errs.Unavailable,
			faults: []fault{{"GET", layer, 1, cutAnswer(100_000)}, {"GET", layer, 0, hangUp}},
			want:   "unpack layer LAYER of ADDR/library/busybox:latest: apply layer: decompress: read LAYER of ADDR/library/busybox: the connection was closed: unexpected EOF",
		},
		{
			name: "layer hangs up", faults: []fault{{"GET", layer, 0, hangUp}}, kind: errs.Unavailable,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: read LAYER of ADDR/library/busybox: the connection was closed: unexpected EOF",
		},
		{
			name: "layer fails", faults: []fault{{"GET", layer, 0, answer(500)}}, kind: errs.Unavailable,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: read LAYER of ADDR/library/busybox: 500 internal server error",
		},
		{
			name: "layer not before tomorrow", faults: []fault{{"GET", layer, 0, answer(429, "Retry-After", "86400")}}, kind: errs.Unavailable,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: read LAYER of ADDR/library/busybox: 429 too many requests",
			hint: "the registry asks to come back after 24h0m0s",
		},
		{
			name: "layer is gone", faults: []fault{{"GET", layer, 0, answer(404)}}, kind: errs.NotFound,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: read LAYER of ADDR/library/busybox: 404 not found",
		},
		{
			name: "layer is another", faults: []fault{{"GET", layer, 0, change(flip)}}, kind: errs.Corrupt,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: apply layer: decompress: read LAYER of ADDR/library/busybox: registry lies: blob does not have its digest",
		},
		{
			name: "layer is short", faults: []fault{{"GET", layer, 0, change(shorten)}}, kind: errs.Corrupt,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: read LAYER of ADDR/library/busybox: registry lies: blob has 1067520 bytes, not 2135040",
		},
		{
			name: "layer stops short", faults: []fault{{"GET", layer, 0, change(stopShort)}}, kind: errs.Unavailable,
			want: "unpack layer LAYER of ADDR/library/busybox:latest: apply layer: decompress: read LAYER of ADDR/library/busybox: ended after 2130870 of 2135040 bytes: unexpected EOF",
		},
		{name: "manifest breaks off", faults: []fault{{"GET", base, 1, cutAnswer(10)}}},
		{name: "manifest too many requests", faults: []fault{{"GET", base, 1, answer(429, "Retry-After", "1")}}},
		{
			name: "manifest fails", faults: []fault{{"GET", base, 0, answer(500)}}, kind: errs.Unavailable,
			want: "resolve ADDR/library/busybox:latest: 500 internal server error",
		},
		{
			name: "manifest is forbidden", faults: []fault{{"GET", base, 0, answer(403)}}, kind: errs.Denied,
			want: "resolve ADDR/library/busybox:latest: 403 forbidden",
			hint: "check the name, and log in with an account that has access: docker login ADDR",
		},
		{
			name: "manifest is gone", faults: []fault{{"GET", base, 0, answer(404)}}, kind: errs.NotFound,
			want: "resolve ADDR/library/busybox:latest: 404 not found",
		},
		{
			name: "manifest is another", faults: []fault{{"GET", base, 0, change(otherDigest)}}, kind: errs.Corrupt,
			want: "resolve ADDR/library/busybox:latest: registry lies: manifest has digest MANIFEST, its header says OTHER",
		},
		{
			name: "manifest has another digest", faults: []fault{{"GET", base, 0, change(flip)}}, kind: errs.Corrupt,
			want: "resolve ADDR/library/busybox:latest: registry lies: manifest has digest OTHER, its header says MANIFEST",
		},
		{name: "config breaks off", faults: []fault{{"GET", config, 1, cutAnswer(10)}}},
		{
			name: "config hangs up", faults: []fault{{"GET", config, 0, hangUp}}, kind: errs.Unavailable,
			want: "config of ADDR/library/busybox:latest: read CONFIG of ADDR/library/busybox: the connection was closed: unexpected EOF",
		},
		{
			name: "config is another", faults: []fault{{"GET", config, 0, change(flip)}}, kind: errs.Corrupt,
			want: "config of ADDR/library/busybox:latest: read CONFIG of ADDR/library/busybox: registry lies: blob does not have its digest",
		},
		{
			name: "config is short", faults: []fault{{"GET", config, 0, change(shorten)}}, kind: errs.Corrupt,
			want: "config of ADDR/library/busybox:latest: read CONFIG of ADDR/library/busybox: registry lies: blob has 125 bytes, not 251",
		},
		{
			name:   "upload breaks off",
			faults: []fault{{"PATCH", "/uploads/", 2, cutRequest(100_000)}, {"PUT", "/uploads/", 2, cutRequest(100_000)}},
		},
		{
			name:   "upload fails for a while",
			faults: []fault{{"POST", "/uploads/", 2, answer(500)}, {"PATCH", "/uploads/", 1, answer(500)}, {"PUT", "/uploads/", 1, answer(503)}},
		},
		{name: "upload too many requests", faults: []fault{{"POST", "/uploads/", 1, answer(429, "Retry-After", "1")}}},
		{
			name: "upload always breaks off", kind: errs.Unavailable,
			faults: []fault{{"PATCH", "/uploads/", 0, cutRequest(1000)}, {"PUT", "/uploads/", 0, cutRequest(1000)}},
			want:   "push ADDR/REPO:latest: upload BLOB to ADDR/REPO: the connection was closed: unexpected EOF",
		},
		{
			name: "upload fails", faults: []fault{{"POST", "/uploads/", 0, answer(500)}}, kind: errs.Unavailable,
			want: "push ADDR/REPO:latest: upload BLOB to ADDR/REPO: 500 internal server error",
		},
		{
			name: "upload is forbidden", faults: []fault{{"PATCH", "/uploads/", 0, answer(403)}, {"PUT", "/uploads/", 0, answer(403)}}, kind: errs.Denied,
			want: "push ADDR/REPO:latest: upload BLOB to ADDR/REPO: 403 forbidden",
			hint: "check the name, and log in with an account that has access: docker login ADDR",
		},
		{
			name: "upload has no room", faults: []fault{{"PATCH", "/uploads/", 0, answer(507)}, {"PUT", "/uploads/", 0, answer(507)}}, kind: errs.Limit,
			want: "push ADDR/REPO:latest: upload BLOB to ADDR/REPO: 507 insufficient storage",
		},
		{name: "image fails for a while", faults: []fault{{"PUT", "/manifests/", 2, answer(500)}}},
		{name: "image too many requests", faults: []fault{{"PUT", "/manifests/", 1, answer(429, "Retry-After", "1")}}},
		{name: "image is there without an answer", faults: []fault{{"PUT", "/manifests/", 1, cutAnswer(0)}}},
		{
			name: "image fails", faults: []fault{{"PUT", "/manifests/", 0, answer(500)}}, kind: errs.Unavailable,
			want: "push ADDR/REPO:latest: push manifest ADDR/REPO:latest: 500 internal server error",
		},
		{
			name: "image becomes another", faults: []fault{{"PUT", "/manifests/", 0, change(otherDigest)}}, kind: errs.Corrupt,
			want: "push ADDR/REPO:latest: push manifest ADDR/REPO:latest: registry lies: manifest has digest IMAGE, its header says OTHER",
		},
		{
			name: "blobs are not there after all", faults: []fault{{"HEAD", "/blobs/", 0, answer(200)}},
			want: "push ADDR/REPO:latest: push manifest ADDR/REPO:latest: 400 manifest blob unknown: manifest points at unknown LAYER",
		},
	} {
		wg.Go(func() {
			t.Run(tc.name, func(t *testing.T) {
				f, addr := proxyTo(t, h.addr)
				home := t.TempDir()
				repository := strings.ReplaceAll(tc.name, " ", "-")
				f.set(tc.faults...)
				got, err := build(t, home, addr, repository)
				words := []string{
					addr, "ADDR", h.layer.String(), "LAYER", h.config.String(), "CONFIG", h.manifest.String(), "MANIFEST", repository, "REPO", want, "IMAGE",
				}
				if text := masked(err, words...); text != tc.want {
					t.Errorf("error %q\nwant  %q", text, tc.want)
				}
				if f.strikes() == 0 {
					t.Error("the fault was for no request")
				}
				if tc.kind != nil && !errors.Is(err, tc.kind) {
					t.Errorf("error is not of kind %q", tc.kind)
				}
				if hint := strings.ReplaceAll(errs.HintOf(err), addr, "ADDR"); hint != tc.hint {
					t.Errorf("hint %q, want %q", hint, tc.hint)
				}
				if err != nil {
					wantNothingLeft(t, home)
					f.set()
					got, err = build(t, home, addr, repository)
				}
				if got != want || err != nil {
					t.Errorf("built %s, %v; want %s", got, err, want)
				}
				wantNothingLeft(t, home)
			})
		})
	}
}

// masked is an error's text with words replaced, each "word" and replacement in turn, and then every other digest: of
// what is uploaded and of what was made up.
func masked(err error, words ...string) string {
	if err == nil {
		return ""
	}
	text := strings.NewReplacer(words...).Replace(err.Error())
	// Whether the kernel still has something to deliver when a connection is closed is a matter of luck.
	text = regexp.MustCompile(`(read|write) tcp \S+: \w+: (connection reset by peer|broken pipe)`). //nolint:forbidigo // a test's
													ReplaceAllString(text, "the connection was closed: unexpected EOF")
	digests := regexp.MustCompile(`sha256:[0-9a-f]{64}`)                                                       //nolint:forbidigo // a test's
	text = regexp.MustCompile(`upload (blob|LAYER|sha256:[0-9a-f]{64})`).ReplaceAllString(text, "upload BLOB") //nolint:forbidigo // a test's
	return digests.ReplaceAllString(text, "OTHER")
}

// wantImage is the digest of an image that is complete in its registry.
func wantImage(t *testing.T, name string) oci.Digest {
	t.Helper()
	client := registry.New(registry.Options{})
	defer client.Close()
	r := mustParse(t, name)
	desc, raw, err := client.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(m.Layers, m.Config) {
		content, err := client.Blob(t.Context(), r, b)
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err != nil {
			t.Error(err)
		}
	}
	return desc.Digest
}
