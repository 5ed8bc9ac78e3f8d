package app_test

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	oracle "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/app"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci/blob/dir"
)

// TestBuildEstargz builds layers that are loaded lazily: the same files as ever, and tables that verify.
func TestBuildEstargz(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	context := write(t, "hello", "hello", "Dockerfile", squashable)
	plain := w.build(t, app.Build{Context: context})
	lazy := app.Build{Context: context, Acceleration: app.Acceleration{Name: "estargz"}}
	got := w.build(t, lazy)
	files := maps.Clone(got.tree)
	maps.DeleteFunc(files, func(name, _ string) bool {
		return slices.Contains([]string{"/stargz.index.json", "/.no.prefetch.landmark"}, name)
	})
	if len(files) != len(got.tree)-2 {
		t.Errorf("the layers have %d files of the format, want a table and a landmark", len(got.tree)-len(files))
	}
	if diff := cmp.Diff(plain.tree, files); diff != "" {
		t.Errorf("the format changed files (-plain +estargz):\n%s", diff)
	}
	if !strings.Contains(got.said, "1 of 5 layers come from the base image") {
		t.Errorf("nothing tells of the base's layer:\n%s", got.said)
	}
	blobs, err := dir.Open(w.home+"/content", dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range got.Layers[1:] {
		f, err := blobs.Open(t.Context(), d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := oracle.Open(io.NewSectionReader(f, 0, f.Size()))
		if err == nil {
			_, err = r.VerifyTOC(digest.Digest(d.Annotations[oracle.TOCJSONDigestAnnotation]))
		}
		if err != nil {
			t.Errorf("layer %d: %v", i+1, err)
		}
	}
	if again := w.build(t, lazy); again.Manifest.Digest != got.Manifest.Digest || again.Stats.LayersPacked != 0 {
		t.Errorf("again: %s, %d layers packed, want %s and none", again.Manifest.Digest, again.Stats.LayersPacked, got.Manifest.Digest)
	}
	other := lazy
	other.Acceleration.Level, other.Explain = 9, true
	if again := w.build(t, other); again.Stats.LayersPacked == 0 || !strings.Contains(again.said, "--compression changed") {
		t.Errorf("at another level %d layers were packed:\n%s", again.Stats.LayersPacked, again.said)
	}
}

func TestAccelerationsThatDoNotExist(t *testing.T) {
	t.Parallel()
	for _, f := range []app.Acceleration{
		{Name: "tar"},
		{Name: "estargz", Algorithm: "lz4"},
		{Name: "zstdchunked", Algorithm: "zstd"},
		{Name: "overlaybd", Level: 3},
		{Name: "overlaybd", Algorithm: "gzip"},
	} {
		if err := f.Validate(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v, want Invalid", f, err)
		}
	}
}

func TestBuildEstargzRefuses(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	context := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	for name, b := range map[string]app.Build{
		"docker's media types": {Context: context, DockerTypes: true, Acceleration: app.Acceleration{Name: "estargz"}},
		"level":                {Context: context, Acceleration: app.Acceleration{Name: "estargz", Level: 10}},
		"format":               {Context: context, Acceleration: app.Acceleration{Name: "tar"}},
	} {
		if _, err := a.Build(t.Context(), b); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}
