package tree_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/tree"
	"slipway/internal/errs"
)

// folder writes files: "path content", "dir/", "link -> target".
func folder(t *testing.T, opts tree.FolderOptions, files ...string) *tree.Folder {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		write(t, root, f)
	}
	tr, err := tree.NewFolder(root, opts)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func write(t *testing.T, root, f string) {
	t.Helper()
	name, content, _ := strings.Cut(f, " ")
	p := filepath.Join(root, name)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Dir(p), 0o755))
	switch target, isLink := strings.CutPrefix(content, "-> "); {
	case isLink:
		must(os.Symlink(target, p))
	case strings.HasSuffix(name, "/"):
		must(os.MkdirAll(p, 0o755))
	default:
		must(os.WriteFile(p, []byte(content), 0o644))
	}
}

// list shows what a copy made: a line for each file.
func list(c *tree.Copy) []string {
	var out []string
	for _, f := range c.Entries() {
		line := fmt.Sprintf("%s %s", f.Mode, f.Path)
		if f.UID != 0 || f.GID != 0 {
			line += fmt.Sprintf(" %d:%d", f.UID, f.GID)
		}
		if f.Link != "" {
			line += " -> " + f.Link
		}
		out = append(out, line)
	}
	return out
}

func TestAdd(t *testing.T) {
	t.Parallel()
	below := []string{"app/", "etc/passwd root", "lib -> usr/lib", "usr/lib/", "file x", "abs -> /usr/lib"}
	src := []string{"a one", "d/x two", "d/e/y three", "l -> a", "out -> ../../etc"}
	for _, tc := range []struct {
		name, source, dest string
		want               []string
		err                string
	}{
		{name: "file to file", source: "a", dest: "/b", want: []string{"-rw-r--r-- b"}},
		{name: "file into existing folder", source: "a", dest: "/app", want: []string{"drwxr-xr-x app", "-rw-r--r-- app/a"}},
		{name: "file into new folder", source: "a", dest: "/n/m/", want: []string{"drwxr-xr-x n", "drwxr-xr-x n/m", "-rw-r--r-- n/m/a"}},
		{name: "file to a name in a new folder", source: "a", dest: "/n/b", want: []string{"drwxr-xr-x n", "-rw-r--r-- n/b"}},
		{name: "folder's content", source: "d", dest: "/n", want: []string{"drwxr-xr-x n", "drwxr-xr-x n/e", "-rw-r--r-- n/e/y", "-rw-r--r-- n/x"}},
		{name: "folder to the root", source: "d", dest: "/", want: []string{"drwxr-xr-x e", "-rw-r--r-- e/y", "-rw-r--r-- x"}},
		{name: "through a link below", source: "a", dest: "/lib/", want: []string{"drwxr-xr-x usr", "drwxr-xr-x usr/lib", "-rw-r--r-- usr/lib/a"}},
		{name: "through an absolute link below", source: "a", dest: "/abs/b", want: []string{"drwxr-xr-x usr", "drwxr-xr-x usr/lib", "-rw-r--r-- usr/lib/b"}},
		{name: "a link named as source is followed", source: "l", dest: "/b", want: []string{"-rw-r--r-- b"}},
		{name: "a link never leads out of the tree", source: "out", dest: "/b", err: `"/out": not found`},
		{name: "folder onto a file", source: "d", dest: "/file", err: "cannot copy a directory to /file, which is not one: invalid"},
		{name: "missing", source: "nope", dest: "/b", err: `"/nope": not found`},
		{name: "into a file", source: "a", dest: "/file/", err: "/file: not a directory: invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := tree.NewCopy(folder(t, tree.FolderOptions{AsRoot: true}, below...), tree.Options{})
			err := c.Add(folder(t, tree.FolderOptions{AsRoot: true}, src...), tc.source, tc.dest, nil)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("Add = %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, list(c)); diff != "" {
				t.Errorf("files mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddKeepsHardLinks(t *testing.T) {
	t.Parallel()
	src := folder(t, tree.FolderOptions{AsRoot: true}, "d/a one")
	if err := os.Link(filepath.Join(src.Root(), "d/a"), filepath.Join(src.Root(), "d/b")); err != nil {
		t.Fatal(err)
	}
	c := tree.NewCopy(tree.Empty{}, tree.Options{})
	if err := c.Add(src, "d", "/n", nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"drwxr-xr-x n", "-rw-r--r-- n/a", "-rw-r--r-- n/b -> n/a"}
	if diff := cmp.Diff(want, list(c)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}

func TestOwnerAndChmod(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		chmod string
		want  []string
	}{
		{"750", []string{"drwxr-x--- n 7:8", "-rwxr-x--- n/x 7:8"}},
		{"u=rwX,go=rX", []string{"drwxr-xr-x n 7:8", "-rw-r--r-- n/x 7:8"}},
	} {
		chmod, err := tree.ParseChmod(tc.chmod)
		if err != nil {
			t.Fatal(err)
		}
		c := tree.NewCopy(tree.Empty{}, tree.Options{Owner: &tree.Owner{UID: 7, GID: 8}, Chmod: chmod})
		if err := c.Add(folder(t, tree.FolderOptions{AsRoot: true}, "x 1"), "x", "/n/", nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, list(c)); diff != "" {
			t.Errorf("--chmod=%s mismatch (-want +got):\n%s", tc.chmod, diff)
		}
	}
	for _, bad := range []string{"8", "17777", "u+q", "999"} {
		if _, err := tree.ParseChmod(bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseChmod(%q) = %v, want invalid", bad, err)
		}
	}
}

func TestExtractReplacesAndMerges(t *testing.T) {
	t.Parallel()
	below := folder(t, tree.FolderOptions{AsRoot: true}, "d/keep 1", "d/link -> keep", "f 2", "g/x 3")
	archive := folder(t, tree.FolderOptions{AsRoot: true}, "d/link/new 1", "f 5", "g 6")
	c := tree.NewCopy(below, tree.Options{})
	if err := c.Extract(archive, "/"); err != nil {
		t.Fatal(err)
	}
	want := []string{"drwxr-xr-x d", "drwxr-xr-x d/link", "-rw-r--r-- d/link/new", "-rw-r--r-- f", "-rw-r--r-- g"}
	if diff := cmp.Diff(want, list(c)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
	if _, err := c.Lstat("g/x"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a folder replaced by a file still has children: %v", err)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	tr := folder(t, tree.FolderOptions{}, "a.js 1", "b.js 2", "c.ts 3", "d/e.js 4", "d/f/g.js 5", "[x] 6", "ld -> d")
	for _, tc := range []struct {
		pattern string
		want    []string
	}{
		{"*.js", []string{"a.js", "b.js"}},
		{"/*.js", []string{"a.js", "b.js"}},
		{"d/*.js", []string{"d/e.js"}},
		{"*/*.js", []string{"d/e.js"}},
		{"d/*", []string{"d/e.js", "d/f"}},
		{"ld/*.js", []string{"d/e.js"}},
		{"?.ts", []string{"c.ts"}},
		{"[ab].js", []string{"a.js", "b.js"}},
		{"none*", nil},
		{"missing", []string{"missing"}},
		{"../../a.js", []string{"a.js"}},
	} {
		got, _, err := tree.Source{Pattern: tc.pattern}.Find(tr)
		if err != nil {
			t.Errorf("Find(%q): %v", tc.pattern, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("Find(%q) mismatch (-want +got):\n%s", tc.pattern, diff)
		}
	}
}

func TestResolveStaysInside(t *testing.T) {
	t.Parallel()
	tr := folder(t, tree.FolderOptions{}, "up -> ../../../etc", "abs -> /etc", "loop -> loop", "etc/x 1", "chain -> up/x")
	for p, want := range map[string]string{
		"up/x": "etc/x", "abs/x": "etc/x", "chain": "etc/x", "../../etc/x": "etc/x", "none/y": "none/y", ".": ".",
	} {
		if got, err := tree.Resolve(tr, p, true); got != want || err != nil {
			t.Errorf("Resolve(%q) = %q, %v; want %q", p, got, err, want)
		}
	}
	if _, err := tree.Resolve(tr, "loop", true); err == nil {
		t.Error("a loop of links was resolved")
	}
}

func TestDigestSeesWhatMatters(t *testing.T) {
	t.Parallel()
	digest := func(files ...string) string {
		sum, err := tree.Digest(folder(t, tree.FolderOptions{AsRoot: true}, files...), []tree.Source{{Pattern: "/d"}, {Pattern: "/a*"}}, tree.Plain{})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sum)
	}
	base := digest("d/x 1", "d/y 2", "a 3", "other 4")
	if got := digest("d/x 1", "d/y 2", "a 3", "other 5"); got != base {
		t.Error("a file that is not copied changed the digest")
	}
	for name, files := range map[string][]string{
		"content": {"d/x 2", "d/y 2", "a 3"},
		"name":    {"d/z 1", "d/y 2", "a 3"},
		"swapped": {"d/x 2", "d/y 1", "a 3"},
		"more":    {"d/x 1", "d/y 2", "d/z ", "a 3"},
		"link":    {"d/x 1", "d/y -> x", "a 3"},
		"match":   {"d/x 1", "d/y 2", "a 3", "a2 "},
	} {
		if digest(files...) == base {
			t.Errorf("%s: another content has the same digest", name)
		}
	}
}

func TestDigestRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := tree.Digest(folder(t, tree.FolderOptions{}, "a 1"), []tree.Source{{Pattern: "/b"}}, tree.Plain{})
	if !errors.Is(err, errs.NotFound) || err.Error() != `"/b": not found` {
		t.Errorf("Digest = %v", err)
	}
}

func TestHasherRemembersAndNotices(t *testing.T) {
	t.Parallel()
	memory := filepath.Join(t.TempDir(), "sums", "x")
	tr := folder(t, tree.FolderOptions{}, "a one")
	later := time.Now().Add(time.Minute)
	sum := func(started time.Time) string {
		t.Helper()
		again, err := tree.NewFolder(tr.Root(), tree.FolderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := again.Lstat("a")
		if err != nil {
			t.Fatal(err)
		}
		h := tree.OpenHasher(memory, started)
		s, err := h.Sum(again, e)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Save(); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", s)
	}
	first := sum(time.Now())
	if _, err := os.Stat(memory); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that changed just now was remembered: %v", err)
	}
	if sum(later) != first {
		t.Error("the sum changed though the file did not")
	}
	info, err := os.Stat(filepath.Join(tr.Root(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tr.Root(), "a"), []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(tr.Root(), "a"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if sum(later) == first {
		t.Error("a change with the old size and time was not noticed")
	}
}

func TestHasherForgetsADamagedMemory(t *testing.T) {
	t.Parallel()
	memory := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(memory, []byte("slipway-sums-1\nnonsense that is long enough to hold a sum of thirty-two bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := folder(t, tree.FolderOptions{}, "a one")
	e, err := tr.Lstat("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.OpenHasher(memory, time.Now()).Sum(tr, e); err != nil {
		t.Errorf("Sum = %v", err)
	}
}

type ignore map[string]bool

func (i ignore) Ignored(p string, _ bool) (out, below bool, err error) { return i[p], false, nil }

func TestFolderIgnores(t *testing.T) {
	t.Parallel()
	tr := folder(t, tree.FolderOptions{Ignore: ignore{"a": true, "d": true, "d/x": true, "e": true, "e/y": true}},
		"a 1", "b 2", "d/x 3", "d/keep 4", "e/y 5")
	entries, err := tr.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Path)
	}
	if diff := cmp.Diff([]string{"b", "d"}, got); diff != "" {
		t.Errorf("ReadDir mismatch (-want +got):\n%s", diff)
	}
	if _, err := tr.Lstat("a"); !errors.Is(err, errs.NotFound) {
		t.Errorf("an ignored file is there: %v", err)
	}
	if _, err := tr.Lstat("d/keep"); err != nil {
		t.Errorf("a file brought back is not there: %v", err)
	}
}

func BenchmarkDigest(b *testing.B) {
	root := b.TempDir()
	for i := range 2000 {
		d := filepath.Join(root, fmt.Sprint(i%50))
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), make([]byte, 8<<10), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	later := time.Now().Add(time.Minute)
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "cold", true: "warm"}[warm], func(b *testing.B) {
			h := tree.OpenHasher(filepath.Join(b.TempDir(), "sums"), later)
			for b.Loop() {
				tr, err := tree.NewFolder(root, tree.FolderOptions{})
				if err != nil {
					b.Fatal(err)
				}
				var sums tree.Sums = tree.Plain{}
				if warm {
					sums = h
				}
				if _, err := tree.Digest(tr, []tree.Source{{Pattern: "/"}}, sums); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
