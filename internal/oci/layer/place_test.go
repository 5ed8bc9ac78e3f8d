package layer_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

func place(t *testing.T, files ...layer.File) string {
	t.Helper()
	dir := t.TempDir()
	if err := layer.Place(t.Context(), dir, seq(files...), layer.PlaceOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPlaceSources copies files of this machine of all lengths, with and without holes.
func TestPlaceSources(t *testing.T) {
	t.Parallel()
	needRoot(t)
	from := t.TempDir()
	var files []layer.File
	want := map[string][]byte{}
	for _, size := range []int{0, 1, 1000, 64 << 10, 64<<10 + 1, 300_000, 20 << 20} {
		f := reg("f"+strings.Repeat("x", len(files)), "")
		f.Size, f.Open, f.Source = int64(size), nil, filepath.Join(from, f.Path)
		want[f.Path] = bytes.Repeat([]byte("0123456"), size/7+1)[:size]
		if err := os.WriteFile(f.Source, want[f.Path], 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	holes := reg("holes", "")
	holes.Size, holes.Open, holes.Source = 64<<20, nil, filepath.Join(from, "holes")
	if err := errors.Join(os.WriteFile(holes.Source, []byte("start"), 0o600), os.Truncate(holes.Source, holes.Size)); err != nil {
		t.Fatal(err)
	}
	dir := place(t, append(files, holes)...)
	for name, data := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s has %d bytes, %v; want %d", name, len(got), err, len(data))
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "holes"), &st); err != nil || st.Size != holes.Size || st.Blocks > 1000 {
		t.Errorf("holes: size %d, %d blocks, %v; want %d bytes and few blocks", st.Size, st.Blocks, err, holes.Size)
	}
}

// TestPlaceOrder checks that files may come without their parents, several times, and as hard links.
func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := place(t, reg("a/b", "1"), reg("a/b", "2"), hard("c", "a/b"), dir("a"), whiteout("d"), reg("d", "3"), whiteout("e/f"))
	want := []string{"a/", "a/b: 2", "c = a/b", "d: 3", "e/", "-e/f"}
	if diff := cmp.Diff(want, show(t, dir)); diff != "" {
		t.Errorf("mismatch (-want +got)\n%s", diff)
	}
}

func TestPlaceEpoch(t *testing.T) {
	t.Parallel()
	needRoot(t)
	target := t.TempDir()
	f := reg("d/f", "")
	f.ModTime = time.Unix(500, 600)
	d := dir("d")
	d.ModTime = time.Unix(50, 60)
	epoch := time.Unix(100, 0)
	if err := layer.Place(t.Context(), target, seq(d, f), layer.PlaceOptions{Epoch: &epoch}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"d": 50, "d/f": 100} {
		if info, err := os.Stat(filepath.Join(target, name)); err != nil || !info.ModTime().Equal(time.Unix(want, 0)) {
			t.Errorf("%s has time %v, %v; want %d", name, info.ModTime(), err, want)
		}
	}
}

func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ten := filepath.Join(t.TempDir(), "ten")
	if err := os.WriteFile(ten, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	sized := func(size int64) layer.File {
		f := reg("app/x", "")
		f.Size, f.Source, f.Open = size, ten, nil
		return f
	}
	through := symlink("l", t.TempDir())
	tests := []struct {
		name  string
		files []layer.File
		kind  error
		text  string
	}{
		{"parent", []layer.File{reg("../x", "")}, errs.Invalid, "../x"},
		{"absolute", []layer.File{reg("/x", "")}, errs.Invalid, "/x"},
		{"whiteout name", []layer.File{reg("a/.wh.x", "")}, errs.Invalid, ".wh.x"},
		{"shrank", []layer.File{sized(11)}, errs.Conflict, "app/x: file shrank"},
		{"grew", []layer.File{sized(9)}, errs.Conflict, "app/x: file grew"},
		{"large shrank", []layer.File{sized(100_000)}, errs.Conflict, "app/x: file shrank"},
		{"hard link to nothing", []layer.File{hard("a", "b")}, errs.NotFound, "a: hard link to b"},
		{"in a file", []layer.File{reg("a", ""), reg("a/b", "")}, unix.ENOTDIR, "a/b"},
		{"escape through a link", []layer.File{through, reg("l/../../x", "")}, errs.Invalid, "l/../../x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := layer.Place(t.Context(), t.TempDir(), seq(test.files...), layer.PlaceOptions{})
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Place: %v, want %v with %q", err, test.kind, test.text)
			}
		})
	}
}

// TestUpperOfMount has the kernel write an upper directory and reads it.
func TestUpperOfMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	lower := place(t, dir("etc"), reg("etc/a", "a"), reg("etc/b", "b"), dir("old"), reg("old/x", "x"), reg("big", strings.Repeat("b", 5000)), dir("keep"), reg("keep/y", "y"))
	upper, work, merged := t.TempDir(), t.TempDir(), t.TempDir()
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Skipf("cannot mount an overlay: %v", err)
	}
	at := func(name string) string { return filepath.Join(merged, name) }
	l, lerr := net.Listen("unix", at("socket"))
	err := errors.Join(
		lerr,
		os.Remove(at("etc/a")),
		os.WriteFile(at("etc/b"), []byte("changed"), 0o644),
		os.RemoveAll(at("old")),
		os.Mkdir(at("old"), 0o755),
		os.WriteFile(at("old/new"), []byte("n"), 0o644),
		os.Chmod(at("big"), 0o600),
		os.Symlink("etc/b", at("link")),
		os.Link(at("etc/b"), at("z")),
		unix.Setxattr(at("z"), "user.mine", []byte("v"), 0),
		unix.Unmount(merged, unix.MNT_DETACH),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := []string{"big: " + strings.Repeat("b", 5000), "etc/", "-etc/a", "etc/b: changed", "link -> etc/b", "old/!", "old/new: n", "z = etc/b"}
	if diff := cmp.Diff(want, show(t, upper)); diff != "" {
		t.Errorf("mismatch (-want +got)\n%s", diff)
	}
	for f, err := range layer.Upper(t.Context(), upper) {
		if err != nil {
			t.Fatal(err)
		}
		for name := range f.Xattrs {
			if strings.Contains(name, "overlay") {
				t.Errorf("%s: the overlay's own attribute %s shows", f.Path, name)
			}
		}
		if f.Path == "etc/b" && f.Xattrs["user.mine"] != "v" {
			t.Errorf("etc/b has attributes %v, want user.mine", f.Xattrs)
		}
	}
}

func TestUpperRefuses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, attr := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy"} {
		upper := place(t, dir("moved"))
		if err := unix.Setxattr(filepath.Join(upper, "moved"), attr, []byte("/old"), 0); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range layer.Upper(t.Context(), upper) {
			last = err
		}
		if !errors.Is(last, errs.Invalid) || !strings.Contains(last.Error(), "moved") {
			t.Errorf("Upper of a directory with %s: %v, want invalid", attr, last)
		}
	}
	for _, err := range layer.Upper(t.Context(), filepath.Join(t.TempDir(), "missing")) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Upper of nothing: %v, want not exist", err)
		}
	}
}
