package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"artifactType":"` + ArtifactType + `","config":{"mediaType":"` + ConfigType + `"},"layers":[{"mediaType":"` + oci.MediaTypeLayerZstd + `","digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","size":1}]}`))
	f.Add([]byte(`{"layers":[{"digest":"sha256:../../x"}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		packs, err := decode(data)
		if err != nil && !errors.Is(err, errs.Corrupt) {
			t.Errorf("decode(%q): %v is not errs.Corrupt", data, err)
		}
		for _, p := range packs {
			if p.Digest.Validate() != nil || p.Size <= 0 {
				t.Errorf("decode(%q) kept %+v", data, p)
			}
		}
	})
}

// onePack is a place that keeps one pack under every key.
type onePack []byte

func (p onePack) String() string { return "one pack" }

func (p onePack) desc() oci.Descriptor { return oci.Describe(oci.MediaTypeLayerZstd, p) }

func (p onePack) Load(context.Context, oci.Digest) ([]byte, error) {
	m := oci.NewManifest(oci.Describe(ConfigType, []byte("{}")), []oci.Descriptor{p.desc()}, nil)
	m.ArtifactType = ArtifactType
	return oci.Marshal(m)
}

func (p onePack) Open(context.Context, oci.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (p onePack) Put(context.Context, registry.Source) (registry.Pushed, error) {
	return registry.Pushed{}, errs.Denied
}

func (p onePack) Store(context.Context, oci.Digest, []byte) error { return errs.Denied }

// FuzzRestore restores what strangers say is a pack: nothing is ever made beside the folder, and it is empty after an
// error.
func FuzzRestore(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "dir/file", Typeflag: tar.TypeReg}},
		{{Name: "../out", Typeflag: tar.TypeReg}},
		{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "link/out", Typeflag: tar.TypeReg}},
		{{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../beside"}},
	} {
		f.Add(tarOf(f, entries...))
	}
	f.Fuzz(func(t *testing.T, pack []byte) {
		root := t.TempDir()
		dir, beside := filepath.Join(root, "mount", "data"), filepath.Join(root, "beside")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(beside, []byte("beside"), 0o600)); err != nil {
			t.Fatal(err)
		}
		err := Restore(t.Context(), onePack(pack), Restoring{Key: digest.FromString("key"), Dir: dir, MaxBytes: 1 << 20})
		left, lost := os.ReadDir(dir)
		if lost != nil || err != nil && len(left) > 0 {
			t.Errorf("%v, and left is %v, %v", err, left, lost)
		}
		around, lost := os.ReadDir(root)
		data, wrong := os.ReadFile(beside)
		if len(around) != 2 || string(data) != "beside" || lost != nil || wrong != nil {
			t.Errorf("something was made beside the folder: %v", around)
		}
	})
}

// tarOf is a tar of files without content, or with their names as content where Size is that of the name.
func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, h.Name[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		entries []tar.Header
		want    error
	}{
		{"a device", []tar.Header{{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, errs.Corrupt},
		{"a device that an overlay takes for a deletion", []tar.Header{{Name: "x", Typeflag: tar.TypeChar}}, errs.Corrupt},
		{"a pipe", []tar.Header{{Name: "pipe", Typeflag: tar.TypeFifo}}, errs.Corrupt},
		{"a deletion", []tar.Header{{Name: ".wh.x", Typeflag: tar.TypeReg}}, errs.Invalid},
		{"too much", []tar.Header{{Name: "0123456789", Typeflag: tar.TypeReg, Size: 10}, {Name: "x", Typeflag: tar.TypeReg, Size: 1}}, errs.Limit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			err := Restore(t.Context(), onePack(tarOf(t, tc.entries...)), Restoring{Key: digest.FromString("key"), ID: "npm", Dir: dir, MaxBytes: 10})
			if !errors.Is(err, tc.want) {
				t.Errorf("Restore: %v, want %v", err, tc.want)
			}
			if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestRestoreEscape restores what tries to get out of the folder by every way that names and links offer.
func TestRestoreEscape(t *testing.T) {
	t.Parallel()
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(name))}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to} }
	for name, entries := range map[string][]tar.Header{
		"names":             {file("../../beside"), file("/../../beside")},
		"a link upwards":    {link("up", "../.."), file("up/beside")},
		"an absolute link":  {link("abs", "/"), file("abs/beside")},
		"a link to a file":  {link("beside", "../../beside"), file("beside")},
		"links of links":    {link("a", ".."), link("b", "a/.."), file("b/beside")},
		"a hard link":       {hard("mine", "../../beside"), file("mine")},
		"through a link":    {link("up", "../.."), hard("mine", "up/beside"), file("mine")},
		"the folder itself": {{Name: "./", Typeflag: tar.TypeDir, Mode: 0o777}, {Name: ".", Typeflag: tar.TypeSymlink, Linkname: "../.."}, file("beside")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir, beside := filepath.Join(root, "mount", "data"), filepath.Join(root, "beside")
			if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(beside, []byte("untouched"), 0o600)); err != nil {
				t.Fatal(err)
			}
			for _, h := range entries {
				if h.Name == "/../../beside" || filepath.IsAbs(h.Linkname) {
					h.Linkname = root // where it would hurt
				}
			}
			if err := Restore(t.Context(), onePack(tarOf(t, entries...)), Restoring{Key: digest.FromString("key"), Dir: dir}); err != nil {
				t.Logf("Restore: %v", err)
			}
			data, err := os.ReadFile(beside)
			if err != nil || string(data) != "untouched" {
				t.Errorf("a file beside the folder is %q, %v", data, err)
			}
			for where, want := range map[string]int{root: 2, filepath.Dir(dir): 2} { // with the note of what was restored
				if found, err := os.ReadDir(where); len(found) > want || err != nil {
					t.Errorf("%s has %v, %v", where, found, err)
				}
			}
			info, err := os.Stat(dir)
			if err != nil || info.Mode().Perm() != 0o750 {
				t.Errorf("the folder itself is now %v, %v", info.Mode(), err)
			}
		})
	}
}
