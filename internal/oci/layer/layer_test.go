package layer_test

import (
	"bytes"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/oci/layer"
)

// needRoot skips tests that make devices, owners and trusted attributes.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("whiteouts are devices: needs root")
	}
}

// reg, dir and the like make files of a layer.
func reg(name, content string) layer.File {
	return layer.File{
		Entry: layer.Entry{Path: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)},
		Open:  func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil },
	}
}

func dir(name string) layer.File {
	return layer.File{Entry: layer.Entry{Path: name, Mode: fs.ModeDir | 0o755, ModTime: time.Unix(1e9, 0)}}
}

func symlink(name, target string) layer.File {
	return layer.File{Entry: layer.Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Link: target, ModTime: time.Unix(1e9, 0)}}
}

func hard(name, first string) layer.File {
	f := reg(name, "")
	f.Hard, f.Link, f.Open = true, first, nil
	return f
}

func whiteout(name string) layer.File {
	return layer.File{Entry: layer.Entry{Path: name, Whiteout: true}}
}

func seq(files ...layer.File) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for _, f := range files {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// write returns the plain tar of files.
func write(t *testing.T, files iter.Seq2[layer.File, error]) []byte {
	t.Helper()
	var buf bytes.Buffer
	opts := layer.Options{Compression: layer.Compression{Algorithm: "none"}}
	if _, err := layer.Write(t.Context(), &buf, files, opts); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// everything is a layer with a file of each sort.
func everything(t *testing.T) []layer.File {
	t.Helper()
	opaque := dir("opaque")
	opaque.Opaque = true
	owned := reg("etc/shadow", strings.Repeat("x", 3000))
	owned.UID, owned.GID, owned.Mode = 1000, 42, 0o600
	suid := reg("etc/sudo", "#!")
	suid.Mode = fs.ModeSetuid | 0o755
	caps := reg("etc/ping", "elf")
	caps.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.a": "b=c\n"}
	null := layer.File{Entry: layer.Entry{Path: "etc/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3, ModTime: time.Unix(5, 0)}}
	fifo := layer.File{Entry: layer.Entry{Path: "etc/pipe", Mode: fs.ModeNamedPipe | 0o640, ModTime: time.Unix(6, 0)}}
	sticky := dir("tmp")
	sticky.Mode = fs.ModeDir | fs.ModeSticky | 0o777
	long := strings.Repeat("long/", 40)
	files := []layer.File{dir("etc"), reg("etc/a", ""), null, caps, fifo, owned, suid, hard("etc/zsh", "etc/a")}
	for i := 5; i <= len(long); i += 5 {
		files = append(files, dir(long[:i-1]))
	}
	files = append(files, reg(long+"ünïcode", "hi"), opaque, reg("opaque/new", "n"), symlink("sym", "/etc/../a"), sticky, whiteout("var"))
	return files
}

func entries(t *testing.T, files iter.Seq2[layer.File, error]) []layer.Entry {
	t.Helper()
	var out []layer.Entry
	for f, err := range files {
		if err != nil {
			t.Fatal(err)
		}
		if f.Whiteout {
			f.Entry = layer.Entry{Path: f.Path, Whiteout: true}
		}
		out = append(out, f.Entry)
	}
	return out
}

// TestRoundTrip checks that Place and Apply make the same directory, and that Upper reads back what was written.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	needRoot(t)
	files := everything(t)
	want := entries(t, seq(files...))
	sameTimes := cmp.Options{cmpopts.EquateApproxTime(0), cmpopts.EquateEmpty()}

	placed := t.TempDir()
	if err := layer.Place(t.Context(), placed, seq(files...), layer.PlaceOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, entries(t, layer.Upper(t.Context(), placed)), sameTimes); diff != "" {
		t.Errorf("Place, Upper mismatch (-want +got)\n%s", diff)
	}
	plain := write(t, layer.Upper(t.Context(), placed))
	if again := write(t, seq(files...)); !bytes.Equal(plain, again) {
		t.Error("the tar of the directory differs from the tar of its files")
	}
	applied := t.TempDir()
	res, err := layer.Apply(t.Context(), applied, bytes.NewReader(plain), layer.ApplyOptions{Index: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, entries(t, layer.Upper(t.Context(), applied)), sameTimes); diff != "" {
		t.Errorf("Apply, Upper mismatch (-want +got)\n%s", diff)
	}
	if res.Dependent() || len(res.Skipped) > 0 || res.Entries != len(want) {
		t.Errorf("Apply = %+v, want %d entries and nothing else", res, len(want))
	}
	for _, e := range want {
		got, ok := res.Index.Lookup(e.Path)
		if e.Hard {
			e.Size, e.Mode = got.Size, got.Mode
		}
		if diff := cmp.Diff(e, got, sameTimes); !ok || diff != "" {
			t.Errorf("Index.Lookup(%s) mismatch (-want +got)\n%s", e.Path, diff)
		}
	}
}
