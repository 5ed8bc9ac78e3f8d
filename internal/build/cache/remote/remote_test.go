package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
)

// now is the time of a test's first build.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// places are the kinds of place, each given as a function that opens the same one again.
func places(t *testing.T) map[string]func(*testing.T) func() remote.Place {
	t.Helper()
	return map[string]func(*testing.T) func() remote.Place{
		"registry": func(t *testing.T) func() remote.Place {
			r := parse(t, serveRegistry(t)+"/app:cache")
			return func() remote.Place { return remote.NewRegistry(client(t), r) }
		},
		"folder": func(t *testing.T) func() remote.Place {
			dir := filepath.Join(t.TempDir(), "cache")
			return func() remote.Place { return remote.NewFolder(dir) }
		},
	}
}

func serveRegistry(t *testing.T) string {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r.Addr()
}

func client(t *testing.T) *registry.Client {
	t.Helper()
	c := registry.New(registry.Options{})
	t.Cleanup(c.Close)
	return c
}

func parse(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// layer is a layer's content; its record says so.
func layer(s string) (data []byte, r build.Record) {
	data = []byte("layer " + s)
	desc := oci.Describe(oci.MediaTypeLayerGzip, data)
	return data, build.Record{Below: digest.FromString("below"), Layer: &desc, DiffID: digest.FromString("tar " + s), Created: now}
}

func source(data []byte) registry.Source {
	desc := oci.Describe(oci.MediaTypeLayerGzip, data)
	return registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open:       func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[offset:])), nil },
	}
}

func key(s string) oci.Digest { return digest.FromString("key " + s) }

// add puts layers and saves their records, each under a key of its name.
func add(t *testing.T, p remote.Place, at time.Time, ttl time.Duration, names ...string) {
	t.Helper()
	u := remote.Update{Records: map[oci.Digest]build.Record{}, Now: at, TTL: ttl}
	for _, name := range names {
		data, r := layer(name)
		if _, err := p.Put(t.Context(), source(data)); err != nil {
			t.Fatal(err)
		}
		u.Records[key(name)] = r
	}
	if err := p.Save(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

func wantKeys(t *testing.T, p remote.Place, names ...string) remote.Records {
	t.Helper()
	records, err := p.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[oci.Digest]bool{}, map[oci.Digest]bool{}
	for _, n := range names {
		want[key(n)] = true
	}
	for k := range records {
		got[k] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys mismatch (-want +got):\n%s", diff)
	}
	return records
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	for name, open := range places(t) {
		for what, test := range map[string]func(*testing.T, func() remote.Place){
			"round trip":        testRoundTrip,
			"writers at once":   testWriters,
			"old entries go":    testTTL,
			"unchanged":         testUnchanged,
			"blob not there":    testNotThere,
			"the newest wins":   testNewestWins,
			"only empty layers": testEmpty,
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				test(t, open(t))
			})
		}
	}
}

func testRoundTrip(t *testing.T, open func() remote.Place) {
	if _, err := open().Load(t.Context()); !errors.Is(err, errs.NotFound) {
		t.Fatalf("Load of no cache = %v, want not found", err)
	}
	add(t, open(), now, 0, "a", "b")
	p := open()
	records := wantKeys(t, p, "a", "b")
	data, want := layer("a")
	if diff := cmp.Diff(remote.Entry{Record: want, Used: now}, records[key("a")]); diff != "" {
		t.Errorf("entry mismatch (-want +got):\n%s", diff)
	}
	if ok, err := p.Has(t.Context(), want.Layer.Digest); !ok || err != nil {
		t.Errorf("Has = %v, %v", ok, err)
	}
	r, err := p.Open(t.Context(), *want.Layer)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); !bytes.Equal(got, data) || err != nil {
		t.Errorf("blob = %q, %v", got, err)
	}
	if pushed, err := p.Put(t.Context(), source(data)); err != nil || !pushed.Existed {
		t.Errorf("second Put = %+v, %v, want that it existed", pushed, err)
	}
}

// testWriters saves from many processes' view at once: nothing is lost.
func testWriters(t *testing.T, open func() remote.Place) {
	const writers = 8
	var g sync.WaitGroup
	names := make([]string, writers)
	for i := range writers {
		names[i] = fmt.Sprint("writer ", i)
		p := open()
		g.Go(func() { add(t, p, now, 0, names[i]) })
	}
	g.Wait()
	wantKeys(t, open(), names...)
}

func testTTL(t *testing.T, open func() remote.Place) {
	const day = 24 * time.Hour
	add(t, open(), now, 0, "old", "used")
	add(t, open(), now.Add(4*day), 5*day, "used", "new")
	wantKeys(t, open(), "old", "used", "new")
	add(t, open(), now.Add(6*day), 5*day, "new")
	wantKeys(t, open(), "used", "new")
}

// testUnchanged looks at what is written: a rebuild writes nothing until the time of the last use is a day old.
func testUnchanged(t *testing.T, open func() remote.Place) {
	add(t, open(), now, 0, "a")
	add(t, open(), now.Add(time.Hour), 0, "a")
	if got := wantKeys(t, open(), "a")[key("a")].Used; !got.Equal(now) {
		t.Errorf("after an hour: used %s, want %s", got, now)
	}
	later := now.Add(48 * time.Hour)
	add(t, open(), later, 0, "a")
	if got := wantKeys(t, open(), "a")[key("a")].Used; !got.Equal(later) {
		t.Errorf("after two days: used %s, want %s", got, later)
	}
}

func testNotThere(t *testing.T, open func() remote.Place) {
	p := open()
	add(t, p, now, 0, "a")
	desc := oci.Describe(oci.MediaTypeLayerGzip, []byte("nobody put this"))
	if ok, err := p.Has(t.Context(), desc.Digest); ok || err != nil {
		t.Errorf("Has = %v, %v, want false", ok, err)
	}
	if _, err := p.Open(t.Context(), desc); !errors.Is(err, errs.NotFound) {
		t.Errorf("Open = %v, want not found", err)
	}
}

func testNewestWins(t *testing.T, open func() remote.Place) {
	add(t, open(), now, 0, "a", "b")
	p := open()
	_, r := layer("b")
	if err := p.Save(t.Context(), remote.Update{Records: map[oci.Digest]build.Record{key("a"): r}, Now: now.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	got := wantKeys(t, open(), "a", "b")[key("a")].Record
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("record mismatch (-want +got):\n%s", diff)
	}
}

func testEmpty(t *testing.T, open func() remote.Place) {
	want := build.Record{Created: now}
	err := open().Save(t.Context(), remote.Update{Records: map[oci.Digest]build.Record{key("a"): want}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, wantKeys(t, open(), "a")[key("a")].Record, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("record mismatch (-want +got):\n%s", diff)
	}
}

// TestFolderIsCarriedByHand damages what a CI system may damage.
func TestFolderIsCarriedByHand(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"index":   func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "index.json"), "{") },
		"records": func(t *testing.T, dir string) { overwriteBlobs(t, dir, `"records"`) },
		"gone":    func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "blobs")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			add(t, remote.NewFolder(dir), now, 0, "a")
			damage(t, dir)
			if _, err := remote.NewFolder(dir).Load(t.Context()); !errors.Is(err, errs.Corrupt) {
				t.Fatalf("Load = %v, want corrupt", err)
			}
			add(t, remote.NewFolder(dir), now, 0, "b")
			wantKeys(t, remote.NewFolder(dir), "b")
		})
	}
}

func overwrite(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// overwriteBlobs damages the blobs that hold a text.
func overwriteBlobs(t *testing.T, dir, text string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) {
			overwrite(t, f, string(bytes.Replace(data, []byte(text), []byte(`"Records"`), 1)))
		}
	}
}

// TestFolderDamagedBlob reads a layer that is not what its digest says.
func TestFolderDamagedBlob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := remote.NewFolder(dir)
	add(t, p, now, 0, "a")
	_, r := layer("a")
	overwriteBlobs(t, dir, "layer a")
	overwrite(t, filepath.Join(dir, "blobs", "sha256", r.Layer.Digest.Encoded()), "LAYER a")
	f, err := p.Open(t.Context(), *r.Layer)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadAll(f); !errors.Is(err, errs.Corrupt) {
		t.Errorf("read = %v, want corrupt", err)
	}
}

// TestFolderSweeps removes what no record names any more, but nothing young.
func TestFolderSweeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := remote.NewFolder(dir)
	add(t, p, now, 0, "old", "orphan")
	data, young := layer("young")
	if _, err := p.Put(t.Context(), source(data)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, now, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Put(t.Context(), source(data)); err != nil { // somebody else is about to save it
		t.Fatal(err)
	}
	at := time.Now().Add(time.Hour)
	add(t, p, at, 30*time.Minute, "new")
	for name, want := range map[string]bool{"old": false, "orphan": false, "new": true} {
		_, r := layer(name)
		if ok, err := p.Has(t.Context(), r.Layer.Digest); ok != want || err != nil {
			t.Errorf("Has(%s) = %v, %v, want %v", name, ok, err, want)
		}
	}
	if ok, err := p.Has(t.Context(), young.Layer.Digest); !ok || err != nil {
		t.Errorf("Has(young) = %v, %v: it waits for its record", ok, err)
	}
}

// TestRegistryKeepsImages does not write a cache over an image.
func TestRegistryKeepsImages(t *testing.T) {
	t.Parallel()
	r := parse(t, serveRegistry(t)+"/app:v1")
	c := client(t)
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`)
	if _, err := c.PushBlob(t.Context(), r, source(config)); err != nil {
		t.Fatal(err)
	}
	m, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), []oci.Descriptor{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushManifest(t.Context(), r, oci.MediaTypeManifest, m); err != nil {
		t.Fatal(err)
	}
	p := remote.NewRegistry(c, r)
	if _, err := p.Load(t.Context()); !errors.Is(err, errs.NotFound) {
		t.Errorf("Load = %v, want not found", err)
	}
	u := remote.Update{Records: map[oci.Digest]build.Record{key("a"): {Created: now}}, Now: now}
	if err := p.Save(t.Context(), u); !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Errorf("Save = %v, want a conflict with a hint", err)
	}
}

// TestRegistryLostALayer drops the entries whose layers are gone: the registry takes no manifest without them.
func TestRegistryLostALayer(t *testing.T) {
	t.Parallel()
	addr := serveRegistry(t)
	r := parse(t, addr+"/app:cache")
	add(t, remote.NewRegistry(client(t), r), now, 0, "lost", "kept")
	_, lost := layer("lost")
	deleteBlob(t, addr, "app", lost.Layer.Digest)
	add(t, remote.NewRegistry(client(t), r), now, 0, "new")
	wantKeys(t, remote.NewRegistry(client(t), r), "kept", "new")
}
