package app_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build/output"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// TestPlatforms builds an index whose images need no emulation: the work is done natively, and only copied.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	a := openApp(t, t.TempDir(), config.Config{RegistryMirrors: map[string][]string{"docker.io": {addr}}})
	dir := write(t, "Dockerfile", `FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETARCH
RUN echo "$TARGETARCH" > /arch
FROM scratch
COPY --from=build /arch /arch
`)
	layout := filepath.Join(t.TempDir(), "out")
	tag := addr + "/multi:v1"
	im, err := a.Build(t.Context(), app.Build{
		Context: dir, Platform: "linux/amd64,linux/arm64", Tags: []string{tag}, Push: true, Network: "default",
		Outputs: []output.Output{{Type: "layout", Dest: layout}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ref.Parse(tag)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	desc, raw, err := client.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if desc.Digest != im.Manifest.Digest || desc.MediaType != oci.MediaTypeIndex {
		t.Fatalf("the registry has %s %s, want the index %s", desc.MediaType, desc.Digest, im.Manifest.Digest)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		child, err := oci.Choose(raw, oci.Platform{OS: "linux", Architecture: arch})
		if err != nil {
			t.Fatal(err)
		}
		_, manifest, err := client.Resolve(t.Context(), r.WithTag("").WithDigest(child.Digest))
		if err != nil {
			t.Fatal(err)
		}
		var m oci.Manifest
		if err := json.Unmarshal(manifest, &m); err != nil {
			t.Fatal(err)
		}
		for _, b := range append(m.Layers, m.Config) {
			if ok, err := client.HasBlob(t.Context(), r, b.Digest); !ok || err != nil {
				t.Errorf("%s: blob %s is not in the registry: %v", arch, b.Digest, err)
			}
		}
	}
	var index oci.Index
	readJSON(t, filepath.Join(layout, "index.json"), &index, false)
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != im.Manifest.Digest {
		t.Errorf("the layout lists %v", index.Manifests)
	}
}

func TestPlatformsRefusals(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	for platforms, want := range map[string]string{
		"linux/amd64,linux/amd64/v1": "named twice",
		"linux/amd64,arm64":          "want os/arch",
	} {
		_, err := a.Build(t.Context(), app.Build{Context: dir, Platform: platforms})
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Build for %s = %v, want %q", platforms, err, want)
		}
	}
}

func TestForeignRunNamesTheHandler(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nRUN [\"/x\"]\n")
	_, err := a.Build(t.Context(), app.Build{Context: dir, Platform: "linux/mips64"})
	if err == nil || !strings.Contains(err.Error(), "Dockerfile:2:1: ") || !strings.Contains(err.Error(), "qemu-mips64") {
		t.Errorf("Build = %v, want the missing handler named", err)
	}
}
