package app_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build/attest"
	"slipway/internal/build/output"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/sign"
)

const withPackages = `FROM busybox
ARG SECRETISH
RUN mkdir -p /var/lib/dpkg && printf 'Package: %s\nStatus: install ok installed\nVersion: 1\n' libx >/var/lib/dpkg/status
`

// statements are those of an image's referrers, by the type of their predicate.
func statements(t *testing.T, name string, d oci.Digest) map[string]string {
	t.Helper()
	client := registry.New(registry.Options{})
	defer client.Close()
	r := mustParse(t, name)
	list, err := client.Referrers(t.Context(), r, d, "application/vnd.in-toto+json")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, a := range list {
		_, raw, err := client.Resolve(t.Context(), r.WithTag("").WithDigest(a.Digest))
		if err != nil {
			t.Fatal(err)
		}
		var m oci.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		content, err := client.Blob(t.Context(), r, m.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			t.Fatal(err)
		}
		got[a.Annotations["in-toto.io/predicate-type"]] = string(data)
	}
	return got
}

func TestAttestations(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	f, addr := proxyTo(t, startRegistry(t))
	dir := write(t, "Dockerfile", withPackages)
	commitAll(t, dir, "1700000000 +0000")
	bare := w.build(t, app.Build{Context: dir})
	b := app.Build{
		Context: dir, Push: true, Tags: []string{addr + "/a:1"}, Args: map[string]string{"SECRETISH": "s3cr3t"},
		Attest: attest.Options{Provenance: attest.Min, SBOM: attest.SPDX},
	}
	im := w.build(t, b)
	if plainDigest := w.build(t, app.Build{Context: dir, Args: b.Args}).Manifest.Digest; im.Manifest.Digest != plainDigest {
		t.Errorf("attesting changed the image from %s to %s", plainDigest, im.Manifest.Digest)
	}
	got := statements(t, addr+"/a", im.Manifest.Digest)
	if len(got) != 2 || !strings.Contains(got[attest.PredicateSPDX], `"pkg:deb/busybox/libx@1?distro=busybox"`) {
		t.Errorf("statements = %v", got)
	}
	provenance := got[attest.PredicateSLSA]
	for _, part := range []string{"pkg:docker/busybox@latest", `"sha1":"`, "linux/amd64", im.Manifest.Digest.Encoded()} {
		if !strings.Contains(provenance, part) {
			t.Errorf("provenance lacks %s: %s", part, provenance)
		}
	}
	if strings.Contains(provenance, dir) {
		t.Errorf("the provenance has a path of this machine: %s", provenance)
	}
	if strings.Contains(provenance, "s3cr3t") {
		t.Errorf("the short provenance has an argument's value: %s", provenance)
	}
	// A registry without referrers keeps them under a tag.
	f.set(fault{method: http.MethodGet, path: "/referrers/", do: answer(http.StatusNotFound)},
		fault{method: http.MethodPut, path: "/manifests/", do: withoutSubject})
	b.Tags, b.Attest = []string{addr + "/b:1"}, attest.Options{Provenance: attest.Max, SBOM: attest.CycloneDX}
	im = w.build(t, b)
	got = statements(t, addr+"/b", im.Manifest.Digest)
	if len(got) != 2 || !strings.Contains(got[attest.PredicateSLSA], "s3cr3t") || !strings.Contains(got[attest.PredicateCycloneDX], `"specVersion":"1.6"`) {
		t.Errorf("statements = %v", got)
	}
	if len(bare.Attached) != 0 {
		t.Errorf("attached without being asked: %d", len(bare.Attached))
	}
}

// withoutSubject takes a manifest as a registry does that knows nothing of subjects.
func withoutSubject(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(hideSubject{w}, r)
}

type hideSubject struct{ http.ResponseWriter }

func (h hideSubject) WriteHeader(status int) {
	h.Header().Del("OCI-Subject")
	h.ResponseWriter.WriteHeader(status)
}

// TestAttestationsOfAnIndex attests each platform's image, in a layout.
func TestAttestationsOfAnIndex(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	layout := filepath.Join(t.TempDir(), "out")
	im, err := a.Build(t.Context(), app.Build{
		Context: dir, Platform: "linux/amd64,linux/arm64", Attest: attest.Options{Provenance: attest.Min},
		Outputs: []output.Output{{Type: output.Layout, Dest: layout}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var index oci.Index
	readJSON(t, filepath.Join(layout, "index.json"), &index, false)
	if len(index.Manifests) != 3 || index.Manifests[0].Digest != im.Manifest.Digest {
		t.Fatalf("the layout lists %v", index.Manifests)
	}
	var subjects []oci.Digest
	for _, d := range index.Manifests[1:] {
		var m oci.Manifest
		readJSON(t, filepath.Join(layout, "blobs", "sha256", d.Digest.Encoded()), &m, false)
		subjects = append(subjects, m.Subject.Digest)
		for _, b := range append(m.Layers, m.Config) {
			if _, err := os.Stat(filepath.Join(layout, "blobs", "sha256", b.Digest.Encoded())); err != nil {
				t.Error(err)
			}
		}
	}
	if want := []oci.Digest{im.Platforms[0].Manifest.Digest, im.Platforms[1].Manifest.Digest}; !slices.Equal(want, subjects) {
		t.Errorf("subjects are %v, want %v", subjects, want)
	}
}

// TestListedAttestations puts statements into the index around the image, as BuildKit does: one platform makes an index
// then, too, and what is pulled is still the image.
func TestListedAttestations(t *testing.T) {
	t.Parallel()
	addr := startRegistry(t)
	a := openApp(t, t.TempDir(), config.Config{})
	layout := filepath.Join(t.TempDir(), "out")
	for platforms, entries := range map[string]int{"": 2, "linux/amd64,linux/arm64": 4} {
		im, err := a.Build(t.Context(), app.Build{
			Context: write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"), Platform: platforms, Push: true, Tags: []string{addr + "/a:1"},
			Attest:  attest.Options{Provenance: attest.Max, SBOM: attest.SPDX, Listed: true},
			Outputs: []output.Output{{Type: output.Layout, Dest: layout}},
		})
		if err != nil {
			t.Fatal(err)
		}
		client := registry.New(registry.Options{})
		defer client.Close()
		r := mustParse(t, addr+"/a:1")
		desc, raw, err := client.Resolve(t.Context(), r)
		if err != nil || desc.Digest != im.Manifest.Digest || !oci.IsIndex(desc.MediaType) {
			t.Fatalf("the tag is %v, %v, want the index %s", desc, err, im.Manifest.Digest)
		}
		var index oci.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			t.Fatal(err)
		}
		if len(index.Manifests) != entries {
			t.Fatalf("the index lists %d manifests, want %d: %s", len(index.Manifests), entries, raw)
		}
		for i, d := range index.Manifests[entries/2:] {
			about := index.Manifests[i]
			if d.Annotations["vnd.docker.reference.digest"] != about.Digest.String() || about.Platform.OS != "linux" || d.Platform.OS != "unknown" {
				t.Errorf("entry %+v is not about %+v", d, about)
			}
			_, manifest, err := client.Resolve(t.Context(), r.WithTag("").WithDigest(d.Digest))
			if err != nil {
				t.Fatal(err)
			}
			var m oci.Manifest
			if err := json.Unmarshal(manifest, &m); err != nil {
				t.Fatal(err)
			}
			for _, b := range append(m.Layers, m.Config) {
				if ok, err := client.HasBlob(t.Context(), r, b.Digest); !ok || err != nil || len(m.Layers) != 2 {
					t.Errorf("blob %s of %d layers is not in the registry: %v", b.Digest, len(m.Layers), err)
				}
			}
		}
		readJSON(t, filepath.Join(layout, "index.json"), &index, false)
		if len(index.Manifests) != 1 || index.Manifests[0].Digest != im.Manifest.Digest {
			t.Errorf("the layout lists %v", index.Manifests)
		}
	}
}

func TestListedAttestationsRefusals(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	for want, b := range map[string]app.Build{
		"nothing is stated":               {Attest: attest.Options{Listed: true}},
		"of Docker's types cannot hold":   {Attest: attest.Options{Listed: true, SBOM: attest.SPDX}, DockerTypes: true},
		"output type=docker holds one pl": {Attest: attest.Options{Listed: true, SBOM: attest.SPDX}, Outputs: []output.Output{{Type: output.Docker, Dest: "x"}, {Type: output.OCI, Dest: "y"}}},
	} {
		b.Context, b.Push, b.Tags = write(t, "Dockerfile", "FROM scratch\n"), true, []string{"127.0.0.1:1/a"}
		if _, err := a.Build(t.Context(), b); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Build = %v, want %s", err, want)
		}
	}
}

func TestAttestationsNeedAPlace(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	_, err := a.Build(t.Context(), app.Build{Context: dir, Attest: attest.Options{SBOM: attest.SPDX}})
	if !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
		t.Errorf("Build = %v, want a refusal with a hint", err)
	}
}

// TestSignatureCoversWhatIsAttached signs an index: its images and the statements about them are signed with it.
func TestSignatureCoversWhatIsAttached(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	addr := startRegistry(t)
	pem, err := os.ReadFile("../oci/sign/testdata/cosign.key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ReadSigner(pem, func() ([]byte, error) { return []byte("pass"), nil })
	if err != nil {
		t.Fatal(err)
	}
	im, err := a.Build(t.Context(), app.Build{
		Context: write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"), Platform: "linux/amd64,linux/arm64", Push: true,
		Tags: []string{addr + "/a:1"}, Attest: attest.Options{Provenance: attest.Min}, Key: &key,
	})
	if err != nil {
		t.Fatal(err)
	}
	digests := []oci.Digest{im.Manifest.Digest}
	for _, p := range im.Platforms {
		digests = append(digests, p.Manifest.Digest, p.Attached[0].Manifest.Digest)
	}
	for _, d := range digests {
		if _, err := a.Verify(t.Context(), addr+"/a@"+d.String(), key.Verifier()); err != nil {
			t.Error(err)
		}
	}
}
