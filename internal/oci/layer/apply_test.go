package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// h is a header of a stranger's tar; content goes with regular files.
type h struct {
	tar.Header
	content string
}

func file(name, content string) h {
	return h{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}, content}
}

func folder(name string) h {
	return h{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func link(name, target string) h {
	return h{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) h {
	return h{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// pack makes a tar with archive/tar.
func pack(t testing.TB, files ...h) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// show lists what is in a directory, one line for each file, in the manner of the test tables.
func show(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	for f, err := range layer.Upper(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		line := f.Path
		switch {
		case f.Whiteout:
			line = "-" + line
		case f.Hard:
			line += " = " + f.Link
		case f.Opaque:
			line += "/!"
		case f.IsDir():
			line += "/"
		case f.Mode.Type() == fs.ModeSymlink:
			line += " -> " + f.Link
		case f.IsRegular():
			data, err := os.ReadFile(f.Source)
			if err != nil {
				t.Fatal(err)
			}
			line += ": " + string(data)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestApply(t *testing.T) {
	t.Parallel()
	needRoot(t)
	tests := []struct {
		name  string
		files []h
		want  []string
		// what the layer needs from those below
		implicit, foreign []string
	}{
		{name: "nothing"},
		{name: "the root alone", files: []h{folder("./")}},
		{
			name: "names with dots and slashes", files: []h{folder("./a/"), file("./a/./b", "1"), file("a//c", "2"), file("a/x/../d", "3")},
			want: []string{"a/", "a/b: 1", "a/c: 2", "a/d: 3"},
		},
		{name: "absolute names count from the root", files: []h{folder("/etc"), file("/etc/passwd", "root")}, want: []string{"etc/", "etc/passwd: root"}},
		{name: "parents that nothing lists", files: []h{file("a/b/c", "1")}, want: []string{"a/", "a/b/", "a/b/c: 1"}, implicit: []string{"a", "a/b"}},
		{name: "a parent listed later", files: []h{file("a/b", "1"), folder("a")}, want: []string{"a/", "a/b: 1"}},
		{name: "whiteouts", files: []h{folder("a"), file("a/.wh.b", ""), file(".wh.c", "")}, want: []string{"a/", "-a/b", "-c"}},
		{name: "opaque", files: []h{folder("a"), file("a/.wh..wh..opq", ""), file("a/b", "1")}, want: []string{"a/!", "a/b: 1"}},
		{name: "opaque before its directory", files: []h{file("a/.wh..wh..opq", ""), folder("a")}, want: []string{"a/!"}},
		{name: "AUFS's bookkeeping", files: []h{folder(".wh..wh.plnk"), file(".wh..wh.aufs", "x"), file("a", "1")}, want: []string{"a: 1"}},
		{name: "a whiteout and then the file", files: []h{file(".wh.a", ""), file("a", "1")}, want: []string{"a: 1"}},
		{name: "the file and then its whiteout", files: []h{file("a", "1"), file(".wh.a", "")}, want: []string{"a: 1"}},
		{name: "a whiteout and then the directory", files: []h{file(".wh.a", ""), folder("a"), file("a/b", "1")}, want: []string{"a/!", "a/b: 1"}},
		{name: "the directory and then its whiteout", files: []h{folder("a"), file("a/b", "1"), file(".wh.a", "")}, want: []string{"a/!", "a/b: 1"}},
		{name: "a whiteout and then something in it", files: []h{file(".wh.a", ""), file("a/b", "1")}, want: []string{"a/!", "a/b: 1"}, implicit: []string{"a"}},
		{name: "a whiteout twice", files: []h{file(".wh.a", ""), file(".wh.a", "")}, want: []string{"-a"}},
		{
			name: "the last one counts", files: []h{file("a", "1"), file("a", "2"), link("b", "x"), file("b", "3"), file("c", "4"), link("c", "y")},
			want: []string{"a: 2", "b: 3", "c -> y"},
		},
		{name: "a directory twice keeps its files", files: []h{folder("a"), file("a/b", "1"), folder("a")}, want: []string{"a/", "a/b: 1"}},
		{name: "a file instead of a directory", files: []h{folder("a"), folder("a/b"), file("a/b/c", "1"), file("a", "2")}, want: []string{"a: 2"}},
		{name: "a directory instead of a file", files: []h{file("a", "1"), folder("a"), file("a/b", "2")}, want: []string{"a/!", "a/b: 2"}},
		{
			name: "hard links", files: []h{file("a", "1"), hardlink("b", "a"), hardlink("c", "/b"), folder("d"), hardlink("d/e", "./c")},
			want: []string{"a: 1", "b = a", "c = a", "d/", "d/e = a"},
		},
		{name: "a hard link to a symbolic link", files: []h{link("a", "nowhere"), hardlink("b", "a")}, want: []string{"a -> nowhere", "b = a"}},
		{name: "a hard link to what was replaced", files: []h{file("a", "1"), hardlink("b", "a"), file("a", "2")}, want: []string{"a: 2", "b: 1"}},
		{name: "a hard link to a file below", files: []h{hardlink("b", "a"), file("c", "1")}, want: []string{"c: 1"}, foreign: []string{"b"}},
		{name: "a hard link to what the layer deletes", files: []h{file(".wh.a", ""), hardlink("b", "a")}, want: []string{"-a"}, foreign: []string{"b"}},
		{
			name: "through a symbolic link", files: []h{folder("usr"), folder("usr/lib"), link("lib", "usr/lib"), file("lib/x", "1"), hardlink("y", "lib/x")},
			want: []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x: 1", "y = usr/lib/x"},
		},
		{
			name: "through a symbolic link to nowhere", files: []h{link("a", "b/c"), file("a/x", "1")},
			want: []string{"a -> b/c", "b/", "b/c/", "b/c/x: 1"}, implicit: []string{"b", "b/c"},
		},
		{name: "deep", files: []h{file(strings.Repeat("d/", 300)+"f", "1")}, want: nil, implicit: nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			plain := pack(t, test.files...)
			got, err := layer.Apply(t.Context(), dir, bytes.NewReader(plain), layer.ApplyOptions{Index: true})
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(test.name, "deep") {
				if len(got.Implicit) != 300 {
					t.Errorf("%d directories, want 300", len(got.Implicit))
				}
				return
			}
			if diff := cmp.Diff(test.want, show(t, dir)); diff != "" {
				t.Errorf("files mismatch (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.implicit, got.Implicit); diff != "" {
				t.Errorf("implicit mismatch (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.foreign, got.Foreign); diff != "" {
				t.Errorf("foreign mismatch (-want +got)\n%s", diff)
			}
			if got.DiffID != digest.FromBytes(plain) || got.Bytes != int64(len(plain)) {
				t.Errorf("Apply = %s of %d bytes, want %s of %d", got.DiffID, got.Bytes, digest.FromBytes(plain), len(plain))
			}
			if got.Dependent() != (len(test.implicit)+len(test.foreign) > 0) {
				t.Errorf("Dependent() = %v", got.Dependent())
			}
			sameIndex(t, dir, got.Index)
		})
	}
}

// sameIndex checks an index against the directory that was made with it.
func sameIndex(t *testing.T, dir string, x *layer.Index) {
	t.Helper()
	n := 0
	for f, err := range layer.Upper(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		e, ok := x.Lookup(f.Path)
		if n++; !ok || e.Hard != f.Hard || e.Link != f.Link || e.Whiteout != f.Whiteout || e.Opaque != f.Opaque || !e.Whiteout && (e.Mode != f.Mode || e.Size != f.Size) {
			t.Errorf("index has %+v, %v; the directory has %+v", e, ok, f.Entry)
		}
	}
	if _, ok := x.Lookup("."); ok {
		n++
	}
	if x.Len() != n {
		t.Errorf("index has %d entries, the directory %d", x.Len(), n)
	}
}

// TestApplyAttributes checks what a file has besides its content.
func TestApplyAttributes(t *testing.T) {
	t.Parallel()
	needRoot(t)
	at := time.Unix(1234567890, 123456789)
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	su := h{tar.Header{
		Typeflag: tar.TypeReg, Name: "su", Size: 2, Mode: 0o4755, Uid: 1000, Gid: 42, ModTime: at, Format: tar.FormatPAX,
		PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.note": "a=b", "SCHILY.xattr.trusted.overlay.redirect": "/etc",
			"SCHILY.xattr.user.overlay.opaque": "y",
		},
	}, "su"}
	tmp := h{Header: tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777, Uid: 7, ModTime: at.Truncate(time.Second)}}
	null := h{Header: tar.Header{Typeflag: tar.TypeChar, Name: "tmp/null", Mode: 0o666, Devmajor: 1, Devminor: 3}}
	pipe := h{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "tmp/pipe", Mode: 0o622}}
	root := h{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711}}
	dir := t.TempDir()
	if _, err := layer.Apply(t.Context(), dir, bytes.NewReader(pack(t, root, su, tmp, null, pipe)), layer.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path string
		want layer.Entry
	}{
		{"su", layer.Entry{Mode: fs.ModeSetuid | 0o755, UID: 1000, GID: 42, Size: 2, ModTime: at, Xattrs: map[string]string{"security.capability": caps, "user.note": "a=b"}}},
		{"tmp", layer.Entry{Mode: fs.ModeDir | fs.ModeSticky | 0o777, UID: 7, ModTime: at.Truncate(time.Second)}},
		{"tmp/null", layer.Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3, ModTime: time.Unix(0, 0)}},
		{"tmp/pipe", layer.Entry{Mode: fs.ModeNamedPipe | 0o622, ModTime: time.Unix(0, 0)}},
		{".", layer.Entry{Mode: fs.ModeDir | 0o711, ModTime: time.Unix(0, 0)}},
	}
	for _, test := range tests {
		got, err := layer.ReadNode(dir, test.path)
		if err != nil {
			t.Fatal(err)
		}
		test.want.Path = test.path
		if diff := cmp.Diff(test.want, got.Entry); diff != "" {
			t.Errorf("%s mismatch (-want +got)\n%s", test.path, diff)
		}
	}
	if n, err := unix.Llistxattr(filepath.Join(dir, "tmp"), make([]byte, 100)); n != 0 || err != nil {
		t.Errorf("tmp has extended attributes: %d bytes, %v", n, err)
	}
}

// TestApplyBelow checks that a layer which leans on those below gets what it needs of them.
func TestApplyBelow(t *testing.T) {
	t.Parallel()
	needRoot(t)
	below := map[string]layer.File{
		"a":     {Entry: layer.Entry{Path: "a", Mode: fs.ModeDir | fs.ModeSticky | 0o700, UID: 5, ModTime: time.Unix(99, 0), Opaque: true}},
		"file":  reg("file", "from below"),
		"long":  reg("long", strings.Repeat("below", 100_000)),
		"lib":   symlink("lib", "usr/lib"),
		"link":  symlink("link", "nowhere"),
		"a/dir": dir("a/dir"),
	}
	opts := layer.ApplyOptions{Index: true, Below: func(path string) (layer.Entry, io.ReadCloser, error) {
		f, ok := below[path]
		if !ok {
			return layer.Entry{}, nil, fmt.Errorf("%s: %w", path, errs.NotFound)
		}
		if f.Open == nil {
			return f.Entry, nil, nil
		}
		r, err := f.Open()
		return f.Entry, r, err
	}}
	dir := t.TempDir()
	got, err := layer.Apply(t.Context(), dir, bytes.NewReader(pack(t, file("a/b/x", "1"), hardlink("copy", "file"), hardlink("copy2", "long"),
		hardlink("also", "copy"), hardlink("sym", "link"), file("lib/x", "2"))), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a/", "a/b/", "a/b/x: 1", "also: from below", "copy = also", "copy2: " + strings.Repeat("below", 100_000), "lib/", "lib/x: 2", "sym -> nowhere"}
	if diff := cmp.Diff(want, show(t, dir)); diff != "" {
		t.Errorf("files mismatch (-want +got)\n%s", diff)
	}
	if n, err := layer.ReadNode(dir, "a"); err != nil || n.Mode != below["a"].Mode || n.UID != 5 || n.ModTime.Unix() != 99 || n.Opaque {
		t.Errorf("a = %+v, %v; want it as below, but not opaque", n, err)
	}
	if diff := cmp.Diff([]string{"a", "a/b", "lib"}, got.Implicit); diff != "" {
		t.Errorf("implicit mismatch (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"copy", "copy2", "sym"}, got.Foreign); diff != "" {
		t.Errorf("foreign mismatch (-want +got)\n%s", diff)
	}
	for _, bad := range []string{"missing", "a/dir"} {
		_, err := layer.Apply(t.Context(), t.TempDir(), bytes.NewReader(pack(t, hardlink("x", bad))), opts)
		if err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("a hard link to %s: %v, want an error", bad, err)
		}
	}
}

// sparse is a tar whose header claims 10 GiB, of which 512 bytes are there (PAX 1.0 sparse format).
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	list := fmt.Sprintf("1\n%d\n0\n", size)
	data := list + strings.Repeat("\x00", 512-len(list))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// archive/tar does not write sparse files, so the records are put into a file that is not, under another name.
	hdr := tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/big", Size: int64(len(data)), Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "big", "XXX.sparse.realsize": fmt.Sprint(size),
	}}
	if err := w.WriteHeader(&hdr); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))
}

func TestApplySparse(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	const size = 1 << 28
	if _, err := layer.Apply(t.Context(), dir, bytes.NewReader(sparse(t, size)), layer.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "big"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks > 100 {
		t.Errorf("size is %d with %d blocks, want %d and next to none", st.Size, st.Blocks, size)
	}
	opts := layer.ApplyOptions{MaxBytes: size - 1}
	if _, err := layer.Apply(t.Context(), t.TempDir(), bytes.NewReader(sparse(t, size)), opts); !errors.Is(err, errs.Limit) {
		t.Errorf("beyond the limit: %v, want limit", err)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	truncated := pack(t, file("a", strings.Repeat("x", 5000)))[:2000]
	loop := []h{link("a", "b"), link("b", "a"), file("a/x", "1")}
	tests := []struct {
		name string
		tar  []byte
		opts layer.ApplyOptions
		kind error
		text string
	}{
		{"a parent", pack(t, file("../x", "1")), layer.ApplyOptions{}, errs.Corrupt, `"../x" leads out of the layer`},
		{"a parent further in", pack(t, file("a/../../x", "1")), layer.ApplyOptions{}, errs.Corrupt, "leads out"},
		{"an absolute parent", pack(t, file("/../x", "1")), layer.ApplyOptions{}, errs.Corrupt, "leads out"},
		{"only a parent", pack(t, folder("..")), layer.ApplyOptions{}, errs.Corrupt, "leads out"},
		{"a hard link to a parent", pack(t, hardlink("x", "../../etc/shadow")), layer.ApplyOptions{}, errs.Corrupt, "leads out"},
		{"a hard link to a directory", pack(t, folder("d"), hardlink("x", "d")), layer.ApplyOptions{}, errs.Corrupt, "directory"},
		{"a file in a file", pack(t, file("a", "1"), file("a/b", "2")), layer.ApplyOptions{}, unix.ENOTDIR, "a/b"},
		{"a loop of links", pack(t, loop...), layer.ApplyOptions{}, unix.ELOOP, "a/x"},
		{"a root that is a link", pack(t, link(".", "x")), layer.ApplyOptions{}, errs.Corrupt, "root"},
		{"a name that is too long", pack(t, file(strings.Repeat("n", 256), "")), layer.ApplyOptions{}, unix.ENAMETOOLONG, "nnn"},
		{"a path that is too long", pack(t, file(strings.Repeat("n/", 2100)+"f", "")), layer.ApplyOptions{}, errs.Corrupt, "4095"},
		{"a whiteout of nothing", pack(t, file("a/.wh.", "")), layer.ApplyOptions{}, errs.Corrupt, "no name"},
		{"a whiteout of a parent", pack(t, file("a/.wh...", "")), layer.ApplyOptions{}, errs.Corrupt, "no name"},
		{"an unknown type", pack(t, h{Header: tar.Header{Typeflag: 'Q', Name: "x"}}), layer.ApplyOptions{}, errs.Corrupt, "'Q'"},
		{"too many entries", pack(t, file("a", ""), file("b", ""), file("c", "")), layer.ApplyOptions{MaxEntries: 2}, errs.Limit, "2 entries"},
		{"too many bytes", pack(t, file("a", "12"), file("b", "34")), layer.ApplyOptions{MaxBytes: 3}, errs.Limit, "3 bytes"},
		{"truncated", truncated, layer.ApplyOptions{}, errs.Corrupt, `"a"`},
		{"no tar", []byte(strings.Repeat("no tar ", 1000)), layer.ApplyOptions{}, errs.Corrupt, "header"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "layer")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := layer.Apply(t.Context(), dir, bytes.NewReader(test.tar), test.opts)
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Apply: %v, want %v with %q", err, test.kind, test.text)
			}
			if files, err := os.ReadDir(parent); err != nil || len(files) != 1 {
				t.Errorf("PATH ESCAPE: %v, %v", files, err)
			}
		})
	}
}

// TestApplySymlinkEscape makes links that lead to a directory of this machine and writes through them.
func TestApplySymlinkEscape(t *testing.T) {
	t.Parallel()
	needRoot(t)
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40) + outside[1:]
	for name, files := range map[string][]h{
		"absolute":              {link("l", outside), file("l/victim", "changed"), file("l/new", "1")},
		"relative":              {link("l", up), file("l/victim", "changed"), file("l/new", "1")},
		"of two":                {link("a", "b"), link("b", outside), file("a/victim", "changed"), folder("a/new")},
		"a directory turned":    {folder("l"), link("l", outside), file("l/victim", "changed")},
		"the file itself":       {link("l", victim), file("l", "changed")},
		"a hard link":           {link("l", outside), hardlink("x", "l/victim"), file("x", "changed")},
		"a hard link to a link": {link("l", victim), hardlink("x", "l"), file("x", "changed")},
		"a whiteout":            {link("l", outside), file("l/.wh.victim", "")},
		"an opaque directory":   {link("l", outside), file("l/.wh..wh..opq", "")},
		"a directory's mode":    {link("l", outside), h{Header: tar.Header{Typeflag: tar.TypeDir, Name: "l/", Mode: 0o777}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if _, err := layer.Apply(t.Context(), dir, bytes.NewReader(pack(t, files...)), layer.ApplyOptions{}); err != nil {
				t.Logf("refused: %v", err)
			}
			got, err := os.ReadFile(victim)
			names, derr := os.ReadDir(outside)
			info, serr := os.Stat(outside)
			if err := errors.Join(err, derr, serr); err != nil {
				t.Fatal(err)
			}
			if string(got) != "untouched" || len(names) != 1 || info.Mode().Perm() == 0o777 {
				t.Errorf("HOST PATH WAS CHANGED: %q, %v, %v", got, names, info.Mode())
			}
		})
	}
}

func TestApplyStops(t *testing.T) {
	t.Parallel()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := layer.Apply(ctx, t.TempDir(), bytes.NewReader(pack(t, file("a", "1"))), layer.ApplyOptions{}); !errors.Is(err, cause) {
		t.Errorf("Apply, canceled: %v, want %v", err, cause)
	}
	broken := io.MultiReader(bytes.NewReader(pack(t, file("a", strings.Repeat("1", 5000)))[:3000]), errorReader{io.ErrClosedPipe})
	if _, err := layer.Apply(t.Context(), t.TempDir(), broken, layer.ApplyOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Apply of a broken stream: %v, want %v", err, io.ErrClosedPipe)
	}
	late := io.MultiReader(bytes.NewReader(pack(t, file("a", "1"))), errorReader{io.ErrClosedPipe})
	if _, err := layer.Apply(t.Context(), t.TempDir(), late, layer.ApplyOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Apply of a stream that breaks after the tar: %v, want %v", err, io.ErrClosedPipe)
	}
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// TestExtract checks what differs in an archive that is no layer.
func TestExtract(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	if _, err := layer.Extract(t.Context(), dir, bytes.NewReader(pack(t, file("a", "1"))), layer.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a: 1"}, show(t, dir)); diff != "" {
		t.Errorf("files mismatch (-want +got)\n%s", diff)
	}
	if _, err := layer.Extract(t.Context(), t.TempDir(), bytes.NewReader(pack(t, file("d/.wh.a", ""))), layer.ApplyOptions{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a name that begins with .wh.: %v, want invalid", err)
	}
}

// FuzzApply feeds Apply a stranger's bytes. Whatever they are, nothing may change outside the directory.
func FuzzApply(f *testing.F) {
	f.Add(pack(f, folder("a"), file("a/b", "1"), link("l", "../.."), file("l/x", "2"), hardlink("h", "a/b"), file(".wh.q", "")))
	f.Add(pack(f, link("a", "/"), file("a/../../x", "1")))
	f.Add(pack(f, file("a/.wh..wh..opq", ""), h{Header: tar.Header{Typeflag: tar.TypeChar, Name: "n", Devmajor: 1, Devminor: 3}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if os.Geteuid() != 0 {
			t.Skip("makes devices: needs root")
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "layer")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(parent, "x"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		res, err := layer.Apply(t.Context(), dir, bytes.NewReader(data), layer.ApplyOptions{MaxBytes: 1 << 20, MaxEntries: 1000, Index: true})
		files, derr := os.ReadDir(parent)
		info, serr := os.Stat(filepath.Join(parent, "x"))
		if derr != nil || serr != nil || len(files) != 2 || info.Size() != 0 || info.Mode() != 0o600 {
			t.Fatalf("PATH ESCAPE: %v, %v, %v", files, derr, serr)
		}
		if err != nil {
			return
		}
		if res.DiffID != digest.FromBytes(data) {
			t.Errorf("diffID is %s, want %s", res.DiffID, digest.FromBytes(data))
		}
		sameIndex(t, dir, res.Index)
	})
}

// A layer whose stream breaks is not what a damaged layer is: it may be whole the next time.
func TestApplyBrokenStream(t *testing.T) {
	t.Parallel()
	tarball := pack(t, file("file", strings.Repeat("content ", 100_000)))
	broken := errs.Mark(fmt.Errorf("read from afar: %w", io.ErrUnexpectedEOF), errs.Unavailable)
	for _, n := range []int{0, 100, 512, 1000, 600_000} {
		plain, err := layer.Decompress(io.MultiReader(bytes.NewReader(tarball[:n]), iotest.ErrReader(broken)))
		if err == nil {
			_, err = layer.Apply(t.Context(), t.TempDir(), plain, layer.ApplyOptions{})
		}
		if !errors.Is(err, errs.Unavailable) || errors.Is(err, errs.Corrupt) || !strings.HasSuffix(err.Error(), "decompress: "+broken.Error()) {
			t.Errorf("broken after %d bytes: %v, want %v as it is", n, err, broken)
		}
	}
}
