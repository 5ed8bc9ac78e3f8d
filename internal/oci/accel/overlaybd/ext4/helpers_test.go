package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/oci/accel/overlaybd/ext4"
	"slipway/internal/oci/layer"
)

// disk is a device in memory: layers of blocks, the last of which is written to.
type disk struct{ layers []map[int64][]byte }

func (d *disk) push() { d.layers = append(d.layers, map[int64][]byte{}) }

// written returns how many blocks the last layer has.
func (d *disk) written() int { return len(d.layers[len(d.layers)-1]) }

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if off%ext4.BlockSize != 0 || len(p)%ext4.BlockSize != 0 {
		return 0, fmt.Errorf("write of %d bytes at %d", len(p), off)
	}
	top := d.layers[len(d.layers)-1]
	for i := 0; i < len(p); i += ext4.BlockSize {
		b := (off + int64(i)) / ext4.BlockSize
		if top[b] != nil {
			return i, fmt.Errorf("block %d is written twice", b)
		}
		top[b] = bytes.Clone(p[i : i+ext4.BlockSize])
	}
	return len(p), nil
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		skip := int(at % ext4.BlockSize)
		length := min(len(p)-n, ext4.BlockSize-skip)
		clear(p[n : n+length])
		for _, l := range slices.Backward(d.layers) {
			if b := l[at/ext4.BlockSize]; b != nil {
				copy(p[n:n+length], b[skip:])
				break
			}
		}
		n += length
	}
	return len(p), nil
}

// flat returns a file with what is on the disk.
func (d *disk) flat(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range d.layers {
		for b, data := range l {
			if _, err := f.WriteAt(data, b*ext4.BlockSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// apply puts one more layer on a disk.
func apply(ctx context.Context, d *disk, layer []byte) (*ext4.FS, error) {
	f := ext4.New([16]byte{7})
	if len(d.layers) > 0 {
		var err error
		if f, err = ext4.Open(d); err != nil {
			return nil, err
		}
	}
	d.push()
	if err := f.Apply(ctx, bytes.NewReader(layer), d); err != nil {
		return nil, err
	}
	return f, f.Flush(d)
}

// build makes a disk of layers.
func build(t testing.TB, layers ...[]byte) (*disk, int64) {
	t.Helper()
	d := &disk{}
	var size int64
	for i, l := range layers {
		f, err := apply(t.Context(), d, l)
		if err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		size = f.Size()
	}
	return d, size
}

// entry is an entry of a tar.
type entry struct {
	tar.Header
	content []byte
}

var stamp = time.Unix(1_700_000_000, 123_456_789)

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		hdr := e.Header
		hdr.Size, hdr.Format = int64(len(e.content)), tar.FormatPAX
		if hdr.ModTime.IsZero() {
			hdr.ModTime = stamp
		}
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content)}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func whiteout(name string) entry {
	parent, base := filepath.Split(name)
	return file(parent+".wh."+base, "")
}

func opaque(name string) entry { return file(name+"/.wh..wh..opq", "") }

// files reads all files of a disk.
func files(t testing.TB, d *disk) []layer.File {
	t.Helper()
	f, err := ext4.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	var all []layer.File
	for file, err := range f.Files() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, file)
	}
	return all
}

func content(t testing.TB, f layer.File) []byte {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", f.Path, err)
	}
	return data
}

// describe returns a line for each file.
func describe(t testing.TB, d *disk) []string {
	t.Helper()
	var lines []string
	for _, f := range files(t, d) {
		s := f.Path
		switch {
		case f.Hard:
			s += " = " + f.Link
		case f.Mode.Type() == fs.ModeSymlink:
			s += " -> " + f.Link
		case f.IsDir():
			s += "/"
		case f.IsRegular():
			s += fmt.Sprintf(" %q", content(t, f))
		default:
			s += fmt.Sprintf(" %s %d:%d", f.Mode.Type(), f.Major, f.Minor)
		}
		if f.Path == "." {
			continue
		}
		if f.Mode.Perm() != 0o755 && f.IsDir() {
			s += fmt.Sprintf(" %o", f.Mode.Perm())
		}
		for _, key := range slices.Sorted(maps.Keys(f.Xattrs)) {
			s += " " + key
		}
		lines = append(lines, s)
	}
	return lines
}

// fsck lets e2fsck look for mistakes.
func fsck(t testing.TB, d *disk, size int64) {
	t.Helper()
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Skip("needs e2fsck (e2fsprogs)")
	}
	out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", d.flat(t, size)).CombinedOutput()
	text := string(out)
	if err != nil || strings.Contains(text, "no\n") || strings.Contains(text, "WARNING") {
		t.Errorf("e2fsck: %v\n%s", err, text)
	}
}
