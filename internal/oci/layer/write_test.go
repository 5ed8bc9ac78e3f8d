package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// headers reads a tar with archive/tar, as other programs would.
func headers(t *testing.T, plain []byte) []tar.Header {
	t.Helper()
	var out []tar.Header
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *hdr)
	}
}

// TestWriteHeaders checks every sort of entry with another reader.
func TestWriteHeaders(t *testing.T) {
	t.Parallel()
	opaque := dir("opaque")
	opaque.Opaque = true
	suid := reg("bin/su", "x")
	suid.Mode, suid.UID, suid.GID = fs.ModeSetuid|fs.ModeSetgid|0o755, 1000, 1001
	sticky := dir("tmp")
	sticky.Mode = fs.ModeDir | fs.ModeSticky | 0o777
	caps := reg("bin/ping", "")
	caps.Xattrs = map[string]string{"security.capability": "\x00\x01\xff"}
	long := strings.Repeat("d", 99) + "/" + strings.Repeat("e", 90)
	at := time.Unix(1e9, 0)
	type h = tar.Header
	tests := []struct {
		file layer.File
		want []tar.Header
	}{
		{dir("etc"), []h{{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755, ModTime: at}}},
		{reg("etc/a", "xy"), []h{{Typeflag: tar.TypeReg, Name: "etc/a", Mode: 0o644, Size: 2, ModTime: at}}},
		{suid, []h{{Typeflag: tar.TypeReg, Name: "bin/su", Mode: 0o6755, Size: 1, Uid: 1000, Gid: 1001, ModTime: at}}},
		{sticky, []h{{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, ModTime: at}}},
		{symlink("l", "../x"), []h{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../x", Mode: 0o777, ModTime: at}}},
		{hard("h", "etc/a"), []h{{Typeflag: tar.TypeLink, Name: "h", Linkname: "etc/a", Mode: 0o644, ModTime: at}}},
		{whiteout("etc/gone"), []h{{Typeflag: tar.TypeReg, Name: "etc/.wh.gone", ModTime: time.Unix(0, 0)}}},
		{opaque, []h{
			{Typeflag: tar.TypeDir, Name: "opaque/", Mode: 0o755, ModTime: at},
			{Typeflag: tar.TypeReg, Name: "opaque/.wh..wh..opq", ModTime: time.Unix(0, 0)},
		}},
		{
			layer.File{Entry: layer.Entry{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3, ModTime: at}},
			[]h{{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: at}},
		},
		{
			layer.File{Entry: layer.Entry{Path: "sda", Mode: fs.ModeDevice | 0o660, Major: 8, ModTime: at}},
			[]h{{Typeflag: tar.TypeBlock, Name: "sda", Mode: 0o660, Devmajor: 8, ModTime: at}},
		},
		{
			layer.File{Entry: layer.Entry{Path: "pipe", Mode: fs.ModeNamedPipe | 0o600, ModTime: at}},
			[]h{{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600, ModTime: at}},
		},
		{caps, []h{{Typeflag: tar.TypeReg, Name: "bin/ping", Mode: 0o644, ModTime: at, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x00\x01\xff"}}}},
		{reg("grüße", ""), []h{{Typeflag: tar.TypeReg, Name: "grüße", Mode: 0o644, ModTime: at, PAXRecords: map[string]string{"path": "grüße"}}}},
		{reg(long, ""), []h{{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, ModTime: at}}},
		{reg("bytes\xff", ""), []h{{Typeflag: tar.TypeReg, Name: "bytes\xff", Mode: 0o644, ModTime: at}}},
		{dir("."), nil},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%q", test.file.Path), func(t *testing.T) {
			t.Parallel()
			got := headers(t, write(t, seq(test.file)))
			for i := range got {
				got[i].Format, got[i].Xattrs = 0, nil //nolint:staticcheck // an old copy of the PAX records
				if test.file.Path == "bytes\xff" {
					got[i].PAXRecords = nil
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("mismatch (-want +got)\n%s", diff)
			}
		})
	}
}

// TestWriteAsStandard compares headers, byte by byte, with what archive/tar writes for the same.
func TestWriteAsStandard(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		f := reg(strings.Repeat("n", 1+r.IntN(99)), "")
		f.Mode, f.UID, f.GID = fs.FileMode(r.IntN(0o1000)), r.IntN(1<<22), r.IntN(1<<22)
		f.ModTime = time.Unix(r.Int64N(1<<34), 0)
		if i%2 == 0 {
			f.Mode, f.Link = fs.ModeSymlink|0o777, strings.Repeat("l", 1+r.IntN(120))
		}
		hdr := tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Linkname: f.Link, Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID, ModTime: f.ModTime}
		if f.Link != "" {
			hdr.Typeflag = tar.TypeSymlink
		}
		var want bytes.Buffer
		w := tar.NewWriter(&want)
		if err := errors.Join(w.WriteHeader(&hdr), w.Close()); err != nil {
			t.Fatal(err)
		}
		if hdr.Format == tar.FormatGNU {
			continue // it prefers that for large numbers
		}
		if got := write(t, seq(f)); !bytes.Equal(got, want.Bytes()) {
			if format := headers(t, want.Bytes())[0].Format; format&tar.FormatGNU != 0 {
				continue
			}
			t.Errorf("%+v: bytes differ from archive/tar's", f.Entry)
		}
	}
}

// TestWriteCompressed checks each algorithm with another decoder, over blocks of all sorts.
func TestWriteCompressed(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 3<<20+77)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	name := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(name, noise, 0o644); err != nil {
		t.Fatal(err)
	}
	onDisk := reg("a noise", "")
	onDisk.Size, onDisk.Source, onDisk.Open = int64(len(noise)), name, nil
	files := []layer.File{onDisk, reg("b text", strings.Repeat("words words ", 200_000)), reg("c zeros", strings.Repeat("\x00", 1<<21)), reg("d", "")}
	plain := write(t, seq(files...))
	for _, test := range []struct {
		layer.Compression
		mediaType string
		decode    func(io.Reader) (io.Reader, error)
	}{
		{layer.Compression{}, oci.MediaTypeLayerGzip, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
		{layer.Compression{Algorithm: "gzip", Level: 9}, oci.MediaTypeLayerGzip, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
		{layer.Compression{Algorithm: "zstd"}, oci.MediaTypeLayerZstd, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }},
		{layer.Compression{Algorithm: "none"}, oci.MediaTypeLayer, func(r io.Reader) (io.Reader, error) { return r, nil }},
	} {
		t.Run(fmt.Sprint(test.Algorithm, test.Level), func(t *testing.T) {
			t.Parallel()
			var buf bytes.Buffer
			res, err := layer.Write(t.Context(), &buf, seq(files...), layer.Options{Compression: test.Compression})
			if err != nil {
				t.Fatal(err)
			}
			want := layer.Result{
				Descriptor:   oci.Descriptor{MediaType: test.mediaType, Digest: digest.FromBytes(buf.Bytes()), Size: int64(buf.Len())},
				DiffID:       digest.FromBytes(plain),
				Uncompressed: int64(len(plain)),
				Entries:      len(files),
			}
			if diff := cmp.Diff(want, res); diff != "" {
				t.Errorf("result mismatch (-want +got)\n%s", diff)
			}
			r, err := test.decode(bytes.NewReader(buf.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("decoded %d bytes, %v; want the %d of the plain tar", len(got), err, len(plain))
			}
			own, err := layer.Decompress(&buf)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(own); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("Decompress: %d bytes, %v; want the %d of the plain tar", len(got), err, len(plain))
			}
		})
	}
}

// TestWriteDeterministic checks that the number of processors does not show.
func TestWriteDeterministic(t *testing.T) { //nolint:paralleltest // changes GOMAXPROCS
	var want oci.Digest
	for _, procs := range []int{1, 2, 7} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		for _, algorithm := range []string{"gzip"} {
			opts := layer.Options{Compression: layer.Compression{Algorithm: algorithm}}
			res, err := layer.Write(t.Context(), io.Discard, seq(reg("a", strings.Repeat("some words ", 500_000)), reg("b", "b")), opts)
			if err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = res.Descriptor.Digest
			}
			if res.Descriptor.Digest != want {
				t.Errorf("with %d processors the digest is %s, want %s", procs, res.Descriptor.Digest, want)
			}
		}
	}
}

func TestWriteEpoch(t *testing.T) {
	t.Parallel()
	old, young := reg("old", ""), reg("young", "")
	old.ModTime, young.ModTime = time.Unix(100, 999_999_999), time.Unix(300, 5)
	epoch := time.Unix(200, 0)
	var buf bytes.Buffer
	opts := layer.Options{Compression: layer.Compression{Algorithm: "none"}, Epoch: &epoch, Index: true}
	res, err := layer.Write(t.Context(), &buf, seq(old, young), opts)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{100, 200} {
		if got := headers(t, buf.Bytes())[i].ModTime; got.Unix() != want || got.Nanosecond() != 0 {
			t.Errorf("file %d has time %v, want %d", i, got, want)
		}
		if got := res.Index.Entries()[i].ModTime; !got.Equal(time.Unix(want, 0)) {
			t.Errorf("index: file %d has time %v, want %d", i, got, want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "ten")
	if err := os.WriteFile(name, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := func(path string, size int64, source string) layer.File {
		f := reg(path, "")
		f.Size, f.Source, f.Open = size, source, nil
		return f
	}
	opened := func(size int64) layer.File {
		f := reg("opened", "0123456789")
		f.Size = size
		return f
	}
	socket := reg("sock", "")
	socket.Mode = fs.ModeSocket | 0o755
	broken := errors.New("broken")
	tests := []struct {
		name  string
		files iter.Seq2[layer.File, error]
		opts  layer.Options
		kind  error
		text  string
	}{
		{"absolute", seq(reg("/etc/passwd", "")), layer.Options{}, errs.Invalid, "/etc/passwd"},
		{"parent", seq(reg("../x", "")), layer.Options{}, errs.Invalid, "../x"},
		{"not clean", seq(reg("a//b", "")), layer.Options{}, errs.Invalid, "a//b"},
		{"empty", seq(reg("", "")), layer.Options{}, errs.Invalid, "clean"},
		{"nul", seq(reg("a\x00b", "")), layer.Options{}, errs.Invalid, "NUL"},
		{"whiteout name", seq(reg("a/.wh.b", "")), layer.Options{}, errs.Invalid, "a/.wh.b"},
		{"socket", seq(socket), layer.Options{}, errs.Invalid, "sock"},
		{"shrank", seq(file("app/x", 11, name)), layer.Options{}, errs.Conflict, "app/x: file shrank"},
		{"grew", seq(file("app/x", 9, name)), layer.Options{}, errs.Conflict, "app/x: file grew"},
		{"grew from nothing", seq(file("app/x", 0, name)), layer.Options{}, errs.Conflict, "app/x: file grew"},
		{"shrank by 3 MiB", seq(file("app/x", 3<<20, name)), layer.Options{}, errs.Conflict, "app/x: file shrank"},
		{"opened shrank", seq(opened(11)), layer.Options{}, errs.Conflict, "opened: file shrank"},
		{"opened grew", seq(opened(9)), layer.Options{}, errs.Conflict, "opened: file grew"},
		{"missing", seq(file("app/x", 1, name+"x")), layer.Options{}, fs.ErrNotExist, "app/x"},
		{"negative size", seq(file("app/x", -1, name)), layer.Options{}, errs.Invalid, "app/x"},
		{"broken sequence", func(yield func(layer.File, error) bool) { yield(layer.File{}, broken) }, layer.Options{}, broken, "broken"},
		{"algorithm", seq(), layer.Options{Compression: layer.Compression{Algorithm: "lz4"}}, errs.Invalid, "lz4"},
		{"level", seq(), layer.Options{Compression: layer.Compression{Algorithm: "gzip", Level: 10}}, errs.Invalid, "10"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := layer.Write(t.Context(), io.Discard, test.files, test.opts)
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Write: %v, want %v with %q", err, test.kind, test.text)
			}
		})
	}
}

// endless yields files until it is told to stop.
func endless(yield func(layer.File, error) bool) {
	for i := 0; yield(reg(fmt.Sprint(i), strings.Repeat("x", 1<<20)), nil); i++ {
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriteStops(t *testing.T) {
	t.Parallel()
	if _, err := layer.Write(t.Context(), &failing{after: 10_000}, endless, layer.Options{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Write to a full disk: %v, want %v", err, io.ErrShortWrite)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := layer.Write(ctx, io.Discard, endless, layer.Options{}); !errors.Is(err, cause) {
		t.Errorf("Write, canceled: %v, want %v", err, cause)
	}
}

func TestCompress(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"gzip", "zstd", "none"} {
		for _, size := range []int{0, 1, 1000, 1 << 20, 1<<20 + 1, 3 << 20} {
			plain := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{7}).Read(plain)
			var packed bytes.Buffer
			res, err := layer.Compress(t.Context(), &packed, bytes.NewReader(plain), layer.Compression{Algorithm: algorithm})
			if err != nil {
				t.Fatal(err)
			}
			if res.DiffID != digest.FromBytes(plain) || res.Uncompressed != int64(size) || res.Descriptor.Digest != digest.FromBytes(packed.Bytes()) ||
				res.Descriptor.Size != int64(packed.Len()) {
				t.Errorf("%s of %d bytes: %+v", algorithm, size, res)
			}
			r, err := layer.Decompress(&packed)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s of %d bytes: read %d bytes back, %v", algorithm, size, len(got), err)
			}
		}
	}
	broken := errors.New("broken")
	_, err := layer.Compress(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(make([]byte, 5<<20)), iotest.ErrReader(broken)), layer.Compression{})
	if !errors.Is(err, broken) {
		t.Errorf("Compress of what cannot be read: %v", err)
	}
}
