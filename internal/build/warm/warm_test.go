package warm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/internal/build/warm"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// source is a registry with one tag, as a folder sees it.
type source struct {
	mu      sync.Mutex
	gone    bool
	current v1.Image
	images  []v1.Image
	fetched int
}

func (s *source) push(t *testing.T) v1.Image {
	t.Helper()
	image, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.images = image, append(s.images, image)
	return image
}

func (s *source) Resolve(_ context.Context, r ref.Ref) (oci.Descriptor, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return oci.Descriptor{}, nil, errs.Unavailable
	}
	for _, image := range s.images {
		raw, err := image.RawManifest()
		if err != nil {
			return oci.Descriptor{}, nil, err
		}
		if desc := oci.DescribeManifest(raw); r.Digest() == desc.Digest || r.Digest() == "" && image == s.current {
			return desc, raw, nil
		}
	}
	return oci.Descriptor{}, nil, errs.NotFound
}

func (s *source) Blob(_ context.Context, _ ref.Ref, d oci.Descriptor) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, errs.Unavailable
	}
	s.fetched++
	for _, image := range s.images {
		hash, err := v1.NewHash(d.Digest.String())
		if err != nil {
			return nil, err
		}
		if layer, err := image.LayerByDigest(hash); err == nil {
			return layer.Compressed()
		}
	}
	return nil, errs.NotFound
}

func digest(t *testing.T, image v1.Image) oci.Digest {
	t.Helper()
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return oci.DescribeManifest(raw).Digest
}

type fixture struct {
	t      *testing.T
	path   string
	source *source
	ref    ref.Ref
	found  []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	r, err := ref.Parse("registry.example.com/base:1")
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, path: t.TempDir(), source: &source{}, ref: r}
}

func (f *fixture) open() *warm.Dir {
	f.t.Helper()
	d, err := warm.Open(f.path, warm.Options{From: f.source, Found: func(path string) { f.found = append(f.found, path) }})
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func platform() oci.Platform { return oci.Platform{OS: "linux", Architecture: "amd64"} }

func (f *fixture) fill() (oci.Digest, bool) {
	f.t.Helper()
	digest, hit, err := f.open().Fill(f.t.Context(), f.ref, platform())
	if err != nil {
		f.t.Fatal(err)
	}
	return digest, hit
}

// holds checks that the folder answers for an image with every byte of it.
func (f *fixture) holds(r ref.Ref, image v1.Image) {
	f.t.Helper()
	d := f.open()
	desc, raw, err := d.Base(f.t.Context(), r, platform())
	if err != nil || desc.Digest != digest(f.t, image) {
		f.t.Fatalf("Base = %v, %v; want %s", desc, err, digest(f.t, image))
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		f.t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		f.t.Fatal(err)
	}
	want := [][]byte{config}
	for _, l := range layersOf(f.t, image) {
		src, err := l.Compressed()
		if err != nil {
			f.t.Fatal(err)
		}
		data, err := io.ReadAll(src)
		if err != nil {
			f.t.Fatal(err)
		}
		want = append(want, data)
	}
	for i, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		r, err := d.Open(f.t.Context(), oci.Digest(b.Digest.String()))
		if err != nil {
			f.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(data, want[i]) || r.Size() != int64(len(data)) {
			f.t.Errorf("blob %d: %d bytes, %v", i, len(data), err)
		}
	}
}

func layersOf(t *testing.T, image v1.Image) []v1.Layer {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

func TestFillThenBase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	image := f.source.push(t)
	if _, _, err := f.open().Base(t.Context(), f.ref, platform()); !errors.Is(err, errs.NotFound) {
		t.Errorf("Base of an empty folder: %v", err)
	}
	if d, hit := f.fill(); hit || d != digest(t, image) {
		t.Errorf("Fill = %s, %v", d, hit)
	}
	if _, hit := f.fill(); !hit {
		t.Error("filling again is no hit")
	}
	f.holds(f.ref, image)
	f.source.gone = true
	f.holds(f.ref, image)
	f.holds(f.ref.WithDigest(digest(t, image)), image)
	want := filepath.Join(f.path, digest(t, image).String()+".json")
	if diff := cmp.Diff([]string{want, want, want}, f.found); diff != "" {
		t.Errorf("found mismatch (-want +got):\n%s", diff)
	}
}

// A tag that moved is not answered with what it named before, as long as somebody knows.
func TestTagMoves(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	before := f.source.push(t)
	f.fill()
	after := f.source.push(t)
	if _, _, err := f.open().Base(t.Context(), f.ref, platform()); !errors.Is(err, errs.NotFound) {
		t.Errorf("Base after the tag moved: %v, want errs.NotFound", err)
	}
	if _, hit := f.fill(); hit {
		t.Error("the new image was there already")
	}
	f.holds(f.ref, after)
	f.holds(f.ref.WithDigest(digest(t, before)), before)
}

func TestManyFill(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	image := f.source.push(t)
	var group sync.WaitGroup
	for range 10 {
		d := f.open() // as a process of its own would
		group.Go(func() {
			if _, _, err := d.Fill(t.Context(), f.ref, platform()); err != nil {
				t.Errorf("Fill: %v", err)
			}
		})
	}
	group.Wait()
	f.holds(f.ref, image)
	if _, hit := f.fill(); !hit { // and tidies up
		t.Error("filling again is no hit")
	}
	err := filepath.WalkDir(f.path, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "tmp") {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDamagedManifest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	image := f.source.push(t)
	f.fill()
	if err := os.WriteFile(filepath.Join(f.path, digest(t, image).String()+".json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, hit := f.fill(); hit {
		t.Error("a damaged manifest is a hit")
	}
	f.holds(f.ref, image)
}

// kaniko writes what kaniko's warmer does for an image.
func (f *fixture) kaniko(image v1.Image, manifest bool) string {
	f.t.Helper()
	path := filepath.Join(f.path, digest(f.t, image).String())
	tag, err := name.NewTag(f.ref.String())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		f.t.Fatal(err)
	}
	raw, err := image.RawManifest()
	if err != nil {
		f.t.Fatal(err)
	}
	if manifest {
		if err := os.WriteFile(path+".json", raw, 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	return path
}

func TestKaniko(t *testing.T) {
	t.Parallel()
	for _, manifest := range []bool{true, false} {
		f := newFixture(t)
		image := f.source.push(t)
		path := f.kaniko(image, manifest)
		f.holds(f.ref, image)
		if diff := cmp.Diff([]string{path}, f.found); diff != "" {
			t.Errorf("found mismatch (-want +got):\n%s", diff)
		}
		if _, hit := f.fill(); !hit || f.source.fetched > 0 {
			t.Errorf("filling fetches %d blobs again", f.source.fetched)
		}
		f.source.gone = true
		f.holds(f.ref.WithDigest(digest(t, image)), image)
		f.holds(f.ref, image) // Fill has noted what the tag named
	}
}

// What kaniko was killed over, or somebody damaged, is not taken for an image, and filling makes up for it.
func TestKanikoHalf(t *testing.T) {
	t.Parallel()
	for what, hurt := range map[string]func(data []byte) []byte{
		"cut":    func(data []byte) []byte { return data[:len(data)/2] },
		"empty":  func([]byte) []byte { return nil },
		"no tar": func([]byte) []byte { return bytes.Repeat([]byte("x"), 5000) },
		"other config": func(data []byte) []byte {
			return bytes.ReplaceAll(data, []byte(`"Config":"sha256:`), []byte(`"Config":"SHA256:`))
		},
	} {
		f := newFixture(t)
		image := f.source.push(t)
		path := f.kaniko(image, true)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, hurt(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.open().Base(t.Context(), f.ref, platform()); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: Base: %v, want errs.NotFound", what, err)
		}
		if _, hit := f.fill(); hit {
			t.Errorf("%s: a hit", what)
		}
		f.holds(f.ref, image)
	}
}

func TestKanikoDamagedLayer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	image := f.source.push(t)
	path := f.kaniko(image, true)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	layer := layersOf(t, image)[1]
	hash, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte(hash.Hex+".tar.gz")) // its header, a block before its bytes
	data[at+512+100] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	d := f.open()
	if _, _, err := d.Base(t.Context(), f.ref, platform()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(t.Context(), oci.Digest(hash.String())); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Open: %v, want errs.Corrupt", err)
	}
}

// Whatever lies where an image should, it is an image or it is not found.
func FuzzKaniko(f *testing.F) {
	image, err := random.Image(100, 1)
	if err != nil {
		f.Fatal(err)
	}
	var tar bytes.Buffer
	tag, err := name.NewTag("registry.example.com/base:1")
	if err == nil {
		err = tarball.Write(tag, image, &tar)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tar.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		path, digest := t.TempDir(), oci.Digest("sha256:"+strings.Repeat("a", 64))
		if err := os.WriteFile(filepath.Join(path, digest.String()), data, 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := warm.Open(path, warm.Options{From: &source{gone: true}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := ref.Parse("registry.example.com/base@" + digest.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Base(t.Context(), r, platform()); err != nil && !errors.Is(err, errs.NotFound) {
			t.Errorf("Base: %v", err)
		}
	})
}
