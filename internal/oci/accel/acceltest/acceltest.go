// Package acceltest is the suite that every accel.Format passes, and layers to try formats on.
package acceltest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
)

// Test runs the suite. Each call of open returns the format with the same settings.
func Test(t *testing.T, open func(*testing.T) accel.Format) {
	t.Helper()
	t.Run("says who it is", func(t *testing.T) { names(t, open) })
	t.Run("describes what it wrote", func(t *testing.T) { describes(t, open(t)) })
	t.Run("same bytes on any number of processors", func(t *testing.T) { deterministic(t, open) })
	t.Run("an empty layer", func(t *testing.T) { emptyLayer(t, open(t)) })
	t.Run("a tar that ends early", func(t *testing.T) { endsEarly(t, open(t)) })
	t.Run("what is no tar", func(t *testing.T) { noTar(t, open(t)) })
	t.Run("a tar that cannot be read", func(t *testing.T) { readFails(t, open(t)) })
	t.Run("a blob that cannot be written", func(t *testing.T) { writeFails(t, open(t)) })
	t.Run("canceled", func(t *testing.T) { canceled(t, open(t)) })
}

// Layers are the plain tars of two layers of an image: every kind of file, then changes to them.
func Layers(tb testing.TB) [][]byte {
	tb.Helper()
	return [][]byte{pack(tb, lower()), pack(tb, upper())}
}

// Files is the plain tar of a layer with regular files.
func Files(tb testing.TB, contents map[string]string) []byte {
	tb.Helper()
	var files []file
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		files = append(files, file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(contents[name])})
	}
	return pack(tb, files)
}

// Link is the plain tar of a layer with one hard link.
func Link(tb testing.TB, name, target string) []byte {
	tb.Helper()
	return pack(tb, []file{{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}})
}

// Stacks are all that a format is given to convert an image with these layers, without Below.
func Stacks(f accel.Format, tars [][]byte) []accel.Stack {
	var stacks []accel.Stack
	for i := range tars {
		var s accel.Stack
		for _, data := range tars[:i+1] {
			s.Tars = append(s.Tars, FromBytes(data))
		}
		if !f.Stacked() {
			s.Tars = s.Tars[i:]
		}
		stacks = append(stacks, s)
	}
	return stacks
}

// FromBytes is a tar in memory.
func FromBytes(data []byte) accel.Tar {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// Convert converts layers as an image's, and returns the blobs with what was said of them.
func Convert(tb testing.TB, f accel.Format, tars [][]byte) (layers []accel.Layer, blobs [][]byte) {
	tb.Helper()
	var below []accel.Converted
	for i, s := range Stacks(f, tars) {
		if f.Stacked() {
			s.Below = below
		}
		var out bytes.Buffer
		l, err := f.Convert(tb.Context(), &out, s)
		if err != nil {
			tb.Fatalf("convert layer %d: %v", i, err)
		}
		layers, blobs = append(layers, l), append(blobs, out.Bytes())
		below = append(below, accel.Converted{Layer: l, Open: func(context.Context) (accel.Blob, error) {
			return inMemory{bytes.NewReader(out.Bytes())}, nil
		}})
	}
	return layers, blobs
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

func names(t *testing.T, open func(*testing.T) accel.Format) {
	a, b := open(t), open(t)
	if a.Name() == "" || a.Settings() == "" {
		t.Errorf("name %q, settings %q: want both", a.Name(), a.Settings())
	}
	if a.Name() != b.Name() || a.Settings() != b.Settings() || a.Stacked() != b.Stacked() {
		t.Error("the same format says two things of itself")
	}
}

func describes(t *testing.T, f accel.Format) {
	layers, blobs := Convert(t, f, Layers(t))
	m := oci.NewManifest(oci.Descriptor{}, nil, nil)
	for i, l := range layers {
		if got := digest.FromBytes(blobs[i]); l.Descriptor.Digest != got {
			t.Errorf("layer %d: digest %s, wrote %s", i, l.Descriptor.Digest, got)
		}
		if l.Descriptor.Size != int64(len(blobs[i])) {
			t.Errorf("layer %d: size %d, wrote %d", i, l.Descriptor.Size, len(blobs[i]))
		}
		if l.Descriptor.MediaType == "" {
			t.Errorf("layer %d has no media type", i)
		}
		if err := l.DiffID.Validate(); err != nil {
			t.Errorf("layer %d: diffID %q: %v", i, l.DiffID, err)
		}
		m.Layers = append(m.Layers, l.Descriptor)
		if r, ok := f.(accel.Rereader); !f.Is(l.Descriptor) && !(ok && r.Rereads()) {
			t.Errorf("layer %d: does not know its own", i)
		}
	}
	if f.Is(oci.Descriptor{MediaType: oci.MediaTypeLayerGzip, Digest: digest.FromString("")}) {
		t.Error("takes a plain layer for one of its own")
	}
	f.Finish(&m)
	if len(m.Layers) != len(layers) {
		t.Errorf("Finish left %d layers of %d", len(m.Layers), len(layers))
	}
}

func deterministic(t *testing.T, open func(*testing.T) accel.Format) {
	tars := Layers(t)
	want, wantBlobs := Convert(t, open(t), tars)
	for _, procs := range []int{1, 2, 7} {
		before := runtime.GOMAXPROCS(procs)
		got, blobs := Convert(t, open(t), tars)
		runtime.GOMAXPROCS(before)
		for i := range want {
			if got[i].Descriptor.Digest != want[i].Descriptor.Digest || got[i].DiffID != want[i].DiffID || !bytes.Equal(blobs[i], wantBlobs[i]) {
				t.Errorf("layer %d differs with %d processors", i, procs)
			}
		}
	}
}

func emptyLayer(t *testing.T, f accel.Format) {
	layers, _ := Convert(t, f, [][]byte{pack(t, nil)})
	if layers[0].Descriptor.Size == 0 {
		t.Error("wrote nothing")
	}
}

func endsEarly(t *testing.T, f accel.Format) {
	whole := Layers(t)[0]
	for _, cut := range []int{100, 512 + 100, len(whole) / 2, len(whole)/2 + 512} {
		s := accel.Stack{Tars: []accel.Tar{FromBytes(whole[:cut])}}
		if _, err := f.Convert(t.Context(), io.Discard, s); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%d of %d bytes: error %v, want one of kind Corrupt", cut, len(whole), err)
		}
	}
}

func noTar(t *testing.T, f accel.Format) {
	s := accel.Stack{Tars: []accel.Tar{FromBytes(bytes.Repeat([]byte("no tar "), 1000))}}
	if _, err := f.Convert(t.Context(), io.Discard, s); !errors.Is(err, errs.Corrupt) {
		t.Errorf("error %v, want one of kind Corrupt", err)
	}
}

var errBroken = errors.New("broken")

// broken reads some bytes and fails then.
type broken struct {
	io.Reader
	closed *int
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBroken
	}
	return n, err
}

func (b broken) Close() error { *b.closed++; return nil }

func readFails(t *testing.T, f accel.Format) {
	whole := Layers(t)[0]
	opened, closed := 0, 0
	s := accel.Stack{Tars: []accel.Tar{func(context.Context) (io.ReadCloser, error) {
		opened++
		return broken{bytes.NewReader(whole[:len(whole)/2]), &closed}, nil
	}}}
	if _, err := f.Convert(t.Context(), io.Discard, s); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the reader's", err)
	}
	if opened != closed {
		t.Errorf("opened %d times, closed %d times", opened, closed)
	}
}

// full takes some bytes and fails then.
type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func writeFails(t *testing.T, f accel.Format) {
	for _, room := range []int{0, 1000, 100_000} {
		if _, err := f.Convert(t.Context(), &full{room}, Stacks(f, Layers(t))[0]); !errors.Is(err, errBroken) {
			t.Errorf("room for %d bytes: error %v, want the writer's", room, err)
		}
	}
}

func canceled(t *testing.T, f accel.Format) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	if _, err := f.Convert(ctx, io.Discard, Stacks(f, Layers(t))[0]); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the cause", err)
	}
}

// file is an entry of a tar to make.
type file struct {
	tar.Header
	content []byte
}

// Random returns n bytes that no format makes smaller, the same for the same n.
func Random(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// Text returns n bytes that every format makes smaller.
func Text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d bottles of beer on the wall, %x of them open.\n", i, i*i)
	}
	return b.Bytes()[:n]
}

func lower() []file {
	dir := func(name string) file {
		return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
	}
	reg := func(name string, content []byte) file {
		return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
	}
	files := []file{
		dir("bin"), reg("bin/tool", Random(300_000)), dir("etc"), reg("etc/motd", []byte("hello\n")), reg("etc/empty", nil),
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/tool-link", Linkname: "bin/tool", Mode: 0o644}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "tool", Mode: 0o777}},
		dir("data"), reg("data/big", append(Text(400_000), Random(100_000)...)), reg("data/zeros", make([]byte, 1<<20)),
		dir("dev"),
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Mode: 0o660, Devmajor: 8}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o600}},
		{tar.Header{
			Typeflag: tar.TypeReg, Name: "etc/attributes", Mode: 0o4755, Uid: 1000, Gid: 3_000_000,
			PAXRecords: map[string]string{"SCHILY.xattr.user.mime": "text/plain", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		}, []byte("attributes")},
		reg("etc/ünïcode", []byte("ü")), reg("etc/"+string(bytes.Repeat([]byte("long-name-"), 20)), []byte("long")),
	}
	dirs := dir("many")
	files = append(files, dirs)
	for i := range 200 {
		files = append(files, reg(fmt.Sprintf("many/%03d", i), Text(i*7)))
	}
	return files
}

func upper() []file {
	return []file{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o700}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.motd"}},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "many/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "many/.wh..wh..opq"}},
		{tar.Header{Typeflag: tar.TypeReg, Name: "many/new", Mode: 0o644}, Text(100_000)},
		{tar.Header{Typeflag: tar.TypeReg, Name: "bin/tool", Mode: 0o755}, Random(2000)},
	}
}

// pack makes a tar of files.
func pack(tb testing.TB, files []file) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := f.Header
		hdr.Size = int64(len(f.content))
		hdr.ModTime = time.Unix(1_700_000_000, 0)
		if err := w.WriteHeader(&hdr); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}
