package origin

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/build/address"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

func amd64() oci.Platform { return oci.Platform{OS: "linux", Architecture: "amd64"} }

// layoutDir is a folder in the form of a layout.
type layoutDir struct {
	t    testing.TB
	path string
}

func newLayoutDir(t testing.TB) layoutDir {
	t.Helper()
	l := layoutDir{t, t.TempDir()}
	if err := os.MkdirAll(filepath.Join(l.path, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

// put writes a blob, and index the list of images.
func (l layoutDir) put(mediaType string, v any) oci.Descriptor {
	l.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	d := oci.Describe(mediaType, data)
	if err := os.WriteFile(l.blob(d.Digest), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return d
}

func (l layoutDir) blob(d oci.Digest) string {
	return filepath.Join(l.path, "blobs/sha256", d.Encoded())
}

func (l layoutDir) index(list ...oci.Descriptor) {
	l.t.Helper()
	data, err := json.Marshal(oci.NewIndex(list, nil))
	if err == nil {
		err = os.WriteFile(filepath.Join(l.path, "index.json"), data, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// image is a manifest with a config that makes it unlike others.
func (l layoutDir) image(author string) oci.Descriptor {
	l.t.Helper()
	config := l.put(oci.MediaTypeConfig, map[string]string{"author": author})
	return l.put(oci.MediaTypeManifest, oci.NewManifest(config, nil, nil))
}

// base is the digest of the manifest that an address means.
func (l layoutDir) base(tag, digest string, p oci.Platform) (oci.Digest, error) {
	l.t.Helper()
	layout, err := OpenLayout(address.Context{Kind: address.Layout, Path: l.path, Word: "oci-layout://dir", Tag: tag, Digest: digest})
	if err != nil {
		return "", err
	}
	defer layout.Close() // only read
	desc, raw, err := layout.Base(l.t.Context(), ref.Ref{}, p)
	if err == nil && oci.Describe("", raw).Digest != desc.Digest {
		l.t.Errorf("the bytes are not those of %s", desc.Digest)
	}
	return desc.Digest, err
}

func named(d oci.Descriptor, name string) oci.Descriptor {
	d.Annotations = map[string]string{oci.AnnotationRefName: name}
	return d
}

func TestLayout(t *testing.T) {
	t.Parallel()
	l := newLayoutDir(t)
	one, two, three, arm := l.image("one"), l.image("two"), l.image("three"), l.image("arm")
	forArm := arm
	forArm.Platform = &oci.Platform{OS: "linux", Architecture: "arm64"}
	forAMD := three
	p := amd64()
	forAMD.Platform = &p
	both := l.put(oci.MediaTypeIndex, oci.NewIndex([]oci.Descriptor{forAMD, forArm}, nil))
	l.index(named(one, "latest"), named(two, "registry.example.com/a/two:v2"), named(both, "multi"), named(l.image("no"), "bare"))
	for _, tc := range []struct {
		tag, digest string
		platform    oci.Platform
		want        oci.Digest
	}{
		{"", "", amd64(), one.Digest},
		{"latest", "", amd64(), one.Digest},
		{"v2", "", amd64(), two.Digest},
		{"multi", "", amd64(), three.Digest},
		{"multi", "", *forArm.Platform, arm.Digest},
		{"", arm.Digest.String(), amd64(), arm.Digest},
		{"whatever", both.Digest.String(), amd64(), three.Digest},
	} {
		if got, err := l.base(tc.tag, tc.digest, tc.platform); got != tc.want || err != nil {
			t.Errorf(":%s@%s for %s = %s, %v, want %s", tc.tag, tc.digest, oci.FormatPlatform(tc.platform), got, err, tc.want)
		}
	}
	for _, tc := range []struct {
		tag, digest string
		kind        error
	}{
		{"v3", "", errs.NotFound},
		{"", "sha256:xyz", errs.Invalid},
		{"", "sha256:0000000000000000000000000000000000000000000000000000000000000000", errs.NotFound},
	} {
		if got, err := l.base(tc.tag, tc.digest, amd64()); !errors.Is(err, tc.kind) {
			t.Errorf(":%s@%s = %s, %v, want %v", tc.tag, tc.digest, got, err, tc.kind)
		}
	}
	if _, err := l.base("multi", "", oci.Platform{OS: "linux", Architecture: "s390x"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a platform that is not there: %v", err)
	}
	l.index(named(two, "v2"))
	if got, err := l.base("", "", amd64()); got != two.Digest || err != nil {
		t.Errorf("the only image = %s, %v", got, err)
	}
}

// A layout is a stranger's: no blob is used whose content is not what its digest says, and none outside the folder.
func TestLayoutIsNotTrusted(t *testing.T) {
	t.Parallel()
	l := newLayoutDir(t)
	image := l.image("one")
	l.index(image)
	if err := os.WriteFile(l.blob(image.Digest), []byte(`{"schemaVersion":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.base("", "", amd64()); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a blob with another content: %v", err)
	}
	outside := filepath.Join(t.TempDir(), "blob")
	again := l.image("two")
	l.index(again)
	if err := errors.Join(os.Rename(l.blob(again.Digest), outside), os.Symlink(outside, l.blob(again.Digest))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.base("", "", amd64()); err == nil {
		t.Error("a link that leads out of the layout is followed")
	}
	self := oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: "sha256:../../../../etc/passwd", Size: 1}
	l.index(self)
	if _, err := l.base("", "", amd64()); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a digest that is a path: %v", err)
	}
	p := amd64()
	inner := l.image("deep")
	for range maxIndexes + 1 {
		inner.Platform = &p
		inner = l.put(oci.MediaTypeIndex, oci.NewIndex([]oci.Descriptor{inner}, nil))
	}
	l.index(inner)
	if _, err := l.base("", "", amd64()); !errors.Is(err, errs.Invalid) {
		t.Errorf("indexes inside each other: %v", err)
	}
}

// Whatever is written in a layout's index, reading it neither panics nor leaves the folder.
func FuzzLayout(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../x"}]}`), "latest")
	f.Add([]byte(`{"manifests":[{"digest":"","annotations":{"org.opencontainers.image.ref.name":"a:b"}},{}]}`), "b")
	f.Add([]byte(`[]`), "")
	f.Fuzz(func(t *testing.T, index []byte, tag string) {
		l := newLayoutDir(t)
		if err := os.WriteFile(filepath.Join(l.path, "index.json"), index, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := l.base(tag, "", amd64()); err == nil {
			t.Errorf("an image without blobs: %s", got)
		}
	})
}
