package convert_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/convert"
	"slipway/internal/oci/accel/overlaybd"
	"slipway/internal/oci/accel/overlaybd/ext4"
)

// TestStackedFormat converts to a format whose layers depend on those below.
func TestStackedFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tars := append(acceltest.Layers(t), acceltest.Files(t, map[string]string{"new": "content"}))
	f, err := overlaybd.New(overlaybd.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w.image(w.ref("app:v1"), gzipped(tars[0]), zstded(tars[1]))
	original := w.image(w.ref("app:v2"), gzipped(tars[0]), zstded(tars[1]), gzipped(tars[2]))
	im, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v1"), To: w.ref("app:a1"), Format: f})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "converted converted" {
		t.Errorf("layers were %s", got)
	}
	w.layersRead()
	if im, err = w.Image(t.Context(), convert.Request{From: w.ref("app:v2"), To: w.ref("app:a2"), Format: f}); err != nil {
		t.Fatal(err)
	}
	if got := hows(im); got != "remembered remembered converted" {
		t.Errorf("layers were %s", got)
	}
	if n := w.layersRead(); n != 1 {
		t.Errorf("%d layers were read, want the new one", n)
	}
	// Layers in another order are another image, though each was converted before.
	w.image(w.ref("app:v3"), gzipped(tars[2]), gzipped(tars[0]))
	other, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v3"), To: w.ref("app:a3"), Format: f})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(other); got != "converted converted" {
		t.Errorf("layers were %s", got)
	}

	_, m := w.manifest(w.ref("app:a2"))
	if m.ArtifactType != overlaybd.ArtifactType || m.Subject == nil || m.Subject.Digest != original.Digest || !overlaybd.Has(&m) {
		t.Errorf("artifact type %q, subject %v", m.ArtifactType, m.Subject)
	}
	referrers, err := w.client.Referrers(t.Context(), w.ref("app:v2"), original.Digest, overlaybd.ArtifactType)
	if err != nil || len(referrers) != 1 || referrers[0].Digest != im.Manifest.Digest {
		t.Errorf("referrers of the original are %v, %v", referrers, err)
	}
	var config struct {
		RootFS struct {
			DiffIDs []oci.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(w.read(w.ref("app:a2"), m.Config), &config); err != nil {
		t.Fatal(err)
	}
	var blobs []overlaybd.Source
	var ids []oci.Digest
	for _, l := range m.Layers {
		data := w.read(w.ref("app:a2"), l)
		blobs, ids = append(blobs, bytes.NewReader(data)), append(ids, digest.FromBytes(data))
	}
	if diff := cmp.Diff(ids, config.RootFS.DiffIDs); diff != "" {
		t.Errorf("diffIDs mismatch (-want +got):\n%s", diff)
	}
	dev, err := overlaybd.Device(blobs...)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for file, err := range fs.Files() {
		if err != nil {
			t.Fatal(err)
		}
		found[file.Path] = true
	}
	if !found["new"] || !found["many/new"] || found["many/001"] || !found["bin/tool"] {
		t.Errorf("the merged tree is another")
	}

	// A layer that is no tar has no place in a stack.
	w.image(w.ref("app:v4"), gzipped(tars[0]), layer{nil, "application/vnd.example.thing", []byte("thing"), digest.FromString("thing")})
	if _, err := w.Image(t.Context(), convert.Request{From: w.ref("app:v4"), To: w.ref("app:a4"), Format: accel.Format(f)}); err == nil {
		t.Error("converted an image with a layer of something else")
	}
}
