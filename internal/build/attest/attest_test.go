package attest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"iter"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"

	"slipway/internal/build"
	"slipway/internal/build/attest"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
)

// files are an image's, each name and content in turn.
func files(nameAndContent ...string) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for i := 0; i < len(nameAndContent); i += 2 {
			content := nameAndContent[i+1]
			f := layer.File{Entry: layer.Entry{Path: nameAndContent[i], Mode: 0o644, Size: int64(len(content))}}
			f.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
			if !yield(f, nil) {
				return
			}
		}
	}
}

func scan(t *testing.T, all iter.Seq2[layer.File, error]) attest.Contents {
	t.Helper()
	c, err := attest.Scan(all)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const debian = `Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Package: not-a-package

Package: removed
Status: deinstall ok config-files
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134
`

func TestScan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files []string
		want  []string
	}{
		"dpkg": {
			[]string{"etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n", "var/lib/dpkg/status", debian},
			[]string{"pkg:deb/debian/adduser@3.134?arch=all&distro=debian-12", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"},
		},
		"distroless": {
			[]string{"var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a\nArchitecture: all\n", "var/lib/dpkg/status.d/tzdata.md5sums", "x  y"},
			[]string{"pkg:deb/debian/tzdata@2024a?arch=all"},
		},
		"apk": {
			[]string{"etc/os-release", "ID=alpine\nVERSION_ID=3.20.0\n", "lib/apk/db/installed", "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\n\nP:zlib\nV:1.3\nA:x86_64\n"},
			[]string{"pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.0", "pkg:apk/alpine/zlib@1.3?arch=x86_64&distro=alpine-3.20.0"},
		},
		"npm": {
			[]string{
				"app/node_modules/@scope/a/package.json", `{"name":"@scope/a","version":"1.0.0","license":"MIT"}`,
				"app/node_modules/a/esm/package.json", `{"type":"module"}`,
				"app/node_modules/b/package.json", `{"name":"b","version":"2","license":{"type":"old"}}`,
				"app/node_modules/c/package.json", `{`,
				"app/package.json", `{"name":"app","version":"1"}`,
				"copy/node_modules/b/package.json", `{"name":"b","version":"2"}`,
			},
			[]string{"pkg:npm/%40scope/a@1.0.0", "pkg:npm/b@2"},
		},
		"python": {
			[]string{
				"usr/lib/python3/dist-packages/PyYAML-6.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: Py_YAML\nVersion: 6.0\nLicense: MIT\n\nName: text\n",
				"usr/lib/python3/dist-packages/old.egg-info/PKG-INFO", "Name: old\nVersion: 1\n",
				"usr/lib/python3/dist-packages/bad.dist-info/METADATA", "what",
			},
			[]string{"pkg:pypi/py-yaml@6.0", "pkg:pypi/old@1"},
		},
		"nothing": {[]string{"etc/passwd", "root"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := scan(t, files(c.files...))
			var urls []string
			for i := range got.Packages {
				urls = append(urls, got.Packages[i].URL(got.Distro))
			}
			if diff := cmp.Diff(c.want, urls); diff != "" {
				t.Errorf("packages mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// TestScanProgram reads the modules of this test.
func TestScanProgram(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		t.Skip("this test was built without modules")
	}
	f := layer.File{Entry: layer.Entry{Path: "bin/test", Mode: 0o755, Size: 1 << 20}, Source: self}
	broken := layer.File{Entry: layer.Entry{Path: "bin/broken", Mode: 0o755, Size: 1 << 20}, Source: broken(t)}
	got := scan(t, func(yield func(layer.File, error) bool) { _ = yield(f, nil) && yield(broken, nil) })
	if !slices.ContainsFunc(got.Packages, func(p attest.Package) bool {
		return p.Type == "golang" && p.Name == info.Deps[0].Path && p.Version == info.Deps[0].Version
	}) {
		t.Errorf("%s is not among %v", info.Deps[0].Path, got.Packages)
	}
}

// broken is a file that begins like a program.
func broken(t *testing.T) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 100_000)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestScanTellsOfRPM(t *testing.T) {
	t.Parallel()
	got := scan(t, files("var/lib/rpm/rpmdb.sqlite", "x", "var/lib/rpm/.rpm.lock", ""))
	if diff := cmp.Diff([]string{"/var/lib/rpm/rpmdb.sqlite"}, got.Unread); diff != "" {
		t.Errorf("unread mismatch (-want +got):\n%s", diff)
	}
}

func FuzzScan(f *testing.F) {
	f.Add("var/lib/dpkg/status", debian)
	f.Add("lib/apk/db/installed", "P:a\nV:1\n\n")
	f.Add("node_modules/a/package.json", `{"name":"a","version":"1","license":3}`)
	f.Add("a.dist-info/METADATA", "Name: a\n b\nVersion:\n")
	f.Add("etc/os-release", "ID=\"x")
	f.Fuzz(func(t *testing.T, name, content string) {
		c, err := attest.Scan(files(name, content))
		if err != nil {
			t.Fatal(err)
		}
		d := attest.Described{Digest: oci.Describe("", nil).Digest}
		spdx, err1 := attest.NewSPDX(d, c)
		cdx, err2 := attest.NewCycloneDX(d, c)
		if err1 != nil || err2 != nil || !json.Valid(spdx) || !json.Valid(cdx) {
			t.Fatalf("%v, %v\n%s\n%s", err1, err2, spdx, cdx)
		}
	})
}

var (
	manifest = oci.Describe(oci.MediaTypeManifest, []byte("{}"))
	made     = attest.Described{Name: "r.example/a:1", Digest: manifest.Digest, Created: time.Unix(1_700_000_000, 0), Version: "1"}
)

// TestDocuments reads the documents with their projects' own libraries.
func TestDocuments(t *testing.T) {
	t.Parallel()
	c := scan(t, files("var/lib/dpkg/status", debian, "lib/apk/db/installed", "P:musl\nV:1\nL:MIT\n"))
	data, err := attest.NewSPDX(made, c)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.Packages) != 4 || len(doc.Relationships) != 4 || doc.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("SPDX has %d packages, %d relationships: %s", len(doc.Packages), len(doc.Relationships), data)
	}
	if data, err = attest.NewCycloneDX(made, c); err != nil {
		t.Fatal(err)
	}
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(data), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cyclonedx.SpecVersion1_6 || len(*bom.Components) != 3 || (*bom.Components)[0].PackageURL != "pkg:apk/alpine/musl@1" {
		t.Errorf("CycloneDX: %s", data)
	}
	// Written by the library, it is the same: no field has another name there.
	var again bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&again, cyclonedx.BOMFileFormatJSON).Encode(&bom); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asMap(t, data), asMap(t, again.Bytes())); diff != "" {
		t.Errorf("CycloneDX mismatch (-ours +library's):\n%s", diff)
	}
	same, err := attest.NewCycloneDX(made, c)
	if err != nil || !bytes.Equal(data, same) {
		t.Errorf("the same image has another document: %v", err)
	}
}

func asMap(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestArtifact(t *testing.T) {
	t.Parallel()
	r, err := ref.Parse("127.0.0.1:5000/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	name := attest.ImageURL(r, oci.Platform{OS: "linux", Architecture: "arm64"})
	s, err := attest.New(manifest, []string{name}, attest.PredicateSPDX, map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := attest.Artifact(manifest, s)
	if err != nil {
		t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(a.Raw, &m); err != nil {
		t.Fatal(err)
	}
	if m.Subject.Digest != manifest.Digest || m.ArtifactType != "application/vnd.in-toto+json" || a.Manifest.Digest != oci.Describe("", a.Raw).Digest {
		t.Errorf("manifest = %s", a.Raw)
	}
	if m.Layers[0].Digest != oci.Describe("", s.Data).Digest || m.Config.Digest != oci.Describe("", a.RawConfig).Digest {
		t.Errorf("manifest does not fit its parts: %s", a.Raw)
	}
	want := map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://spdx.dev/Document", "predicate": map[string]any{"a": "b"},
		"subject": []any{map[string]any{
			"name": "pkg:docker/127.0.0.1:5000/team/app@v1?platform=linux%2Farm64", "digest": map[string]any{"sha256": manifest.Digest.Encoded()},
		}},
	}
	if diff := cmp.Diff(want, asMap(t, s.Data)); diff != "" {
		t.Errorf("statement mismatch (-want +got):\n%s", diff)
	}
}

// An entry of an index says which image it is about, is for no platform, and holds all statements.
func TestEntry(t *testing.T) {
	t.Parallel()
	var list []build.Statement
	for _, predicate := range []string{attest.PredicateSLSA, attest.PredicateSPDX} {
		s, err := attest.New(manifest, nil, predicate, map[string]string{"of": predicate})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	a, err := attest.Entry(manifest, list)
	if err != nil {
		t.Fatal(err)
	}
	want := oci.Descriptor{
		MediaType: oci.MediaTypeManifest, Digest: oci.Describe("", a.Raw).Digest, Size: int64(len(a.Raw)),
		Platform:    &oci.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": manifest.Digest.String()},
	}
	if diff := cmp.Diff(want, a.Manifest); diff != "" || !a.Listed {
		t.Errorf("entry mismatch, listed %t (-want +got):\n%s", a.Listed, diff)
	}
	var m oci.Manifest
	if err := json.Unmarshal(a.Raw, &m); err != nil {
		t.Fatal(err)
	}
	if m.Subject != nil || len(m.Layers) != 2 || m.Layers[1].Annotations["in-toto.io/predicate-type"] != attest.PredicateSPDX {
		t.Errorf("manifest = %s", a.Raw)
	}
}

func TestProvenanceModes(t *testing.T) {
	t.Parallel()
	m := attest.Made{
		Dockerfile: "Dockerfile", Text: []byte("FROM secret-base"), Target: "app", Args: map[string]string{"TOKEN": "secret-arg"},
		Labels: map[string]string{"a": "secret-label"}, Secrets: []string{"secret-id"}, Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
		Source: &attest.Source{URI: "https://example.com/a.git", Commit: "c0ffee"}, Began: time.Unix(1, 5), Ended: time.Unix(2, 0),
	}
	short, err := oci.Marshal(attest.NewProvenance(m, attest.Min))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"buildDefinition":{"buildType":"urn:slipway:dockerfile-build:1","externalParameters":{"source":{"uri":"https://example.com/a.git",` +
		`"digest":{"sha1":"c0ffee"}},"request":{"dockerfile":"Dockerfile","target":"app"}},"internalParameters":{"platform":"linux/amd64"}},` +
		`"runDetails":{"builder":{"id":"urn:slipway:builder"},"metadata":{"startedOn":"1970-01-01T00:00:01Z","finishedOn":"1970-01-01T00:00:02Z"}}}`
	if diff := cmp.Diff(want, string(short)); diff != "" {
		t.Errorf("min mismatch (-want +got):\n%s", diff)
	}
	long, err := oci.Marshal(attest.NewProvenance(m, attest.Max))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"secret-arg", "secret-label", "secret-id", "byproducts"} {
		if !strings.Contains(string(long), part) {
			t.Errorf("max lacks %s: %s", part, long)
		}
	}
}

func TestScanSkipsWhatIsNoFile(t *testing.T) {
	t.Parallel()
	f := layer.File{Entry: layer.Entry{Path: "var/lib/dpkg/status", Mode: fs.ModeSymlink | 0o777, Link: "/etc/shadow"}}
	if got := scan(t, func(yield func(layer.File, error) bool) { yield(f, nil) }); len(got.Packages) > 0 {
		t.Errorf("packages = %v", got.Packages)
	}
}
