package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// TestPushBlobRoundTrips counts what each way of pushing costs.
func TestPushBlobRoundTrips(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	c := newClient(t, registry.Options{})
	data, other := content(100_000), content(50_000)
	mounting := complete(data)
	mounting.MountFrom = []ref.Ref{h.ref(t, "nobody"), parse(t, "elsewhere.example/app"), h.ref(t, "app")}
	for _, step := range []struct {
		name     string
		repo     string
		src      registry.Source
		requests []string
		want     registry.Pushed
	}{
		{"upload", "app", complete(data), []string{"HEAD blobs", "POST blobs/uploads", "PUT blobs/uploads"}, registry.Pushed{Bytes: 100_000}},
		{"it exists", "app", complete(data), []string{"HEAD blobs"}, registry.Pushed{Existed: true}},
		{"still growing", "app", growing(other), []string{"POST blobs/uploads", "PATCH blobs/uploads", "PUT blobs/uploads"}, registry.Pushed{Bytes: 50_000}},
		{"mount", "app2", mounting, []string{"HEAD blobs", "POST blobs/uploads", "DELETE blobs/uploads", "POST blobs/uploads"}, registry.Pushed{Mounted: true}},
		{"empty", "app", complete(nil), []string{"HEAD blobs", "POST blobs/uploads", "PUT blobs/uploads"}, registry.Pushed{}},
		{"empty and growing", "app3", growing(nil), []string{"POST blobs/uploads", "PATCH blobs/uploads", "PUT blobs/uploads"}, registry.Pushed{}},
	} {
		got, err := c.PushBlob(t.Context(), h.ref(t, step.repo), step.src)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if step.want.Descriptor, err = step.src.Descriptor(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s mismatch (-want +got)\n%s", step.name, diff)
		}
		if diff := cmp.Diff(step.requests, h.asked()); diff != "" {
			t.Errorf("%s: requests mismatch (-want +got)\n%s", step.name, diff)
		}
		if ok, err := c.HasBlob(t.Context(), h.ref(t, step.repo), got.Descriptor.Digest); err != nil || !ok {
			t.Errorf("%s: HasBlob = %v, %v", step.name, ok, err)
		}
		h.asked()
	}
}

// TestPushBlobSurvives pushes through registries that misbehave in ways that can be made good.
func TestPushBlobSurvives(t *testing.T) {
	t.Parallel()
	data := content(400_000)
	on := func(method string, n int, fault misbehave) misbehave {
		return func(w http.ResponseWriter, r *http.Request, count int, next http.Handler) {
			if r.Method == method && kindOf(r.URL.Path) == "blobs/uploads" && count == n {
				fault(w, r, count, next)
				return
			}
			next.ServeHTTP(w, r)
		}
	}
	cut := func(_ http.ResponseWriter, r *http.Request, _ int, next http.Handler) { cutBody(r, 150_000, next) }
	lost := func(_ http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		next.ServeHTTP(discard{}, r)
		panic(http.ErrAbortHandler)
	}
	for name, c := range map[string]struct {
		fault  misbehave
		source func([]byte) registry.Source
		opts   registry.Options
		resent bool // whether all is sent again
	}{
		"connection breaks in the upload":        {on("PUT", 1, cut), complete, registry.Options{}, false},
		"connection breaks in the stream":        {on("PATCH", 1, cut), growing, registry.Options{}, false},
		"error at the start":                     {on("POST", 1, always(500, "UNKNOWN", "")), growing, registry.Options{}, false},
		"error at the end":                       {on("PUT", 1, always(503, "UNAVAILABLE", "")), growing, registry.Options{}, false},
		"the answer is lost":                     {on("PUT", 1, lost), growing, registry.Options{}, false},
		"the answer is lost, known":              {on("PUT", 1, lost), complete, registry.Options{}, false},
		"rate limit":                             {on("POST", 1, tooMany("1")), complete, registry.Options{}, false},
		"the session expires":                    {on("PATCH", 1, always(404, "BLOB_UPLOAD_UNKNOWN", "")), growing, registry.Options{}, true},
		"the session expires at the end":         {on("PUT", 1, expire), growing, registry.Options{}, true},
		"streams are refused with 411":           {chunksOnly(411), growing, registry.Options{}, true},
		"streams are refused with 416":           {chunksOnly(416), growing, registry.Options{}, true},
		"streams are refused with 400":           {chunksOnly(400), growing, registry.Options{}, true},
		"large requests are refused":             {limit(200_000), complete, registry.Options{}, true},
		"chunks":                                 {behave, growing, registry.Options{ChunkBytes: 150_000}, false},
		"chunks, known":                          {behave, complete, registry.Options{ChunkBytes: 150_000}, false},
		"a chunk is lost":                        {on("PATCH", 2, always(502, "", "")), growing, registry.Options{ChunkBytes: 150_000}, false},
		"a chunk arrives, its answer does not":   {on("PATCH", 2, lost), growing, registry.Options{ChunkBytes: 150_000}, false},
		"half a chunk arrives":                   {on("PATCH", 2, cut), growing, registry.Options{ChunkBytes: 200_000}, false},
		"chunks have a minimum the client keeps": {minimum(300_000), growing, registry.Options{ChunkBytes: 1000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			client := newClient(t, c.opts)
			r := h.ref(t, "app")
			pushed, err := client.PushBlob(t.Context(), r, c.source(data))
			if err != nil {
				t.Fatalf("%v\nafter %v", err, h.asked())
			}
			if pushed.Bytes < int64(len(data)) || c.resent != (pushed.Bytes >= 2*int64(len(data))) && !c.resent {
				t.Errorf("sent %d bytes for %d", pushed.Bytes, len(data))
			}
			got, err := readBlob(t, client, r, describe(data))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("reading it back: %d bytes, %v", len(got), err)
			}
		})
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// expire deletes the upload before the request gets to it.
func expire(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
	cancel := r.Clone(r.Context())
	cancel.Method, cancel.Body = http.MethodDelete, http.NoBody
	next.ServeHTTP(discard{}, cancel)
	next.ServeHTTP(w, r)
}

// chunksOnly is a registry that wants to know how long every request is.
func chunksOnly(status int) misbehave {
	return func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.Method == http.MethodPatch && (r.ContentLength < 0 || r.Header.Get("Content-Range") == "") {
			_, _ = io.Copy(io.Discard, r.Body)
			refuse(w, status, "BLOB_UPLOAD_INVALID", "no streams")
			return
		}
		next.ServeHTTP(w, r)
	}
}

// limit is a proxy that takes requests up to a size only.
func limit(n int64) misbehave {
	return func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.ContentLength > n {
			_, _ = io.Copy(io.Discard, r.Body)
			refuse(w, http.StatusRequestEntityTooLarge, "", "")
			return
		}
		next.ServeHTTP(w, r)
	}
}

// minimum is a registry that refuses chunks, but the last, that are shorter than n.
func minimum(n int64) misbehave {
	var short atomic.Bool
	return func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.Method == http.MethodPost {
			w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(n, 10))
		}
		if r.Method == http.MethodPatch && (r.ContentLength < n && short.Swap(true)) {
			refuse(w, 416, "SIZE_INVALID", "chunk too short")
			return
		}
		next.ServeHTTP(w, r)
	}
}

func TestPushBlobRefuses(t *testing.T) {
	t.Parallel()
	data := content(1000)
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct {
		fault misbehave
		src   registry.Source
		kind  error
		text  string
	}{
		"denied":    {always(403, "DENIED", "no"), complete(data), errs.Denied, "403"},
		"too large": {always(413, "", ""), growing(data), errs.Limit, "413"},
		"down":      {always(500, "", ""), growing(data), errs.Unavailable, "500"},
		"a source that breaks": {behave, registry.Source{
			Known:      func() bool { return false },
			Descriptor: growing(data).Descriptor,
			Open: func(int64) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(data), readerFunc(func([]byte) (int, error) { return 0, broken }))), nil
			},
		}, broken, "disk on fire"},
		"a source that does not open": {behave, registry.Source{
			Descriptor: complete(data).Descriptor,
			Open:       func(int64) (io.ReadCloser, error) { return nil, broken },
		}, broken, "disk on fire"},
		"a source with other bytes than its digest": {behave, registry.Source{
			Descriptor: complete(data).Descriptor,
			Open:       complete(bytes.Repeat([]byte("x"), 1000)).Open,
		}, nil, "400 digest invalid"},
		"a registry that stores something else": {
			func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
				if r.Method == http.MethodPut {
					w.Header().Set("Docker-Content-Digest", describe(nil).Digest.String())
					w.WriteHeader(http.StatusCreated)
					return
				}
				next.ServeHTTP(w, r)
			}, complete(data), errs.Corrupt, "registry lies",
		},
		"an upload without a Location": {
			func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
				if r.Method == http.MethodPost {
					w.WriteHeader(http.StatusAccepted)
					return
				}
				next.ServeHTTP(w, r)
			}, complete(data), nil, "does not say where",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, c.fault)
			r := h.ref(t, "app")
			_, err := newClient(t, registry.Options{}).PushBlob(t.Context(), r, c.src)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("PushBlob: %v; want %v that says %q", err, c.kind, c.text)
			}
			if errors.Is(c.kind, broken) && errors.Is(err, errs.Unavailable) {
				t.Errorf("%v puts the source's failure on the registry", err)
			}
			if !strings.HasPrefix(err.Error(), "upload ") || !strings.Contains(err.Error(), " to "+r.Name()+": ") {
				t.Errorf("error does not say what failed: %v", err)
			}
		})
	}
}

func TestPushBlobStreamsWhileItGrows(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	var once sync.Once
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.Method == http.MethodPatch {
			body := r.Body
			r.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
				n, err := body.Read(p)
				if n > 0 {
					once.Do(func() { close(first) })
				}
				return n, err
			}))
		}
		next.ServeHTTP(w, r)
	})
	data := content(10_000)
	src := growing(data)
	open := src.Open
	// The second half comes only after the registry has bytes of the first.
	src.Open = func(int64) (io.ReadCloser, error) {
		rest, err := open(5000)
		wait := readerFunc(func([]byte) (int, error) { <-first; return 0, io.EOF })
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[:5000]), wait, rest)), err
	}
	c := newClient(t, registry.Options{})
	if _, err := c.PushBlob(t.Context(), h.ref(t, "app"), src); err != nil {
		t.Fatal(err)
	}
}

func TestPushBlobTwiceAtOnceSendsItOnce(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	c := newClient(t, registry.Options{})
	data := content(1 << 20)
	var sent atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			pushed, err := c.PushBlob(t.Context(), h.ref(t, "app"), complete(data))
			if err != nil {
				t.Error(err)
			}
			sent.Add(pushed.Bytes)
		})
	}
	group.Wait()
	if sent.Load() != int64(len(data)) {
		t.Errorf("sent %d bytes for a blob of %d", sent.Load(), len(data))
	}
}

func TestUploadsPerHostAreLimited(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if r.Method == http.MethodPut {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
		}
		next.ServeHTTP(w, r)
	})
	c := newClient(t, registry.Options{Uploads: 2})
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			if _, err := c.PushBlob(t.Context(), h.ref(t, "app"), complete(content(10_000+i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if most.Load() > 2 {
		t.Errorf("%d uploads at a time, want 2 at most", most.Load())
	}
}

func TestPushBlobCanceled(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	c := newClient(t, registry.Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the user went home")
	src := complete(content(1000))
	src.Open = func(int64) (io.ReadCloser, error) {
		cancel(gone)
		return io.NopCloser(readerFunc(func([]byte) (int, error) { <-ctx.Done(); return 0, context.Cause(ctx) })), nil
	}
	if _, err := c.PushBlob(ctx, h.ref(t, "app"), src); !errors.Is(err, gone) {
		t.Errorf("PushBlob: %v, want the cause of the cancellation", err)
	}
	asked := h.asked()
	if last := asked[len(asked)-1]; last != "DELETE blobs/uploads" {
		t.Errorf("the last request is %s, want the upload canceled", last)
	}
}

func TestCanPush(t *testing.T) {
	t.Parallel()
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) {
		if strings.Contains(r.URL.Path, "/locked/") {
			refuse(w, 403, "DENIED", "read only")
			return
		}
		next.ServeHTTP(w, r)
	})
	c := newClient(t, registry.Options{})
	if err := c.CanPush(t.Context(), h.ref(t, "app")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"POST blobs/uploads", "DELETE blobs/uploads"}, h.asked()); diff != "" {
		t.Errorf("requests mismatch (-want +got)\n%s", diff)
	}
	if err := c.CanPush(t.Context(), h.ref(t, "locked/app")); !errors.Is(err, errs.Denied) {
		t.Errorf("CanPush: %v, want Denied", err)
	}
}

func TestUploadGoesToAnotherHostWithoutCredentials(t *testing.T) {
	t.Parallel()
	data := content(1000)
	store := newHostile(t, behave)
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			refuse(w, 401, "UNAUTHORIZED", "")
			return
		}
		if r.Method == http.MethodPost {
			resp, err := http.Post(store.URL+r.URL.Path, "", nil)
			if err != nil {
				panic(err)
			}
			_ = resp.Body.Close()
			w.Header().Set("Location", store.URL+resp.Header.Get("Location"))
			w.WriteHeader(http.StatusAccepted)
			return
		}
		next.ServeHTTP(w, r)
	})
	c := newClient(t, registry.Options{Keychain: keychain{Username: "me", Password: "hunter2"}})
	if _, err := c.PushBlob(t.Context(), h.ref(t, "app"), complete(data)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(store.authorizations(), ""); got != "" {
		t.Errorf("the other host was sent Authorization %q", got)
	}
}

func TestPushManifest(t *testing.T) {
	t.Parallel()
	h := newHostile(t, behave)
	manifest, _ := seed(t, h, "app:v1")
	c := newClient(t, registry.Options{})
	desc := oci.Describe(oci.MediaTypeManifest, manifest)

	byDigest := h.ref(t, "app").WithTag("")
	if got, err := c.PushManifest(t.Context(), byDigest, oci.MediaTypeManifest, manifest); err != nil || got.Digest != desc.Digest {
		t.Errorf("PushManifest by digest = %v, %v", got, err)
	}
	if _, err := c.PushManifest(t.Context(), byDigest.WithDigest(describe(nil).Digest), oci.MediaTypeManifest, manifest); !errors.Is(err, errs.Invalid) {
		t.Errorf("PushManifest under another's digest: %v, want Invalid", err)
	}
	if _, err := c.PushManifest(t.Context(), h.ref(t, "app:v2"), oci.MediaTypeManifest, manifest); err != nil {
		t.Error(err)
	}
	if tags, err := c.ListTags(t.Context(), byDigest); err != nil || !cmp.Equal(tags, []string{"v1", "v2"}) {
		t.Errorf("ListTags = %v, %v", tags, err)
	}
	if err := c.DeleteManifest(t.Context(), h.ref(t, "app:v1")); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Resolve(t.Context(), h.ref(t, "app:v1")); !errors.Is(err, errs.NotFound) {
		t.Errorf("Resolve of a deleted tag: %v, want NotFound", err)
	}
	if err := c.DeleteManifest(t.Context(), byDigest.WithDigest(desc.Digest)); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Resolve(t.Context(), h.ref(t, "app:v2")); !errors.Is(err, errs.NotFound) {
		t.Errorf("Resolve of a tag of a deleted manifest: %v, want NotFound", err)
	}
}

func TestListTagsPages(t *testing.T) {
	t.Parallel()
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
		query := r.URL.Query()
		query.Set("n", "2")
		r.URL.RawQuery = query.Encode()
		next.ServeHTTP(w, r)
	})
	manifest, _ := seed(t, h, "app:v0")
	c := newClient(t, registry.Options{})
	want := []string{"v0"}
	for i := 1; i < 7; i++ {
		want = append(want, fmt.Sprintf("v%d", i))
		if _, err := c.PushManifest(t.Context(), h.ref(t, "app:"+want[i]), oci.MediaTypeManifest, manifest); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.ListTags(t.Context(), h.ref(t, "app"))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("ListTags mismatch, %v (-want +got)\n%s", err, diff)
	}
}

// TestReferrers runs with a registry that has the referrers API and with one that has never heard of it.
func TestReferrers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]misbehave{
		"api": behave,
		"tag": func(w http.ResponseWriter, r *http.Request, _ int, next http.Handler) {
			if kindOf(r.URL.Path) == "referrers" {
				http.NotFound(w, r)
				return
			}
			next.ServeHTTP(headerless{w, "OCI-Subject"}, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t, fault)
			manifest, _ := seed(t, h, "app:v1")
			subject := oci.Describe(oci.MediaTypeManifest, manifest)
			c := newClient(t, registry.Options{})
			r := h.ref(t, "app").WithTag("")

			if got, err := c.Referrers(t.Context(), r, subject.Digest, ""); err != nil || len(got) != 0 {
				t.Errorf("Referrers of what nothing refers to = %v, %v", got, err)
			}
			var want []oci.Digest
			for _, kind := range []string{"application/x.sbom", "application/x.signature"} {
				if _, err := c.PushBlob(t.Context(), r, complete([]byte("{}"))); err != nil {
					t.Fatal(err)
				}
				m := oci.NewManifest(oci.Describe("application/vnd.oci.empty.v1+json", []byte("{}")), nil, nil)
				m.ArtifactType, m.Subject = kind, &subject
				data, err := oci.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				desc, err := c.PushManifest(t.Context(), r, oci.MediaTypeManifest, data)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, desc.Digest)
			}
			all, err := c.Referrers(t.Context(), r, subject.Digest, "")
			if err != nil || len(all) != 2 {
				t.Errorf("Referrers = %v, %v, want %v", all, err, want)
			}
			one, err := c.Referrers(t.Context(), r, subject.Digest, "application/x.signature")
			if err != nil || len(one) != 1 || one[0].Digest != want[1] {
				t.Errorf("Referrers of one type = %v, %v, want %v", one, err, want[1])
			}
		})
	}
}

// headerless takes a header out of the answers.
type headerless struct {
	http.ResponseWriter
	name string
}

func (h headerless) WriteHeader(status int) {
	h.Header().Del(h.name)
	h.ResponseWriter.WriteHeader(status)
}
