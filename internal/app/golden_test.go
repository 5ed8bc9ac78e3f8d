package app_test

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/app"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/output"
	"slipway/internal/build/solver"
	"slipway/internal/config"
)

// The golden suite: each folder of golden is a Dockerfile with its context and what BuildKit made of it, so that a
// build here means what it means there. Its README.md says how expectations are made.
const golden = "../build/testdata/golden"

// goldenCase is case.json: how a case is built.
type goldenCase struct {
	File, Context, Target string
	Args                  map[string]string
	Needs                 []dockerfile.Feature
}

// refused says whether the case asks for something that slipway must refuse because it cannot do it.
func (c *goldenCase) refused() bool {
	return slices.ContainsFunc(c.Needs, func(f dockerfile.Feature) bool { return !slices.Contains(solver.Features(), f) })
}

// goldenWant is want.json: that the build fails, or the config and the files that differ from the base image's.
type goldenWant struct {
	Error   bool
	Config  map[string]any
	History []string // of the steps, without the base's
	Tree    map[string]string
}

func TestGolden(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	base := pushBases(t, registry)
	a := openApp(t, t.TempDir(), config.Config{RegistryMirrors: map[string][]string{"docker.io": {registry}}})
	cases, err := filepath.Glob(filepath.Join(golden, "*", "Dockerfile"))
	if err != nil || len(cases) < 60 {
		t.Fatalf("%d cases in %s: %v", len(cases), golden, err)
	}
	dirs, err := os.ReadDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		t.Run(d.Name(), func(t *testing.T) {
			t.Parallel()
			runGolden(t, a, base, filepath.Join(golden, d.Name()))
		})
	}
}

func runGolden(t *testing.T, a *app.App, base map[string]string, dir string) {
	t.Helper()
	var c goldenCase
	readJSON(t, filepath.Join(dir, "case.json"), &c, true)
	var want goldenWant
	readJSON(t, filepath.Join(dir, "want.json"), &want, false)
	file := c.File
	if file == "" {
		file = "Dockerfile"
	}
	layout := filepath.Join(t.TempDir(), "out")
	_, err := a.Build(t.Context(), app.Build{
		Context: filepath.Join(dir, c.Context), File: filepath.Join(dir, file), Target: c.Target, Args: c.Args,
		Network: "default", Outputs: []output.Output{{Type: "layout", Dest: layout}},
	})
	if not, ok := exceptions()[filepath.Base(dir)]; ok {
		if not.fails != (err != nil) {
			t.Errorf("%v; but %s", err, not.why)
		}
		return
	}
	if want.Error || c.refused() {
		if err == nil {
			t.Error("built, though it must be refused")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	im := readLayout(t, layout)
	if diff := cmp.Diff(want.Config, im.config, cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == `["Env"]`
	}, cmp.Transformer("sort", sortAny))); diff != "" {
		t.Errorf("config mismatch (-want +got):\n%s", diff)
	}
	for i, h := range want.History {
		// BuildKit makes a layer of every step with work; here a step that changed nothing makes none.
		want.History[i] = strings.TrimPrefix(h, "(empty) ")
	}
	if diff := cmp.Diff(want.History, im.history, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("history mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Tree, changes(base, im.tree), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}

func sortAny(v any) []string {
	var out []string
	if list, ok := v.([]any); ok {
		for _, e := range list {
			out = append(out, fmt.Sprint(e))
		}
	}
	slices.Sort(out)
	return out
}

// changes are the files that a base image has otherwise or not at all. An image that kept none of its base's files did
// not stand on it.
func changes(base, tree map[string]string) map[string]string {
	if _, ok := tree["/bin/busybox"]; !ok {
		return tree
	}
	out := map[string]string{}
	for p, v := range tree {
		if base[p] != v {
			out[p] = v
		}
	}
	for p := range base {
		if _, ok := tree[p]; !ok {
			out[p] = "absent"
		}
	}
	return out
}

func readJSON(t *testing.T, file string, into any, optional bool) {
	t.Helper()
	data, err := os.ReadFile(file)
	if optional && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// imageContent is an image read back, without any code of slipway's.
type imageContent struct {
	config  map[string]any
	history []string
	tree    map[string]string
}

// configFields are those that a container starts with.
var configFields = []string{
	"Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "ExposedPorts", "Volumes", "StopSignal", "Healthcheck", "OnBuild", "Shell",
}

func readLayout(t *testing.T, dir string) imageContent {
	t.Helper()
	blob := func(digest string) string { return filepath.Join(dir, "blobs", strings.Replace(digest, ":", "/", 1)) }
	var index, manifest struct {
		Manifests, Layers []struct{ Digest string }
		Config            struct{ Digest string }
	}
	var config struct {
		Author  string
		Config  map[string]any
		History []struct {
			CreatedBy string `json:"created_by"`
		}
	}
	readJSON(t, filepath.Join(dir, "index.json"), &index, false)
	readJSON(t, blob(index.Manifests[0].Digest), &manifest, false)
	readJSON(t, blob(manifest.Config.Digest), &config, false)
	im := imageContent{config: map[string]any{}, tree: map[string]string{}}
	if config.Author != "" {
		im.config["Author"] = config.Author
	}
	for _, f := range configFields {
		if v, ok := config.Config[f]; ok && v != nil {
			im.config[f] = v
		}
	}
	for _, h := range config.History {
		im.history = append(im.history, h.CreatedBy)
	}
	for _, l := range manifest.Layers {
		f, err := os.Open(blob(l.Digest))
		if err != nil {
			t.Fatal(err)
		}
		applyLayer(t, im.tree, plain(t, f))
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	return im
}

// plain is a layer's tar, which may be gzipped.
func plain(t *testing.T, r io.Reader) io.Reader {
	t.Helper()
	in := bufio.NewReader(r)
	if magic, err := in.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return in
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// applyLayer lays a layer over a tree: whiteouts first, then files.
func applyLayer(t *testing.T, tree map[string]string, layer io.Reader) {
	t.Helper()
	under := func(dir string) {
		maps.DeleteFunc(tree, func(p, _ string) bool { return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") })
	}
	type named struct{ path, text, link string }
	var files []named
	r := tar.NewReader(layer)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := path.Join("/", h.Name)
		dir, name := path.Split(p)
		switch gone, deletes := strings.CutPrefix(name, ".wh."); {
		case name == ".wh..wh..opq":
			under(path.Clean(dir))
		case deletes:
			delete(tree, path.Join(dir, gone))
			under(path.Join(dir, gone))
		case p != "/":
			link := ""
			if h.Typeflag == tar.TypeLink {
				link = path.Join("/", h.Linkname)
			}
			files = append(files, named{p, describe(t, h, r), link})
		}
	}
	for _, f := range files {
		if !strings.HasPrefix(f.text, "dir ") {
			under(f.path)
		}
		if f.link != "" {
			f.text = tree[f.link]
		}
		tree[f.path] = f.text
	}
}

// describe is a line of want.json's tree: kind mode owner, then size and digest, or a link's target.
func describe(t *testing.T, h *tar.Header, content io.Reader) string {
	t.Helper()
	kinds := map[byte]string{tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo"}
	kind, ok := kinds[h.Typeflag]
	if !ok {
		kind = "file"
	}
	s := fmt.Sprintf("%s %04o %d:%d", kind, h.Mode&0o7777, h.Uid, h.Gid)
	switch kind {
	case "file":
		sum := sha256.New()
		n, err := io.Copy(sum, content)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %d %s", n, hex.EncodeToString(sum.Sum(nil)))
	case "symlink":
		s += " 0 " + h.Linkname
	default:
		s += " 0"
	}
	if caps := h.PAXRecords["SCHILY.xattr.security.capability"]; caps != "" {
		s += " caps"
	}
	return s
}

func openApp(t *testing.T, home string, c config.Config) *app.App {
	t.Helper()
	a, err := app.Open(app.Options{
		Home: home, Config: c, Isolation: here, Getenv: func(string) string { return "" }, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}
