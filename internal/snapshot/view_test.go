package snapshot_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
	"slipway/internal/snapshot"
)

// needRoot skips tests that make whiteouts, which are devices.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("whiteouts are devices: needs root")
	}
}

func seq(files []layer.File) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for _, f := range files {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// parse makes the files of a layer from one line each: "d/" is a directory, "d/!" an opaque one, "l -> t" a symbolic
// link, "h = f" a hard link, "-x" a whiteout, and anything else a file whose content is its name and the layer's.
func parse(name string, lines ...string) []layer.File {
	var files []layer.File
	for _, line := range lines {
		f := layer.File{Entry: layer.Entry{Path: line, Mode: 0o644, ModTime: time.Unix(1e9, 0)}}
		if link, target, ok := strings.Cut(line, " -> "); ok {
			f.Path, f.Mode, f.Link = link, fs.ModeSymlink|0o777, target
		} else if second, first, ok := strings.Cut(line, " = "); ok {
			f.Path, f.Link, f.Hard = second, first, true
			f.Size = int64(len(first + name))
		} else if p, ok := strings.CutSuffix(line, "/!"); ok {
			f.Path, f.Mode, f.Opaque = p, fs.ModeDir|0o700, true
		} else if p, ok := strings.CutSuffix(line, "/"); ok {
			f.Path, f.Mode = p, fs.ModeDir|0o755
		} else if p, ok := strings.CutPrefix(line, "-"); ok {
			f.Path, f.Whiteout = p, true
		} else {
			content := line + name
			f.Size = int64(len(content))
			f.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
		}
		files = append(files, f)
	}
	return files
}

// unpack makes layer folders and their indexes.
func unpack(t *testing.T, layers ...[]layer.File) []snapshot.Layer {
	t.Helper()
	out := make([]snapshot.Layer, len(layers))
	for i, files := range layers {
		dir := t.TempDir()
		if err := layer.Place(t.Context(), dir, seq(files), layer.PlaceOptions{}); err != nil {
			t.Fatal(err)
		}
		var entries []layer.Entry
		for _, f := range files {
			entries = append(entries, f.Entry)
		}
		out[i] = snapshot.Layer{Name: fmt.Sprint("layer", i), Dir: dir, Index: layer.NewIndex(entries)}
	}
	return out
}

// forms returns the same layers as folders, as indexes, and as both.
func forms(layers []snapshot.Layer) map[string][]snapshot.Layer {
	folders, indexes := slices.Clone(layers), slices.Clone(layers)
	for i := range layers {
		folders[i].Index = nil
		indexes[i].Dir = ""
	}
	return map[string][]snapshot.Layer{"folders": folders, "indexes": indexes, "both": layers}
}

func TestView(t *testing.T) {
	t.Parallel()
	needRoot(t)
	layers := unpack(t,
		parse("0", "bin -> usr/bin", "etc/", "etc/a", "etc/b", "gone/", "gone/x", "lib/", "lib/x", "loop -> loop", "up -> ../../etc",
			"usr/", "usr/bin/", "usr/bin/sh", "usr/bin/zsh = usr/bin/sh", "usr/self -> /usr/./bin/../self2", "usr/self2 -> ."),
		parse("1", "etc/", "etc/b", "-etc/a", "-gone", "lib/!", "lib/y", "new"),
		parse("2", "etc/", "etc/a/", "etc/a/deep", "lib -> etc", "-new"),
	)
	tests := []struct {
		name string
		// want is the content for a regular file, the names for a directory, or what Lstat says of the rest.
		want, lstat, stat string
		err               error
	}{
		{name: "etc", stat: "etc", want: "a b"},
		{name: "/etc/", stat: "etc", want: "a b"},
		{name: "./etc/../etc//.", stat: "etc", want: "a b"},
		{name: "../../etc", stat: "etc", want: "a b"},
		{name: "", stat: ".", want: "bin etc lib loop up usr"},
		{name: "/", stat: ".", want: "bin etc lib loop up usr"},
		{name: "etc/b", stat: "etc/b", want: "etc/b1"},
		{name: "etc/a/deep", stat: "etc/a/deep", want: "etc/a/deep2"},
		{name: "bin", lstat: "bin", stat: "usr/bin", want: "sh zsh"},
		{name: "bin/sh", stat: "usr/bin/sh", want: "usr/bin/sh0"},
		{name: "bin/zsh", stat: "usr/bin/zsh", want: "usr/bin/sh0"},
		{name: "up/b", stat: "etc/b", want: "etc/b1"},
		{name: "lib/b", stat: "etc/b", want: "etc/b1"},
		{name: "usr/self/bin/sh", stat: "usr/bin/sh", want: "usr/bin/sh0"},
		{name: "new", err: errs.NotFound},
		{name: "gone", err: errs.NotFound},
		{name: "gone/x", err: errs.NotFound},
		{name: "lib/x", err: errs.NotFound},
		{name: "etc/b/c", err: errs.NotFound},
		{name: "etc/b/..", err: errs.NotFound},
		{name: "loop", lstat: "loop", err: unix.ELOOP},
		{name: "loop/x", err: unix.ELOOP},
	}
	for form, layers := range forms(layers) {
		v := snapshot.NewView(layers...)
		for _, test := range tests {
			t.Run(form+" "+test.name, func(t *testing.T) {
				t.Parallel()
				e, err := v.Lstat(test.name)
				if want := max(test.lstat, test.stat); test.lstat == "" && e.Path != test.stat || test.lstat != "" && e.Path != test.lstat {
					t.Errorf("Lstat = %q, %v; want %q", e.Path, err, want)
				}
				p, err := v.Resolve(test.name)
				if p != test.stat || !errors.Is(err, test.err) {
					t.Errorf("Resolve = %q, %v; want %q, %v", p, err, test.stat, test.err)
				}
				if test.err == nil && form != "indexes" {
					if got := read(t, v, test.name); got != test.want {
						t.Errorf("content is %q, want %q", got, test.want)
					}
				}
			})
		}
	}
}

// read returns the content of a file, or the names in a directory.
func read(t *testing.T, v *snapshot.View, name string) string {
	t.Helper()
	entries, err := v.ReadDir(name)
	if err == nil {
		var names []string
		for _, e := range entries {
			names = append(names, path.Base(e.Path))
		}
		return strings.Join(names, " ")
	}
	r, err := v.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestEmptyView(t *testing.T) {
	t.Parallel()
	v := snapshot.NewView()
	if e, err := v.Stat("/"); err != nil || e.Path != "." || !e.IsDir() {
		t.Errorf("Stat(/) = %+v, %v; want a directory", e, err)
	}
	if entries, err := v.ReadDir("/"); err != nil || len(entries) > 0 {
		t.Errorf("ReadDir(/) = %v, %v; want nothing", entries, err)
	}
	if _, err := v.Stat("x"); !errors.Is(err, errs.NotFound) {
		t.Errorf("Stat(x): %v, want not found", err)
	}
}

func TestNotUnpacked(t *testing.T) {
	t.Parallel()
	needRoot(t)
	layers := unpack(t, parse("0", "a", "b"), parse("1", "b"))
	layers[0].Dir = ""
	v := snapshot.NewView(layers...)
	if _, err := v.HostPath("a"); !errors.Is(err, snapshot.ErrNotUnpacked) || !strings.Contains(err.Error(), "layer0") {
		t.Errorf("HostPath(a): %v, want that layer0 is not unpacked", err)
	}
	if p, err := v.HostPath("b"); err != nil || p != filepath.Join(layers[1].Dir, "b") {
		t.Errorf("HostPath(b) = %q, %v", p, err)
	}
	for _, err := range v.Walk(t.Context(), "a") {
		if !errors.Is(err, snapshot.ErrNotUnpacked) {
			t.Errorf("Walk: %v, want that layer0 is not unpacked", err)
		}
	}
}

// TestViewStaysInside has a layer whose links lead to files of this machine.
func TestViewStaysInside(t *testing.T) {
	t.Parallel()
	needRoot(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	layers := unpack(t, parse("0", "abs -> "+outside, "rel -> "+up+outside[1:], "file -> "+outside+"/secret"))
	for form, layers := range forms(layers) {
		v := snapshot.NewView(layers...)
		for _, name := range []string{"abs/secret", "rel/secret", "file", up + outside + "/secret"} {
			if p, err := v.HostPath(name); !errors.Is(err, errs.NotFound) {
				t.Errorf("%s: HostPath(%s) = %q, %v: PATH ESCAPE", form, name, p, err)
			}
		}
	}
}

// randomLayer returns a layer of few names, so that layers collide in every way.
func randomLayer(r *rand.Rand, name string) []layer.File {
	var lines []string
	var fill func(prefix string, depth int)
	fill = func(prefix string, depth int) {
		for _, base := range []string{"a", "a.b", "b", "c"} {
			p := prefix + base
			switch n := r.IntN(10); {
			case n < 2:
				lines = append(lines, p)
			case n == 2:
				lines = append(lines, p+" -> "+[]string{"a", "../b", "/c", "c/a"}[r.IntN(4)])
			case n == 3:
				lines = append(lines, "-"+p)
			case n < 7 && depth < 3:
				lines = append(lines, p+[]string{"/", "/", "/!"}[r.IntN(3)])
				fill(p+"/", depth+1)
			}
		}
	}
	fill("", 0)
	for i, line := range slices.Clone(lines) {
		if !strings.ContainsAny(line, "->!") && !strings.HasSuffix(line, "/") && r.IntN(2) == 0 {
			lines = append(lines, fmt.Sprintf("hard%d = %s", i, line))
		}
	}
	return parse(name, lines...)
}

// TestViewIsTheMount compares views of random layers with what the kernel's overlay makes of them.
func TestViewIsTheMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 0))
			stack := make([][]layer.File, 1+r.IntN(4))
			for i := range stack {
				stack[i] = randomLayer(r, fmt.Sprint(i))
			}
			layers := unpack(t, stack...)
			want, content := merged(t, mount(t, layers), ".")
			for form, layers := range forms(layers) {
				v := snapshot.NewView(layers...)
				if form == "indexes" {
					if diff := cmp.Diff(want, list(t, v, "."), same()...); diff != "" {
						t.Errorf("%s mismatch (-mount +view)\n%s", form, diff)
					}
					continue
				}
				got, gotContent := walk(t, v.Walk(t.Context(), "."))
				if diff := cmp.Diff(want, got[1:], same()...); diff != "" {
					t.Errorf("%s mismatch (-mount +view)\n%s", form, diff)
				}
				if diff := cmp.Diff(content, gotContent); diff != "" {
					t.Errorf("%s content mismatch (-mount +view)\n%s", form, diff)
				}
			}
		})
	}
}

// same ignores which names of a file belong together, and what is hidden: a mount shows neither.
func same() []cmp.Option {
	return []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0), cmpopts.IgnoreFields(layer.Entry{}, "Opaque")}
}

// mount mounts layers and returns where.
func mount(t *testing.T, layers []snapshot.Layer) string {
	t.Helper()
	lower := []string{t.TempDir()} // the kernel wants two at least
	for _, l := range layers {
		lower = append(lower, l.Dir)
	}
	slices.Reverse(lower)
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Skipf("cannot mount an overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// merged returns the entries below name in a mount, and the content of files. A directory that only one layer has is
// listed with its whiteouts, which then cannot be found.
func merged(t *testing.T, dir, name string) ([]layer.Entry, map[string]string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var entries []layer.Entry
	content := map[string]string{}
	for _, file := range files {
		n, err := layer.ReadNode(dir, path.Join(name, file.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, n.Entry)
		if n.IsRegular() {
			content[n.Path] = text(t, filepath.Join(dir, n.Path))
		}
		if n.IsDir() {
			below, more := merged(t, dir, n.Path)
			entries = append(entries, below...)
			maps.Copy(content, more)
		}
	}
	return entries, content
}

func text(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// walk returns what a walk yields, with hard links as the files that they are.
func walk(t *testing.T, files iter.Seq2[layer.File, error]) ([]layer.Entry, map[string]string) {
	t.Helper()
	var entries []layer.Entry
	content := map[string]string{}
	for f, err := range files {
		if err != nil {
			t.Fatal(err)
		}
		if f.Hard {
			content[f.Path] = content[f.Link]
			f.Hard, f.Link = false, ""
		} else if f.IsRegular() {
			content[f.Path] = text(t, f.Source)
		}
		entries = append(entries, f.Entry)
	}
	return entries, content
}

// list returns the entries of a view by ReadDir alone.
func list(t *testing.T, v *snapshot.View, name string) []layer.Entry {
	t.Helper()
	entries, err := v.ReadDir(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []layer.Entry
	for _, e := range entries {
		all = append(all, e)
		if e.IsDir() {
			all = append(all, list(t, v, e.Path)...)
		}
	}
	return all
}

// BenchmarkView looks up and lists the files of three layers with 1,000 files each.
func BenchmarkView(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("sets owners: needs root")
	}
	var layers []snapshot.Layer
	var names []string
	for i := range 3 {
		var lines []string
		for d := range 10 {
			lines = append(lines, fmt.Sprintf("usr/share/d%d/", d))
			for f := range 100 {
				lines = append(lines, fmt.Sprintf("usr/share/d%d/f%d-%d", d, i, f))
			}
		}
		names = append(names, lines...)
		files := parse(fmt.Sprint(i), append([]string{"usr/", "usr/share/"}, lines...)...)
		dir := b.TempDir()
		if err := layer.Place(b.Context(), dir, seq(files), layer.PlaceOptions{}); err != nil {
			b.Fatal(err)
		}
		var entries []layer.Entry
		for _, f := range files {
			entries = append(entries, f.Entry)
		}
		layers = append(layers, snapshot.Layer{Dir: dir, Index: layer.NewIndex(entries)})
	}
	for form, layers := range forms(layers) {
		b.Run("lstat/"+form, func(b *testing.B) {
			for b.Loop() {
				v := snapshot.NewView(layers...)
				for _, name := range names {
					if _, err := v.Lstat(name); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/file")
		})
		if form == "indexes" {
			continue
		}
		b.Run("walk/"+form, func(b *testing.B) {
			for b.Loop() {
				for _, err := range snapshot.NewView(layers...).Walk(b.Context(), ".") {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/file")
		})
	}
}
