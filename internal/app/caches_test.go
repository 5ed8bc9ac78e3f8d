package app_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/output"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry/serve"
)

// meter is a registry that counts what moves through it.
type meter struct {
	addr string
	next http.Handler

	mu    sync.Mutex
	moved map[string]int64 // bytes of a blob, by its digest or, on the way in, by "upload"
	gone  map[string]bool  // blobs that it denies to have
}

func newMeter(t *testing.T) *meter {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{next: r, moved: map[string]int64{}, gone: map[string]bool{}}
	s := httptest.NewServer(m)
	t.Cleanup(func() {
		s.Close()
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	m.addr = s.Listener.Addr().String()
	return m
}

func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, blob, isBlob := strings.Cut(r.URL.Path, "/blobs/")
	m.mu.Lock()
	gone := m.gone[blob]
	m.mu.Unlock()
	switch {
	case gone:
		http.Error(w, "gone", http.StatusNotFound)
	case !isBlob:
		m.next.ServeHTTP(w, r)
	default:
		if strings.HasPrefix(blob, "uploads/") {
			blob = "upload"
		}
		r.Body = &counted{ReadCloser: r.Body, count: func(n int) { m.count(blob, n) }}
		m.next.ServeHTTP(&countedWriter{ResponseWriter: w, count: func(n int) { m.count(blob, n) }}, r)
	}
}

func (m *meter) count(blob string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved[blob] += int64(n)
}

// reset returns what has moved since the last time.
func (m *meter) reset() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	moved := m.moved
	m.moved = map[string]int64{}
	return moved
}

// deny makes the registry forget a blob, though its manifests name it.
func (m *meter) deny(d oci.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[d.String()] = true
}

type counted struct {
	io.ReadCloser
	count func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.count(n)
	return n, err
}

type countedWriter struct {
	http.ResponseWriter
	count func(int)
}

func (c *countedWriter) Write(p []byte) (int, error) {
	c.count(len(p))
	return c.ResponseWriter.Write(p)
}

// cacheFixture is a Dockerfile with a stage to build in, on a registry, and the machines that build it.
type cacheFixture struct {
	*testing.T
	registry *meter
}

const cacheDockerfile = `ARG BASE=scratch
FROM $BASE AS build
WORKDIR /src
COPY tools tools
RUN echo tools >made && cat tools >>made
COPY source source
RUN cat made source >out
FROM $BASE
COPY --from=build /src/out /out
RUN true
COPY readme /readme
ARG WHO=nobody
RUN echo "for $WHO" >/who
`

func newCacheFixture(t *testing.T) *cacheFixture {
	t.Helper()
	t.Parallel()
	needSandbox(t)
	m := newMeter(t)
	pushBases(t, m.addr)
	return &cacheFixture{T: t, registry: m}
}

// context makes the build context anew in a folder of its own, with times of its own: none of that is in a key.
func (f *cacheFixture) context(changed ...string) string {
	f.Helper()
	dir := write(f.T, append([]string{"Dockerfile", cacheDockerfile, "tools", "t\n", "source", "s\n", "readme", "r\n"}, changed...)...)
	past := time.Now().Add(-time.Duration(len(dir)) * time.Hour)
	for _, name := range []string{"tools", "source", "readme"} {
		if err := os.Chtimes(filepath.Join(dir, name), past, past); err != nil {
			f.Fatal(err)
		}
	}
	return dir
}

// machine is an App with a home of its own.
func (f *cacheFixture) machine() *app.App {
	f.Helper()
	return openApp(f.T, f.TempDir(), config.Config{})
}

func (f *cacheFixture) build(a *app.App, b app.Build) *build.Image {
	f.Helper()
	if b.Events == nil {
		b.Events = func(e build.Event) {
			if e.Kind == build.Warning {
				f.Errorf("warning: %s", e.Text)
			}
		}
	}
	b.Network = "default"
	b.Args = f.args(b.Args)
	im, err := a.Build(f.Context(), b)
	if err != nil {
		f.Fatal(err)
	}
	return im
}

func (f *cacheFixture) args(more map[string]string) map[string]string {
	args := maps.Clone(more)
	if args == nil {
		args = map[string]string{}
	}
	args["BASE"] = f.tag("library/busybox")
	return args
}

// tag is a reference in the fixture's registry.
func (f *cacheFixture) tag(name string) string { return f.registry.addr + "/" + name }

func (f *cacheFixture) inRegistry(name string) remote.Spec {
	return remote.Spec{Type: remote.InRegistry, Ref: f.tag(name)}
}

// wantNothingMoved checks that of the layers of an image no byte moved.
func (f *cacheFixture) wantNothingMoved(im *build.Image) {
	f.Helper()
	moved := f.registry.reset()
	for _, l := range im.Layers {
		if n := moved[l.Digest.String()]; n > 0 {
			f.Errorf("%d bytes of layer %s were fetched", n, l.Digest)
		}
	}
	if n := moved["upload"]; n > 4096 { // a config
		f.Errorf("%d bytes were uploaded", n)
	}
}

func wantCached(t *testing.T, im *build.Image, want int) {
	t.Helper()
	if im.Stats.Cached != want {
		t.Errorf("%d of %d steps were cached, want %d", im.Stats.Cached, im.Stats.Steps, want)
	}
	if im.Stats.Cached == im.Stats.Steps && im.Stats.LayersPacked > 0 {
		t.Errorf("%d layers were packed", im.Stats.LayersPacked)
	}
}

// TestCacheOnAnotherMachine builds on one machine, and again on another one that has nothing but the cache: nothing is
// built, no byte of a layer moves, and the image is the same.
func TestCacheOnAnotherMachine(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "cache")
	for name, spec := range map[string]func(f *cacheFixture) (to, from remote.Spec){
		"registry": func(f *cacheFixture) (to, from remote.Spec) { return f.inRegistry("cache"), f.inRegistry("cache") },
		"max": func(f *cacheFixture) (to, from remote.Spec) {
			to = f.inRegistry("app:cache")
			to.Max = true
			return to, f.inRegistry("app:cache")
		},
		"inline": func(f *cacheFixture) (to, from remote.Spec) {
			return remote.Spec{Type: remote.InImage}, f.inRegistry("app:v1")
		},
		"folder": func(*cacheFixture) (to, from remote.Spec) {
			return remote.Spec{Type: remote.InFolder, Dir: folder}, remote.Spec{Type: remote.InFolder, Dir: folder}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newCacheFixture(t)
			to, from := spec(f)
			first := f.build(f.machine(), app.Build{
				Context: f.context(), Tags: []string{f.tag("app:v1")}, Push: true, CacheTo: []remote.Spec{to},
			})
			f.registry.reset()
			b := app.Build{Context: f.context(), Tags: []string{f.tag("app:v2")}, Push: true, CacheFrom: []remote.Spec{from}}
			if to.Type == remote.InImage {
				b.CacheTo = []remote.Spec{to} // the records are part of the image
			}
			other := f.machine()
			second := f.build(other, b)
			wantCached(t, second, second.Stats.Steps)
			f.wantNothingMoved(second)
			if first.Manifest.Digest != second.Manifest.Digest {
				t.Errorf("digest %s, on the first machine %s", second.Manifest.Digest, first.Manifest.Digest)
			}

			// Into a repository that has none of it: layers are mounted, where the cache is in the registry.
			b.Tags = []string{f.tag("elsewhere:v1")}
			third := f.build(f.machine(), b)
			if to.Type != remote.InFolder {
				f.wantNothingMoved(third)
			}

			// What runs on top of cached layers gets their files.
			b.Args = map[string]string{"WHO": "you"}
			b.Outputs = []output.Output{{Type: "layout", Dest: filepath.Join(t.TempDir(), "out")}}
			changed := f.build(other, b)
			wantCached(t, changed, changed.Stats.Steps-1)
			tree := readLayout(t, b.Outputs[0].Dest).tree
			for _, p := range []string{"/out", "/readme", "/who"} {
				if tree[p] == "" {
					t.Errorf("%s is missing", p)
				}
			}
		})
	}
}

// TestCacheOfAllStages continues in the middle of a stage that the image is not made of.
func TestCacheOfAllStages(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"from the first build on": false, "for layers that were folders alone": true} {
		t.Run(name, func(t *testing.T) {
			f := newCacheFixture(t)
			a, to := f.machine(), f.inRegistry("cache")
			to.Max = true
			if before { // an earlier build made no blobs of the stage's layers
				f.build(a, app.Build{Context: f.context()})
			}
			first := f.build(a, app.Build{Context: f.context(), CacheTo: []remote.Spec{to}})
			b := app.Build{Context: f.context("source", "changed\n"), CacheFrom: []remote.Spec{f.inRegistry("cache")}}
			second := f.build(f.machine(), b)
			wantCached(t, second, 3+0) // WORKDIR, COPY tools and the first RUN
			if first.Manifest.Digest == second.Manifest.Digest {
				t.Error("another source gave the same image")
			}
			b.Context = f.context()
			same := f.build(f.machine(), b)
			if first.Manifest.Digest != same.Manifest.Digest {
				t.Errorf("digest %s, on the first machine %s", same.Manifest.Digest, first.Manifest.Digest)
			}
		})
	}
}

// TestCacheWritersAtOnce builds different images on several machines at once, into one cache.
func TestCacheWritersAtOnce(t *testing.T) {
	f := newCacheFixture(t)
	spec := []remote.Spec{f.inRegistry("cache")}
	sources := []string{"one", "two", "three"}
	var g sync.WaitGroup
	for _, s := range sources {
		a, dir := f.machine(), f.context("source", s)
		g.Go(func() {
			if _, err := a.Build(t.Context(), app.Build{Context: dir, Network: "default", Args: f.args(nil), CacheFrom: spec, CacheTo: spec}); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	for _, s := range sources {
		im := f.build(f.machine(), app.Build{Context: f.context("source", s), CacheFrom: spec})
		wantCached(t, im, im.Stats.Steps)
	}
}

// TestCacheLost builds anew what a cache names and the registry has no longer.
func TestCacheLost(t *testing.T) {
	f := newCacheFixture(t)
	spec := []remote.Spec{f.inRegistry("cache")}
	first := f.build(f.machine(), app.Build{Context: f.context(), CacheTo: spec})
	f.registry.deny(first.Layers[len(first.Layers)-1].Digest)
	second := f.build(f.machine(), app.Build{Context: f.context(), CacheFrom: spec})
	wantCached(t, second, second.Stats.Steps-1)
}

// TestCacheUnreadable goes on without a cache that is not there or cannot be reached; writing one must succeed.
func TestCacheUnreadable(t *testing.T) {
	f := newCacheFixture(t)
	var warnings []string
	b := app.Build{Context: f.context(), Events: func(e build.Event) {
		if e.Kind == build.Warning {
			warnings = append(warnings, e.Text)
		}
	}}
	b.CacheFrom = []remote.Spec{f.inRegistry("nothing:there")}
	f.build(f.machine(), b)
	if len(warnings) > 0 {
		t.Errorf("warnings %q for a cache that is empty, want none", warnings)
	}
	broken := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.CacheFrom = []remote.Spec{{Type: remote.InFolder, Dir: broken}}
	f.build(f.machine(), b)
	if len(warnings) != 1 || !strings.Contains(warnings[0], broken) {
		t.Errorf("warnings %q, want one that names the cache", warnings)
	}
	b.CacheFrom, b.CacheTo = nil, []remote.Spec{{Type: remote.InFolder, Dir: broken}}
	b.Args = f.args(nil)
	if _, err := f.machine().Build(t.Context(), b); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("build = %v, want an error that names the cache", err)
	}
	b.CacheTo[0].IgnoreError = true
	warnings = nil
	f.build(f.machine(), b)
	if len(warnings) != 1 {
		t.Errorf("warnings %q with ignore-error, want one", warnings)
	}
}

// TestNoCacheFilter runs the steps of some stages anew, and of the others those that then see something else.
func TestNoCacheFilter(t *testing.T) {
	f := newCacheFixture(t)
	a := f.machine()
	dir := write(t, "Dockerfile", `ARG BASE=scratch
FROM $BASE AS unstable
RUN cat /proc/sys/kernel/random/uuid >/id
FROM $BASE AS steady
RUN echo steady >/out
FROM unstable AS on-top
RUN echo more >>/id
FROM $BASE
COPY --from=steady /out /out
COPY --from=on-top /id /id
RUN test -s /id
`)
	build := func(filter ...string) *build.Image {
		return f.build(a, app.Build{Context: dir, NoCacheFilter: filter})
	}
	first := build()
	if again := build(); again.Manifest.Digest != first.Manifest.Digest {
		t.Fatal("a rebuild gave another image")
	}
	steady := build("steady")
	if steady.Manifest.Digest != first.Manifest.Digest {
		t.Error("a stage that leaves the same files changed the image")
	}
	wantCached(t, steady, steady.Stats.Steps-2) // its RUN; and the COPY, which is answered by what it reads
	if steady.Stats.LayersPacked > 0 {
		t.Errorf("%d layers were packed", steady.Stats.LayersPacked)
	}
	for _, name := range []string{"UNSTABLE", "0"} {
		if unstable := build(name); unstable.Manifest.Digest == first.Manifest.Digest {
			t.Errorf("--no-cache-filter %s left the image as it was", name)
		}
	}
	_, err := a.Build(t.Context(), app.Build{Context: dir, Args: f.args(nil), NoCacheFilter: []string{"stable"}})
	if !errors.Is(err, errs.Invalid) || !strings.Contains(errs.HintOf(err), "steady") {
		t.Errorf("an unknown stage: %v, hint %q", err, errs.HintOf(err))
	}
}
