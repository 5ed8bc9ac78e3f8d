package tree_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/tree"
	"slipway/internal/errs"
)

// A digest changes with a file exactly when a copy holds the file: what one takes and the other does not is either a
// build that is not repeated though it should be, or the other way round.
func TestDigestAgreesWithCopy(t *testing.T) {
	t.Parallel()
	files := []string{"a.txt", "b.md", "d/a.txt", "d/c.md", "d/e/f.txt", "d/e/g.md", "dd/e/h.txt", "d/e/i/j.txt"}
	for _, tc := range []struct {
		name   string
		source tree.Source
		want   []string
	}{
		{"everything", tree.Source{Pattern: "/"}, files},
		{"exclude", tree.Source{Pattern: "/", Exclude: []string{"*.md", "dd"}}, []string{"a.txt", "d/a.txt", "d/c.md", "d/e/f.txt", "d/e/g.md", "d/e/i/j.txt"}},
		{"exclude at any depth", tree.Source{Pattern: "/d", Exclude: []string{"**/*.md"}}, []string{"d/a.txt", "d/e/f.txt", "d/e/i/j.txt"}},
		{"exclude a folder but one file", tree.Source{Pattern: "/d", Exclude: []string{"e", "!e/i"}}, []string{"d/a.txt", "d/c.md", "d/e/i/j.txt"}},
		{"never the source itself", tree.Source{Pattern: "/d/e/f.txt", Exclude: []string{"*", "**/f.txt"}}, []string{"d/e/f.txt"}},
		{"include a file", tree.Source{Pattern: "/", Include: "d/e/f.txt", Required: true}, []string{"d/e/f.txt"}},
		{"include a folder", tree.Source{Pattern: "/", Include: "d/e"}, []string{"d/e/f.txt", "d/e/g.md", "d/e/i/j.txt"}},
		{"include at any depth", tree.Source{Pattern: "/", Include: "**/*.txt"}, []string{"a.txt", "d/a.txt", "d/e/f.txt", "dd/e/h.txt", "d/e/i/j.txt"}},
		{"include below several folders", tree.Source{Pattern: "/d*", Include: "e/*.txt"}, []string{"d/e/f.txt", "dd/e/h.txt"}},
		{"include and exclude", tree.Source{Pattern: "/", Include: "d", Exclude: []string{"**/e", "!**/*.md"}}, []string{"d/a.txt", "d/c.md", "d/e/g.md"}},
		{"nothing", tree.Source{Pattern: "/", Include: "no*"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			base := digestOf(t, tc.source, files, "")
			var seen []string
			for _, f := range files {
				if digestOf(t, tc.source, files, f) != base {
					seen = append(seen, f)
				}
			}
			if diff := cmp.Diff(tc.want, seen); diff != "" {
				t.Errorf("files that Digest sees mismatch (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(tc.want)), copied(t, tc.source, files)); diff != "" {
				t.Errorf("files that Copy takes mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// digestOf is the digest of a source of files of which one has another content than its name.
func digestOf(t *testing.T, source tree.Source, files []string, changed string) [32]byte {
	t.Helper()
	sum, err := tree.Digest(folder(t, tree.FolderOptions{AsRoot: true}, contents(files, changed)...), []tree.Source{source}, tree.Plain{})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func contents(files []string, changed string) []string {
	var list []string
	for _, f := range files {
		if f == changed {
			list = append(list, f+" changed")
		} else {
			list = append(list, f+" "+f)
		}
	}
	return list
}

// copied are the contents of the files that a copy of source takes, which are their names.
func copied(t *testing.T, source tree.Source, files []string) []string {
	t.Helper()
	src := folder(t, tree.FolderOptions{AsRoot: true}, contents(files, "")...)
	c := tree.NewCopy(tree.Empty{}, tree.Options{})
	paths, filter, err := source.Find(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if err := c.Add(src, p, "/to/", filter); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for f, err := range c.Files() {
		if err != nil {
			t.Fatal(err)
		}
		if !f.Mode.IsRegular() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, string(data))
	}
	slices.Sort(names)
	return names
}

func TestFindRequires(t *testing.T) {
	t.Parallel()
	src := folder(t, tree.FolderOptions{}, "d/e/f 1", "l -> d", "x 2")
	for _, tc := range []struct {
		dir, include, exclude string
		missing               bool
	}{
		{dir: "/", include: "d/e/f"},
		{dir: "/", include: "d"},
		{dir: "/l", include: "e"},
		{dir: "/", include: "d", exclude: "d,!d/e/f"},
		{dir: "/", include: "d/no", missing: true},
		{dir: "/no", include: "d", missing: true},
		{dir: "/", include: "l/e", missing: true},
		{dir: "/", include: "x/y", missing: true},
		{dir: "/", include: "d/e/f", exclude: "d", missing: true},
		{dir: "/", include: "d", exclude: "d,!d/no", missing: true},
	} {
		s := tree.Source{Pattern: tc.dir, Include: tc.include, Required: true}
		if tc.exclude != "" {
			s.Exclude = strings.Split(tc.exclude, ",")
		}
		if _, _, err := s.Find(src); errors.Is(err, errs.NotFound) != tc.missing || err != nil && !tc.missing {
			t.Errorf("Find(%+v) = %v, want it missing: %t", s, err, tc.missing)
		}
	}
}

func TestFindRefusesBadPatterns(t *testing.T) {
	t.Parallel()
	for _, s := range []tree.Source{{Pattern: "/", Exclude: []string{"["}}, {Pattern: "/", Include: "a[", Exclude: []string{"!"}}} {
		if _, _, err := s.Find(folder(t, tree.FolderOptions{})); !errors.Is(err, errs.Invalid) {
			t.Errorf("Find(%+v) = %v, want invalid", s, err)
		}
	}
}

func TestPutKeepsAFoldersOwnMode(t *testing.T) {
	t.Parallel()
	src := folder(t, tree.FolderOptions{AsRoot: true}, "d/e/f 1", "l -> d")
	if err := os.Chmod(filepath.Join(src.Root(), "d"), 0o710); err != nil {
		t.Fatal(err)
	}
	c := tree.NewCopy(tree.Empty{}, tree.Options{})
	for from, to := range map[string]string{"/l": "x", "/d/e/f": "/y"} {
		if err := c.Put(src, from, to); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"drwx--x--- x", "drwxr-xr-x x/e", "-rw-r--r-- x/e/f", "-rw-r--r-- y"}
	if diff := cmp.Diff(want, list(c)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
	if err := c.Put(src, "/none", "z"); !errors.Is(err, errs.NotFound) {
		t.Errorf("Put of nothing = %v", err)
	}
}

// As in BuildKit, a folder that is copied only for what is in it passes its mode on to one that is there, not its owner.
func TestAddMergesFoldersOnTheWay(t *testing.T) {
	t.Parallel()
	c := tree.NewCopy(tree.Empty{}, tree.Options{Owner: &tree.Owner{UID: 3, GID: 4}})
	if err := c.MakeDir("x/d"); err != nil {
		t.Fatal(err)
	}
	s := tree.Source{Pattern: "/", Include: "d/e/*"}
	src := folder(t, tree.FolderOptions{AsRoot: true}, "d/e/f 1", "d/g 2")
	_, filter, err := s.Find(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(src, "/", "/x/", filter); err != nil {
		t.Fatal(err)
	}
	want := []string{"drwxr-xr-x x 3:4", "drwxr-xr-x x/d 3:4", "drwxr-xr-x x/d/e 3:4", "-rw-r--r-- x/d/e/f 3:4"}
	if diff := cmp.Diff(want, list(c)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}
