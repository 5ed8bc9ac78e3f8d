package output_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/output"
	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

var (
	old   = time.Unix(1_000_000_000, 0)
	young = time.Unix(2_000_000_000, 0)
)

// tree is what an image has: a folder, a file with two names, a link out of the tree.
func tree() iter.Seq2[layer.File, error] {
	content := func(s string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
	}
	files := []layer.File{
		{Entry: layer.Entry{Path: ".", Mode: fs.ModeDir | 0o755, ModTime: old}},
		{Entry: layer.Entry{Path: "etc", Mode: fs.ModeDir | 0o750, ModTime: old}},
		{Entry: layer.Entry{Path: "etc/a", Mode: 0o4644, Size: 5, ModTime: young}, Open: content("hello")},
		{Entry: layer.Entry{Path: "etc/b", Mode: 0o4644, Size: 5, Hard: true, Link: "etc/a", ModTime: young}},
		{Entry: layer.Entry{Path: "up", Mode: fs.ModeSymlink | 0o777, Link: "..", ModTime: old}},
	}
	files[2].Mode, files[3].Mode = fs.ModeSetuid|0o644, fs.ModeSetuid|0o644
	return func(yield func(layer.File, error) bool) {
		for _, f := range files {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// shown are the files below dir: mode and content.
func shown(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + string(data)
		case fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " " + to
		}
		rel, err := filepath.Rel(dir, p)
		got[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWriteFilesLocal(t *testing.T) {
	t.Parallel()
	dest := filepath.Join(t.TempDir(), "new", "out")
	epoch := time.Unix(1_500_000_000, 0)
	if err := (output.Output{Type: output.Local, Dest: dest}).WriteFiles(t.Context(), tree(), &epoch); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc": "drwxr-x---", "etc/a": "urw-r--r-- hello", "etc/b": "urw-r--r-- hello", "up": "Lrwxrwxrwx ..",
	}
	if diff := cmp.Diff(want, shown(t, dest)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
	a, errA := os.Stat(filepath.Join(dest, "etc/a"))
	b, errB := os.Stat(filepath.Join(dest, "etc/b"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Errorf("a hard link became two files: %v, %v", errA, errB)
	}
	if !a.ModTime().Equal(epoch) {
		t.Errorf("etc/a is of %s, want the epoch", a.ModTime())
	}
	if st, ok := a.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		t.Errorf("etc/a belongs to %v", a.Sys())
	}
}

func TestWriteFilesLocalMerges(t *testing.T) {
	t.Parallel()
	dest := t.TempDir()
	for name, content := range map[string]string{"mine": "mine", "etc/a": "old", "etc/mine": "mine"} {
		p := filepath.Join(dest, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := (output.Output{Type: output.Local, Dest: dest}).WriteFiles(t.Context(), tree(), nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc": "drwxr-x---", "etc/a": "urw-r--r-- hello", "etc/b": "urw-r--r-- hello", "up": "Lrwxrwxrwx ..",
		"mine": "-rw------- mine", "etc/mine": "-rw------- mine",
	}
	if diff := cmp.Diff(want, shown(t, dest)); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
}

// TestWriteFilesLocalStaysInside has links where the image has folders: nothing may be written where they lead.
func TestWriteFilesLocalStaysInside(t *testing.T) {
	t.Parallel()
	outside, dest := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dest, "etc")); err != nil {
		t.Fatal(err)
	}
	err := (output.Output{Type: output.Local, Dest: dest}).WriteFiles(t.Context(), tree(), nil)
	if !errors.Is(err, errs.Exists) || errs.HintOf(err) == "" {
		t.Errorf("WriteFiles = %v, want a refusal with a hint", err)
	}
	if got := shown(t, outside); len(got) > 0 {
		t.Errorf("files were written through a link: %v", got)
	}
	if left, err := filepath.Glob(filepath.Join(dest, ".slipway-*")); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

func TestWriteFilesTar(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := (output.Output{Type: output.Tar, Dest: "-", Stdout: &b}).WriteFiles(t.Context(), tree(), nil); err != nil {
		t.Fatal(err)
	}
	got := map[string]byte{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h.Typeflag
	}
	want := map[string]byte{"etc/": tar.TypeDir, "etc/a": tar.TypeReg, "etc/b": tar.TypeLink, "up": tar.TypeSymlink}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tar mismatch (-want +got):\n%s", diff)
	}
}
