package convert_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/convert"
	"slipway/internal/oci/accel/estargz"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
)

// world is a registry whose requests are counted, and a Converter.
type world struct {
	t      *testing.T
	addr   string
	client *registry.Client
	home   string
	*convert.Converter

	mu   sync.Mutex
	gets []string // paths of blobs that were read
}

func newWorld(t *testing.T) *world {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, home: t.TempDir()}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			w.mu.Lock()
			w.gets = append(w.gets, req.URL.Path)
			w.mu.Unlock()
		}
		r.ServeHTTP(rw, req)
	}))
	t.Cleanup(server.Close)
	w.addr = strings.TrimPrefix(server.URL, "http://")
	w.client = registry.New(registry.Options{})
	t.Cleanup(w.client.Close)
	blobs, err := dir.Open(filepath.Join(w.home, "content"), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Converter = convert.New(convert.Options{
		Registry: w.client, Blobs: blobs, Cache: accel.OpenCache(filepath.Join(w.home, "accelerated"), blobs),
	})
	return w
}

// layersRead is how many blobs of layers were read since it was last called. The config is read each time.
func (w *world) layersRead() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.gets) - 1
	w.gets = nil
	return n
}

func (w *world) ref(name string) ref.Ref {
	w.t.Helper()
	r, err := ref.Parse(w.addr + "/" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) put(to ref.Ref, mediaType string, data []byte) oci.Descriptor {
	w.t.Helper()
	d := oci.Describe(mediaType, data)
	_, err := w.client.PushBlob(w.t.Context(), to, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return d, nil },
		Open:       func(off int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[off:])), nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// layer is one to push: a plain tar, and how it is stored.
type layer struct {
	tar       []byte
	mediaType string
	stored    []byte
	diffID    oci.Digest
}

func gzipped(data []byte) layer {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data)
	_ = z.Close()
	return layer{data, oci.MediaTypeLayerGzip, b.Bytes(), digest.FromBytes(data)}
}

func zstded(data []byte) layer {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return layer{data, oci.MediaTypeLayerZstd, z.EncodeAll(data, nil), digest.FromBytes(data)}
}

// image pushes an image and returns the descriptor of its manifest.
func (w *world) image(to ref.Ref, layers ...layer) oci.Descriptor {
	w.t.Helper()
	var m oci.Manifest
	var diffIDs []oci.Digest
	for _, l := range layers {
		m.Layers = append(m.Layers, w.put(to, l.mediaType, l.stored))
		diffIDs = append(diffIDs, l.diffID)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"sh"}}, "unknown": "kept",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}, "history": []any{map[string]any{"created_by": "test"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	m = oci.NewManifest(w.put(to, oci.MediaTypeConfig, config), m.Layers, map[string]string{"a": "b"})
	raw, err := oci.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	d, err := w.client.PushManifest(w.t.Context(), to, oci.MediaTypeManifest, raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) read(from ref.Ref, d oci.Descriptor) []byte {
	w.t.Helper()
	r, err := w.client.Blob(w.t.Context(), from, d)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

func (w *world) manifest(r ref.Ref) (oci.Descriptor, oci.Manifest) {
	w.t.Helper()
	d, raw, err := w.client.Resolve(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		w.t.Fatal(err)
	}
	return d, m
}

// small are two layers that are quickly converted.
func small(t *testing.T) [][]byte {
	t.Helper()
	return [][]byte{acceltest.Layers(t)[1], acceltest.Files(t, map[string]string{"a": "content of a", "b": strings.Repeat("b", 10_000)})}
}

func format(t *testing.T, opts estargz.Options) accel.Format {
	t.Helper()
	f, err := estargz.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func hows(im *convert.Image) string {
	var list []string
	for _, p := range im.Platforms {
		for _, l := range p.Layers {
			list = append(list, l.How)
		}
	}
	return strings.Join(list, " ")
}

func TestImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tars := small(t)
	from, to := w.ref("app:v1"), w.ref("app:v1_accelerated")
	original := w.image(from, gzipped(tars[0]), zstded(tars[1]))
	req := convert.Request{From: from, To: to, Format: format(t, estargz.Options{})}
	im, err := w.Image(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "converted converted" {
		t.Errorf("layers were %s", got)
	}
	if n := w.layersRead(); n != 2 {
		t.Errorf("%d layers were read, want 2", n)
	}
	desc, m := w.manifest(to)
	if desc.Digest != im.Manifest.Digest || im.Original.Digest != original.Digest {
		t.Errorf("result is %s of %s, tag names %s", im.Manifest.Digest, im.Original.Digest, desc.Digest)
	}
	if m.Subject == nil || m.Subject.Digest != original.Digest || m.Annotations["a"] != "b" {
		t.Errorf("subject %v, annotations %v", m.Subject, m.Annotations)
	}
	referrers, err := w.client.Referrers(t.Context(), from, original.Digest, "")
	if err != nil || len(referrers) != 1 || referrers[0].Digest != desc.Digest {
		t.Errorf("referrers of the original are %v, %v", referrers, err)
	}
	var config map[string]any
	if err := json.Unmarshal(w.read(to, m.Config), &config); err != nil {
		t.Fatal(err)
	}
	if config["unknown"] != "kept" || config["history"] == nil {
		t.Errorf("config is %v", config)
	}
	diffIDs := config["rootfs"].(map[string]any)["diff_ids"].([]any)
	for i, l := range m.Layers {
		_, blobs := acceltest.Convert(t, req.Format, tars[i:i+1])
		if got := w.read(to, l); !bytes.Equal(got, blobs[0]) {
			t.Errorf("layer %d in the registry is not its conversion", i)
		}
		if diffIDs[i] != string(im.Platforms[0].Layers[i].DiffID) || l.Annotations[estargz.AnnotationTOC] == "" {
			t.Errorf("layer %d: diffID %v, annotations %v", i, diffIDs[i], l.Annotations)
		}
	}
}

// TestRemembers converts an image that shares a layer with one before.
func TestRemembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tars := small(t)
	w.image(w.ref("app:v1"), gzipped(tars[0]))
	w.image(w.ref("app:v2"), gzipped(tars[0]), gzipped(tars[1]))
	f := format(t, estargz.Options{})
	if _, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("app:a1"), Format: f}); err != nil {
		t.Fatal(err)
	}
	w.layersRead()
	im, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v2"), To: w.ref("other:a2"), Format: f})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "remembered converted" {
		t.Errorf("layers were %s", got)
	}
	if n := w.layersRead(); n != 1 {
		t.Errorf("%d layers were read, want the new one", n)
	}
	_, m := w.manifest(w.ref("other:a2"))
	for _, l := range m.Layers {
		w.read(w.ref("other:a2"), l)
	}
	// Once more, from its own result.
	if im, err = w.Image(t.Context(), convert.Request{From: w.ref("other:a2"), To: w.ref("third:a3"), Format: f}); err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "already already" {
		t.Errorf("layers were %s", got)
	}
	_, m = w.manifest(w.ref("third:a3"))
	for _, l := range m.Layers {
		w.read(w.ref("third:a3"), l)
	}
	// Files that come first ask for another conversion.
	im, err = w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("app:first"), Format: format(t, estargz.Options{First: []string{"many/new"}})})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "converted" {
		t.Errorf("layers were %s", got)
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tars := small(t)
	amd := w.image(w.ref("app:amd"), gzipped(tars[0]))
	arm := w.image(w.ref("app:arm"), gzipped(tars[0]), gzipped(tars[1]))
	statement := w.image(w.ref("app:statement"))
	amd.Platform, arm.Platform = &oci.Platform{OS: "linux", Architecture: "amd64"}, &oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	statement.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	raw, err := oci.Marshal(oci.NewIndex([]oci.Descriptor{amd, arm, statement}, map[string]string{"c": "d"}))
	if err != nil {
		t.Fatal(err)
	}
	original, err := w.client.PushManifest(t.Context(), w.ref("app:v1"), oci.MediaTypeIndex, raw)
	if err != nil {
		t.Fatal(err)
	}
	im, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("app:v1_accelerated"), Format: format(t, estargz.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	desc, raw, err := w.client.Resolve(t.Context(), w.ref("app:v1_accelerated"))
	if err != nil {
		t.Fatal(err)
	}
	var index oci.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if desc.Digest != im.Manifest.Digest || index.Subject == nil || index.Subject.Digest != original.Digest || index.Annotations["c"] != "d" || len(index.Manifests) != 2 {
		t.Fatalf("index is %s", raw)
	}
	for i, was := range []oci.Descriptor{amd, arm} {
		_, m := w.manifest(w.ref("app:v1").WithDigest(index.Manifests[i].Digest))
		if m.Subject == nil || m.Subject.Digest != was.Digest || !oci.SamePlatform(*index.Manifests[i].Platform, *was.Platform) {
			t.Errorf("manifest %d has subject %v, platform %v", i, m.Subject, index.Manifests[i].Platform)
		}
	}
}

// TestKeeps leaves layers that the format cannot state as they are.
func TestKeeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := gzipped(acceltest.Link(t, "new", "below/file"))
	w.image(w.ref("app:v1"), gzipped(acceltest.Layers(t)[1]), foreign)
	im, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("other:v1"), Format: format(t, estargz.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "converted kept" {
		t.Errorf("layers were %s", got)
	}
	_, m := w.manifest(w.ref("other:v1"))
	if got := w.read(w.ref("other:v1"), m.Layers[1]); !bytes.Equal(got, foreign.stored) {
		t.Error("the layer is another")
	}
}

// TestRefuses has originals that are not what they say. Nothing must be pushed under the tag.
func TestRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := acceltest.Layers(t)[1]
	lie := gzipped(data)
	lie.diffID = digest.FromString("another")
	cut := gzipped(data[:700])
	trailing := gzipped(append(bytes.Clone(data), "more"...))
	trailing.diffID = digest.FromBytes(data)
	noTar := gzipped(acceltest.Text(10_000))
	for name, l := range map[string]layer{"diffID of another": lie, "cut": cut, "more after its end": trailing, "no tar": noTar} {
		from, to := w.ref("app:v1"), w.ref("app:"+strings.ReplaceAll(name, " ", "-"))
		w.image(from, l)
		_, err := w.Image(t.Context(), convert.Request{From: from, To: to, Format: format(t, estargz.Options{})})
		if !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v, want Corrupt", name, err)
		}
		if _, _, err := w.client.Resolve(t.Context(), to); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: the tag is there, %v", name, err)
		}
	}
	if _, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("app:v1"), Format: format(t, estargz.Options{})}); !errors.Is(err, errs.Invalid) {
		t.Errorf("onto the original's tag: %v, want Invalid", err)
	}
	if _, err := w.Image(t.Context(), convert.Request{From: w.ref("none:v1"), To: w.ref("app:v2"), Format: format(t, estargz.Options{})}); !errors.Is(err, errs.NotFound) {
		t.Errorf("what is not there: %v, want NotFound", err)
	}
}

// TestPushFails has a registry that takes no layers: nothing may be remembered that is not there, and nothing hang.
func TestPushFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.image(w.ref("app:v1"), gzipped(small(t)[0]))
	refusing := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(refusing.Close)
	to, err := ref.Parse(strings.TrimPrefix(refusing.URL, "http://") + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: to, Format: format(t, estargz.Options{})})
	if !errors.Is(err, errs.Denied) {
		t.Errorf("error %v, want Denied", err)
	}
}
