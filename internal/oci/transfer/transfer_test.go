package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
	"slipway/internal/oci/transfer"
)

func parse(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// registries returns a function that opens an image of one registry.
func registries(t *testing.T) func(name string) *transfer.Registry {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	t.Cleanup(func() {
		client.Close()
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return func(name string) *transfer.Registry {
		return transfer.NewRegistry(client, parse(t, r.Addr()+"/"+name))
	}
}

// stores returns a function that opens an image of one local store.
func stores(t *testing.T) func(name ref.Ref) *transfer.Store {
	t.Helper()
	root := t.TempDir()
	blobs, err := dir.Open(filepath.Join(root, "content"), dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	names := transfer.OpenNames(filepath.Join(root, "images"))
	return func(name ref.Ref) *transfer.Store {
		return &transfer.Store{Blobs: blobs, Names: names, Ref: name, Now: time.Now}
	}
}

func layout(t *testing.T, s string) *transfer.Layout {
	t.Helper()
	l, err := transfer.ParseLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// image is one in memory: a Source.
type image struct {
	root  oci.Descriptor
	blobs map[oci.Digest][]byte
}

func (m *image) String() string { return "memory" }

func (m *image) Repository() ref.Ref { return ref.Ref{} }

func (m *image) Root(context.Context) (oci.Descriptor, []byte, error) {
	return m.root, m.blobs[m.root.Digest], nil
}

func (m *image) Manifest(_ context.Context, d oci.Descriptor) ([]byte, error) {
	raw, ok := m.blobs[d.Digest]
	if !ok {
		return nil, errs.NotFound
	}
	return raw, nil
}

func (m *image) Blob(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	data, ok := m.blobs[d.Digest]
	if !ok {
		return nil, errs.NotFound
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m *image) add(t *testing.T, mediaType string, v any) oci.Descriptor {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = oci.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	d := oci.Describe(mediaType, data)
	m.blobs[d.Digest] = data
	return d
}

// manifest adds an image of some layers, of which the first is the same in all.
func (m *image) manifest(t *testing.T, arch string) oci.Descriptor {
	t.Helper()
	config := oci.Image{}
	config.OS, config.Architecture = "linux", arch
	d := m.add(t, oci.MediaTypeManifest, oci.NewManifest(m.add(t, oci.MediaTypeConfig, config), []oci.Descriptor{
		m.add(t, oci.MediaTypeLayer, []byte("base")), m.add(t, oci.MediaTypeLayer, []byte("layer of "+arch)),
	}, nil))
	d.Platform = &oci.Platform{OS: "linux", Architecture: arch}
	return d
}

func newImage(t *testing.T) *image {
	t.Helper()
	m := &image{blobs: map[oci.Digest][]byte{}}
	m.root = m.add(t, oci.MediaTypeIndex, oci.NewIndex([]oci.Descriptor{m.manifest(t, "amd64"), m.manifest(t, "arm64")}, nil))
	return m
}

func copied(t *testing.T, from transfer.Source, to transfer.Target) transfer.Report {
	t.Helper()
	report, err := transfer.Copy(t.Context(), from, to, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantImage looks whether everything of an image is at a place.
func wantImage(t *testing.T, at transfer.Source, want *image) {
	t.Helper()
	desc, raw, err := at.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if desc.Digest != want.root.Digest || desc.MediaType != want.root.MediaType || !bytes.Equal(raw, want.blobs[want.root.Digest]) {
		t.Errorf("%s is %+v, want %+v", at, desc, want.root)
	}
	var index oci.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	for _, d := range index.Manifests {
		raw, err := at.Manifest(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		var m oci.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		for _, b := range append(m.Layers, m.Config) {
			r, err := at.Blob(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(data, want.blobs[b.Digest]) {
				t.Errorf("%s: blob %s is %q, %v", at, b.Digest, data, err)
			}
		}
	}
}

// TestCopy takes an image from place to place: registry, folder, local store, and on.
func TestCopy(t *testing.T) {
	t.Parallel()
	im := newImage(t)
	inRegistry, inStore, folder := registries(t), stores(t), filepath.Join(t.TempDir(), "a", "layout")
	chain := []interface {
		transfer.Source
		transfer.Target
	}{inRegistry("one:v1"), layout(t, folder+":v1"), inStore(parse(t, "app:v1")), inRegistry("two:v2"), inRegistry("three:v3")}
	var from transfer.Source = im
	for _, to := range chain {
		r := copied(t, from, to)
		if r.Digest != im.root.Digest || r.Manifests != 3 {
			t.Errorf("copy to %s: %+v", to, r)
		}
		wantImage(t, to, im)
		if again := copied(t, from, to); again.Bytes > 0 || again.Blobs > 0 {
			t.Errorf("copy to %s again: %+v", to, again)
		}
		from = to
	}
	if r := copied(t, chain[0], inRegistry("mounted:v1")); r.Bytes > 0 {
		t.Errorf("within a registry: %+v, want nothing sent", r)
	}
	wantImage(t, layout(t, folder), im)
	wantImage(t, layout(t, folder+"@"+im.root.Digest.String()), im)
}

func TestCopyRefuses(t *testing.T) {
	t.Parallel()
	nested := func(t *testing.T, m *image, d oci.Descriptor, depth int) oci.Descriptor {
		t.Helper()
		for range depth {
			d = m.add(t, oci.MediaTypeIndex, oci.NewIndex([]oci.Descriptor{d}, map[string]string{"at": d.Digest.String()}))
		}
		return d
	}
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *image)
		want   error
	}{
		{"a blob that is not there", func(t *testing.T, m *image) { delete(m.blobs, digest.FromString("base")) }, errs.NotFound},
		{"a blob of other content", func(t *testing.T, m *image) { m.blobs[digest.FromString("base")] = []byte("BASE") }, errs.Corrupt},
		{"indexes of indexes", func(t *testing.T, m *image) { m.root = nested(t, m, m.root, 5) }, errs.Limit},
		{"a digest that is a path", func(t *testing.T, m *image) {
			m.root = m.add(t, oci.MediaTypeIndex, oci.NewIndex([]oci.Descriptor{{MediaType: oci.MediaTypeManifest, Digest: "sha256:../../x"}}, nil))
		}, errs.Corrupt},
		{"no manifest", func(t *testing.T, m *image) { m.root = m.add(t, oci.MediaTypeManifest, []byte("[]")) }, errs.Corrupt},
		{"a manifest without a config", func(t *testing.T, m *image) { m.root = m.add(t, oci.MediaTypeManifest, []byte("{}")) }, errs.Invalid},
		{"too many manifests", func(t *testing.T, m *image) {
			var list []oci.Descriptor
			for range 1001 {
				list = append(list, m.manifest(t, "amd64"))
			}
			m.root = m.add(t, oci.MediaTypeIndex, oci.NewIndex(list, nil))
		}, errs.Limit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			im := newImage(t)
			tc.change(t, im)
			folder := t.TempDir()
			_, err := transfer.Copy(t.Context(), im, layout(t, folder+":v1"), transfer.Options{})
			if !errors.Is(err, tc.want) {
				t.Errorf("Copy: %v, want %v", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(folder, oci.ImageIndexFile)); err == nil {
				t.Error("the image has a name all the same")
			}
			store := stores(t)(parse(t, "app:v1"))
			if _, err := transfer.Copy(t.Context(), im, store, transfer.Options{}); !errors.Is(err, tc.want) {
				t.Errorf("Copy to the store: %v, want %v", err, tc.want)
			}
			if _, _, err := store.Root(t.Context()); !errors.Is(err, errs.NotFound) {
				t.Errorf("the store has it: %v", err)
			}
		})
	}
}

// TestLayoutHoldsOthers writes several images into one folder at once.
func TestLayoutHoldsOthers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	im := newImage(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { copied(t, im, layout(t, fmt.Sprintf("%s:v%d", folder, i))) })
	}
	all.Wait()
	for i := range 8 {
		wantImage(t, layout(t, fmt.Sprintf("%s:v%d", folder, i)), im)
	}
	_, _, err := layout(t, folder+":v9").Root(t.Context())
	if !errors.Is(err, errs.NotFound) || errs.HintOf(err) != "it has v0, v1, v2, v3, v4, v5, v6, v7" {
		t.Errorf("Root of what is not there: %v, hint %q", err, errs.HintOf(err))
	}
	left, err := filepath.Glob(filepath.Join(folder, ".*"))
	more, wrong := filepath.Glob(filepath.Join(folder, "blobs/sha256/.*"))
	if err := errors.Join(err, wrong); err != nil || len(left)+len(more) > 0 {
		t.Errorf("left behind: %v, %v, %v", left, more, err)
	}
}

func TestParseLayout(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x").String()
	for word, want := range map[string]string{
		"dir": "oci-layout:dir", "a/b:v1": "oci-layout:a/b:v1", "/a:b/c": "oci-layout:/a:b/c", "dir@" + d: "oci-layout:dir@" + d,
	} {
		l, err := transfer.ParseLayout(word)
		if err != nil || l.String() != want {
			t.Errorf("ParseLayout(%q) = %v, %v; want %s", word, l, err, want)
		}
	}
	for _, word := range []string{"", ":v1", "dir:", "dir:a b", "dir@x", "dir@sha256:0"} {
		if l, err := transfer.ParseLayout(word); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseLayout(%q) = %v, %v; want invalid", word, l, err)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	n := transfer.OpenNames(filepath.Join(t.TempDir(), "images"))
	first, second := oci.Describe(oci.MediaTypeManifest, []byte("1")), oci.Describe(oci.MediaTypeManifest, []byte("2"))
	app, other := parse(t, "app:v1"), parse(t, "host.example/other:v1")
	if all, err := n.List(t.Context()); len(all) > 0 || err != nil {
		t.Errorf("List of none = %v, %v", all, err)
	}
	now := time.Unix(1_700_000_000, 0)
	for _, set := range []struct {
		r ref.Ref
		d oci.Descriptor
	}{{app, first}, {other, first}, {app, second}, {app, second}} {
		now = now.Add(time.Hour)
		if err := n.Set(set.r, set.d, now); err != nil {
			t.Fatal(err)
		}
	}
	all, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, im := range all {
		got = append(got, im.Name+" "+im.Descriptor.Digest.Encoded()[:4]+" "+im.Created.Format("15:04")+" "+im.Used.UTC().Format("15:04"))
	}
	want := []string{
		"docker.io/library/app:v1 " + second.Digest.Encoded()[:4] + " 01:13 02:13",
		"host.example/other:v1 " + first.Digest.Encoded()[:4] + " 00:13 00:13",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List mismatch (-want +got):\n%s", diff)
	}
	if named, err := n.Get(app, now); err != nil || named.Descriptor.Digest != second.Digest {
		t.Errorf("Get = %+v, %v", named, err)
	}
	if err := n.Remove(app); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(app, now); !errors.Is(err, errs.NotFound) {
		t.Errorf("Get of what was removed: %v", err)
	}
	if err := n.Remove(app); !errors.Is(err, errs.NotFound) {
		t.Errorf("Remove again: %v", err)
	}
}

// tarOf is a tar of files: name and content in turn. A content that begins with "-> " is a symbolic link.
func tarOf(t testing.TB, nameAndContent ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(nameAndContent); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: nameAndContent[i], Mode: 0o644, Size: int64(len(nameAndContent[i+1]))}
		to, link := strings.CutPrefix(nameAndContent[i+1], "-> ")
		if link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if !link {
			if _, err := io.WriteString(w, nameAndContent[i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importing(t *testing.T, data []byte, opts transfer.Importing) ([]transfer.Imported, error) {
	t.Helper()
	a, err := transfer.OpenArchive("archive.tar", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	if opts.Store == nil {
		opts.Store = stores(t)
	}
	return a.Import(t.Context(), opts)
}

// savedImage is what docker save made for years: layers as plain tars, the second a link to the first.
func savedImage(t *testing.T, diffIDs ...oci.Digest) []byte {
	t.Helper()
	l := string(tarOf(t, "file", "content"))
	if diffIDs == nil {
		diffIDs = []oci.Digest{digest.FromString(l), digest.FromString(l)}
	}
	config := oci.Image{}
	config.OS, config.Architecture, config.RootFS.DiffIDs = "linux", "amd64", diffIDs
	raw, err := oci.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, "aa/layer.tar", l, "bb/layer.tar", "-> ../aa/layer.tar", "c.json", string(raw),
		"manifest.json", `[{"Config":"c.json","RepoTags":["app:v1","app:v2"],"Layers":["aa/layer.tar","bb/layer.tar"]}]`)
}

func TestImportSaved(t *testing.T) {
	t.Parallel()
	at := stores(t)
	got, err := importing(t, savedImage(t), transfer.Importing{Store: at})
	if err != nil || len(got) != 2 || got[0].Name != "app:v1" || got[1].Name != "app:v2" || got[0].Digest != got[1].Digest {
		t.Fatalf("Import = %v, %v", got, err)
	}
	_, raw, err := at(parse(t, "app:v1")).Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Layers) != 2 || m.Layers[0].MediaType != oci.MediaTypeLayerGzip || m.Layers[0].Digest != m.Layers[1].Digest {
		t.Errorf("the manifest is %s, %v", raw, err)
	}
	all, err := transfer.Reach(t.Context(), at(parse(t, "app:v1")).Blobs, oci.Describe(oci.MediaTypeManifest, raw))
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != 3 || err != nil {
		t.Errorf("Reach = %v, %v; want manifest, config and layer", all, err)
	}
	one, err := importing(t, savedImage(t), transfer.Importing{Name: parse(t, "mine:v1")})
	if err != nil || len(one) != 1 || one[0].Name != "mine:v1" {
		t.Errorf("Import under a name = %v, %v", one, err)
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	name := transfer.Importing{Name: parse(t, "x:v1")}
	for _, tc := range []struct {
		name string
		data []byte
		opts transfer.Importing
		want error
	}{
		{"no tar", []byte(strings.Repeat("x", 2000)), name, errs.Corrupt},
		{"cut short", savedImage(t)[:1500], name, errs.Corrupt},
		{"no files", tarOf(t), name, errs.Invalid},
		{"files without a name", tarOf(t, "etc/passwd", "x"), transfer.Importing{}, errs.Invalid},
		{"a layer that the config does not know", savedImage(t, digest.FromString("1"), digest.FromString("2")), name, errs.Corrupt},
		{"layers without diffIDs", savedImage(t, digest.FromString("1")), name, errs.Corrupt},
		{"a config that is not there", tarOf(t, "manifest.json", `[{"Config":"../../etc/passwd","RepoTags":["a:b"]}]`), name, errs.NotFound},
		{"links in a circle", tarOf(t, "a", "-> b", "b", "-> a", "manifest.json", `[{"Config":"a"}]`), name, errs.NotFound},
		{"no JSON", tarOf(t, "manifest.json", `{`), name, errs.Corrupt},
		{"no images", tarOf(t, "manifest.json", `[]`), name, errs.NotFound},
		{"two images of one name", tarOf(t, "manifest.json", `[{},{}]`), name, errs.Invalid},
		{"an index of nothing", tarOf(t, "index.json", `{}`), name, errs.NotFound},
		{"an index of what is not there", tarOf(t, "index.json", `{"manifests":[{"digest":"`+digest.FromString("x").String()+`"}]}`), name, errs.NotFound},
		{"an index of a path", tarOf(t, "index.json", `{"manifests":[{"digest":"sha256:../../x"}]}`), name, errs.Corrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got, err := importing(t, tc.data, tc.opts); !errors.Is(err, tc.want) {
				t.Errorf("Import = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

// An archive is a stranger's: reading it ends, whatever it says, and what comes of it has a name that can be read.
func FuzzImport(f *testing.F) {
	f.Add(tarOf(f, "index.json", `{"manifests":[]}`))
	f.Add(tarOf(f, "manifest.json", `[{"Config":"c","RepoTags":["a:b"],"Layers":["c"]}]`, "c", "{}"))
	f.Add(tarOf(f, "file", "-> file"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := importing(t, data, transfer.Importing{})
		if err != nil {
			return
		}
		for _, im := range got {
			if _, err := ref.Parse(im.Name); err != nil {
				t.Errorf("imported %q: %v", im.Name, err)
			}
		}
	})
}
