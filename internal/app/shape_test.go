package app_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/build/output"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// squashable does to files whatever two layers can do to each other and to the base.
const squashable = `FROM busybox
RUN mkdir -p /d/sub /gone && echo 1 >/d/a && echo secret >/d/passing && ln /d/a /d/b && rm -rf /etc/group /var
COPY hello /d/sub/hello
RUN rm /d/passing && rm -rf /gone && mkdir -p /var/new && echo 2 >>/d/b && rm -rf /home && echo file >/home
RUN rm /home && mkdir -m 700 /home && rm -rf /d/sub && mkdir /d/sub && ln -s /nowhere /d/sub/link && chown 5:6 /d/a
`

func TestSquash(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	addr := startRegistry(t)
	dir := write(t, "hello", "hello", "Dockerfile", squashable)
	loose := w.build(t, app.Build{Context: dir})
	squash := app.Build{Context: dir, Squash: true, Push: true, Tags: []string{addr + "/squashed:1"}}
	got := w.build(t, squash)
	if diff := cmp.Diff(loose.tree, got.tree); diff != "" {
		t.Errorf("squashing changed files (-plain +squashed):\n%s", diff)
	}
	if len(got.Layers) != 2 || got.Layers[0].Digest != loose.Layers[0].Digest {
		t.Fatalf("layers = %v, want the base's and one more", got.Layers)
	}
	var config oci.Image
	if err := json.Unmarshal(got.RawConfig, &config); err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, h := range config.History {
		if !h.EmptyLayer {
			made++
		}
	}
	if made != 1 { // the test's base has a layer but no history
		t.Errorf("%d lines of the history made a layer: %v", made, config.History)
	}
	for _, name := range topNames(t, w.home, got.Image) {
		if strings.Contains(name, "passing") || strings.Contains(name, "gone") {
			t.Errorf("%s was deleted and is still told of", name)
		}
	}
	again := w.build(t, squash)
	if again.Manifest.Digest != got.Manifest.Digest || again.Stats.LayersPacked != 0 || again.Stats.BytesPushed != 0 {
		t.Errorf("squashed again: %s, %+v", again.Manifest.Digest, again.Stats)
	}
	fresh := newWorkshop(t).build(t, app.Build{Context: dir, Squash: true})
	if diff := cmp.Diff(got.tree, fresh.tree); diff != "" {
		t.Errorf("squashing without other layers' blobs differs (-want +got):\n%s", diff)
	}
}

// topNames are the names in an image's topmost layer, which is in the store of home.
func topNames(t *testing.T, home string, im *build.Image) []string {
	t.Helper()
	f, err := os.Open(filepath.Join(home, "content", "blobs", "sha256", im.Layers[len(im.Layers)-1].Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(plain(t, f)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestDockerTypes(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	dir := write(t, "Dockerfile", "FROM busybox\nRUN echo >/x\n")
	im := w.build(t, app.Build{Context: dir, DockerTypes: true})
	if im.Manifest.MediaType != oci.DockerManifest || im.Config.MediaType != oci.DockerConfig {
		t.Errorf("types are %s and %s", im.Manifest.MediaType, im.Config.MediaType)
	}
	for i, want := range []string{oci.DockerLayer, oci.DockerLayerGzip} { // the test's base is not compressed
		if got := im.Layers[i].MediaType; got != want {
			t.Errorf("layer %d is of type %s, want %s", i, got, want)
		}
	}
	for name, b := range map[string]app.Build{
		"zstd":        {Compression: layer.Compression{Algorithm: "zstd"}},
		"annotations": {Annotations: []build.Annotation{{Level: build.OnManifest, Key: "a", Value: "b"}}},
	} {
		b.Context, b.DockerTypes = dir, true
		if _, err := w.attempt(t, b); !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
			t.Errorf("%s with Docker's types: %v, want a refusal with a hint", name, err)
		}
	}
}

func TestAnnotations(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	layout := filepath.Join(t.TempDir(), "out")
	all := []build.Annotation{
		{Level: build.OnManifest, Key: "m", Value: "1"},
		{Level: build.OnManifest, Platform: "linux/arm64", Key: "arm", Value: "1"},
		{Level: build.OnManifestDescriptor, Key: "md", Value: "1"},
		{Level: build.OnIndex, Key: "i", Value: "1"},
		{Level: build.OnIndexDescriptor, Key: "id", Value: "1"},
	}
	r := app.Build{
		Context: dir, Platform: "linux/amd64,linux/arm64", Annotations: all, Tags: []string{"r.example/a:1"},
		Outputs: []output.Output{{Type: output.Layout, Dest: layout}},
	}
	im, err := a.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var index, top oci.Index
	var arm oci.Manifest
	if err := errors.Join(json.Unmarshal(im.Raw, &index), json.Unmarshal(im.Platforms[1].Raw, &arm)); err != nil {
		t.Fatal(err)
	}
	readJSON(t, filepath.Join(layout, "index.json"), &top, false)
	want := []map[string]string{
		{"m": "1", "arm": "1"},
		{"md": "1"},
		{"i": "1"},
		{"id": "1", "io.containerd.image.name": "r.example/a:1", "org.opencontainers.image.ref.name": "1"},
	}
	got := []map[string]string{arm.Annotations, index.Manifests[1].Annotations, index.Annotations, top.Manifests[0].Annotations}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("annotations mismatch (-want +got):\n%s", diff)
	}
	r.Platform = "linux/amd64"
	if _, err := a.Build(t.Context(), r); !errors.Is(err, errs.Invalid) {
		t.Errorf("annotations of an index without one: %v, want invalid", err)
	}
}
