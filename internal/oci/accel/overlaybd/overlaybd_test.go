package overlaybd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/overlaybd"
	"slipway/internal/oci/accel/overlaybd/ext4"
)

func open(t testing.TB, opts overlaybd.Options) *overlaybd.Format {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	f, err := overlaybd.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSuite(t *testing.T) {
	for _, algorithm := range []string{"lz4", "zstd"} {
		t.Run(algorithm, func(t *testing.T) {
			acceltest.Test(t, func(t *testing.T) accel.Format { return open(t, overlaybd.Options{Algorithm: algorithm}) })
		})
	}
}

func sources(blobs [][]byte) []overlaybd.Source {
	var s []overlaybd.Source
	for _, b := range blobs {
		s = append(s, bytes.NewReader(b))
	}
	return s
}

// tree reads the files of an image.
func tree(t testing.TB, blobs ...[]byte) []string {
	t.Helper()
	dev, err := overlaybd.Device(sources(blobs)...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ext4.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for file, err := range f.Files() {
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s", file.Mode, file.Path)
		if file.IsRegular() {
			r, err := file.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %d", len(data))
		}
		if file.Mode.Type() == fs.ModeSymlink || file.Hard {
			line += " " + file.Link
		}
		if !strings.Contains(file.Path, "many/") || file.Path == "many/new" {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestConvert(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"lz4", "zstd"} {
		_, blobs := acceltest.Convert(t, open(t, overlaybd.Options{Algorithm: algorithm}), acceltest.Layers(t))
		lower := []string{
			"drwxr-xr-x .", "drwxr-xr-x bin", "Lrwxrwxrwx bin/sh tool", "-rw-r--r-- bin/tool 300000", "-rw-r--r-- bin/tool-link bin/tool",
			"drwxr-xr-x data", "-rw-r--r-- data/big 500000", "-rw-r--r-- data/zeros 1048576",
			"drwxr-xr-x dev", "prw------- dev/fifo", "Dcrw-rw-rw- dev/null", "Drw-rw---- dev/sda", "drwxr-xr-x etc", "urwxr-xr-x etc/attributes 10",
			"-rw-r--r-- etc/empty 0", "-rw-r--r-- etc/" + strings.Repeat("long-name-", 20) + " 4", "-rw-r--r-- etc/motd 6", "-rw-r--r-- etc/ünïcode 2",
			"drwxr-xr-x many",
		}
		if diff := cmp.Diff(lower, tree(t, blobs[0])); diff != "" {
			t.Errorf("%s: lower layer mismatch (-want +got):\n%s", algorithm, diff)
		}
		merged := []string{
			"drwxr-xr-x .", "drwxr-xr-x bin", "Lrwxrwxrwx bin/sh tool", "-rwxr-xr-x bin/tool 2000", "-rw-r--r-- bin/tool-link 300000",
			"drwxr-xr-x data", "-rw-r--r-- data/big 500000", "-rw-r--r-- data/zeros 1048576",
			"drwxr-xr-x dev", "prw------- dev/fifo", "Dcrw-rw-rw- dev/null", "Drw-rw---- dev/sda", "drwx------ etc", "urwxr-xr-x etc/attributes 10",
			"-rw-r--r-- etc/empty 0", "-rw-r--r-- etc/" + strings.Repeat("long-name-", 20) + " 4", "-rw-r--r-- etc/ünïcode 2",
			"drwxr-xr-x many", "-rw-r--r-- many/new 100000",
		}
		if diff := cmp.Diff(merged, tree(t, blobs...)); diff != "" {
			t.Errorf("%s: merged tree mismatch (-want +got):\n%s", algorithm, diff)
		}
		if len(blobs[1]) > 80_000 { // 100 KB of text and 2 KB of noise
			t.Errorf("%s: the upper layer has %d bytes", algorithm, len(blobs[1]))
		}
	}
}

// TestDescriptor holds what a snapshotter looks for.
func TestDescriptor(t *testing.T) {
	t.Parallel()
	f := open(t, overlaybd.Options{})
	layers, blobs := acceltest.Convert(t, f, acceltest.Layers(t))
	m := oci.NewManifest(oci.Descriptor{}, nil, nil)
	for i, l := range layers {
		want := map[string]string{
			"containerd.io/snapshot/overlaybd/blob-digest":  l.Descriptor.Digest.String(),
			"containerd.io/snapshot/overlaybd/blob-size":    fmt.Sprint(len(blobs[i])),
			"containerd.io/snapshot/overlaybd/version":      "0.1.0",
			"containerd.io/snapshot/overlaybd/blob-fs-type": "ext4",
		}
		if diff := cmp.Diff(want, l.Descriptor.Annotations); diff != "" {
			t.Errorf("annotations mismatch (-want +got):\n%s", diff)
		}
		if l.Descriptor.MediaType != "application/vnd.oci.image.layer.v1.tar" || l.DiffID != l.Descriptor.Digest {
			t.Errorf("media type %s, diffID %s of blob %s", l.Descriptor.MediaType, l.DiffID, l.Descriptor.Digest)
		}
		if !f.Is(l.Descriptor) {
			t.Error("Is does not know its own layer")
		}
		m.Layers = append(m.Layers, l.Descriptor)
	}
	if f.Is(oci.Descriptor{MediaType: oci.MediaTypeLayerGzip}) {
		t.Error("Is takes a gzip layer for one of its own")
	}
	f.Finish(&m)
	if m.ArtifactType != "application/vnd.containerd.overlaybd.native.v1+json" || !overlaybd.Has(&m) {
		t.Errorf("artifact type %q", m.ArtifactType)
	}
	m.Layers = append(m.Layers, oci.Descriptor{})
	if overlaybd.Has(&m) {
		t.Error("an image with another layer is taken for one")
	}
}

// TestBlobIsATar: that is what its media type says, and what runtimes take it for that do not know the format.
func TestBlobIsATar(t *testing.T) {
	t.Parallel()
	_, blobs := acceltest.Convert(t, open(t, overlaybd.Options{}), acceltest.Layers(t))
	for _, b := range blobs {
		r := tar.NewReader(bytes.NewReader(b))
		hdr, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Name != "overlaybd.commit" || hdr.Typeflag != tar.TypeReg || hdr.Mode != 0o644 || len(b)%512 != 0 {
			t.Errorf("blob of %d bytes begins with %+v", len(b), hdr)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, b[1536:1536+len(data)]) || !bytes.HasPrefix(data, []byte("ZFile")) {
			t.Errorf("the file is not 1536 bytes after the beginning: %v", err)
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("after the file: %v", err)
		}
		// Without the tar it can be read as well.
		if diff := cmp.Diff(tree(t, blobs[0]), tree(t, blobs[0][1536:])); diff != "" {
			t.Errorf("tree mismatch (-want +got):\n%s", diff)
		}
	}
}

// TestBytesStayTheSame: a cache of conversions, and the registries of the world, rely on it. When a change of the code or
// of a library is meant to change bytes, raise version in overlaybd.go, and update the digests.
func TestBytesStayTheSame(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"lz4":  {"779e71d4427c3647", "90e983b7d6bc3387"},
		"zstd": {"1dd677a00be75262", "5b22abb6a6b9f216"},
	}
	for algorithm, digests := range want {
		f := open(t, overlaybd.Options{Algorithm: algorithm})
		layers, _ := acceltest.Convert(t, f, acceltest.Layers(t))
		for i, l := range layers {
			if l.Descriptor.Digest.Encoded()[:16] != digests[i] {
				t.Errorf("%s: layer %d is %s, not %s…", f.Settings(), i, l.Descriptor.Digest.Encoded()[:16], digests[i])
			}
		}
	}
}

// TestReadsOnlyWhatItNeedsOfLayersBelow: their tars may be gone, and most of their blobs is not read.
func TestReadsOnlyWhatItNeedsOfLayersBelow(t *testing.T) {
	t.Parallel()
	f := open(t, overlaybd.Options{})
	tars := acceltest.Layers(t)
	layers, blobs := acceltest.Convert(t, f, tars)
	read := &counting{Reader: bytes.NewReader(blobs[0])}
	gone := func(context.Context) (io.ReadCloser, error) { return nil, errs.NotFound }
	var out bytes.Buffer
	l, err := f.Convert(t.Context(), &out, accel.Stack{
		Tars:  []accel.Tar{gone, acceltest.FromBytes(tars[1])},
		Below: []accel.Converted{{Layer: layers[0], Open: func(context.Context) (accel.Blob, error) { return read, nil }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.Descriptor.Digest != layers[1].Descriptor.Digest {
		t.Error("the layer is another")
	}
	if read.n > len(blobs[0])/3 || read.closed != 1 {
		t.Errorf("read %d of %d bytes, closed %d times", read.n, len(blobs[0]), read.closed)
	}
}

type counting struct {
	*bytes.Reader
	n, closed int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.n += n
	return n, err
}

func (c *counting) Close() error { c.closed++; return nil }

func TestForeignLayersBelow(t *testing.T) {
	t.Parallel()
	f := open(t, overlaybd.Options{})
	tars := acceltest.Layers(t)
	for name, tt := range map[string]struct {
		kind error
		blob []byte
		open error
	}{
		"not there":     {errs.NotFound, nil, errs.NotFound},
		"damaged":       {errs.Corrupt, make([]byte, 10_000), nil},
		"an empty blob": {errs.Corrupt, nil, nil},
	} {
		b := &counting{Reader: bytes.NewReader(tt.blob)}
		_, err := f.Convert(t.Context(), io.Discard, accel.Stack{
			Tars:  []accel.Tar{nil, acceltest.FromBytes(tars[1])},
			Below: []accel.Converted{{Open: func(context.Context) (accel.Blob, error) { return b, tt.open }}},
		})
		if !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
		if want := map[bool]int{true: 1}[tt.open == nil]; b.closed != want {
			t.Errorf("%s: closed %d times, want %d", name, b.closed, want)
		}
	}
	deep := accel.Stack{Tars: make([]accel.Tar, 300)}
	if _, err := f.Convert(t.Context(), io.Discard, deep); !errors.Is(err, errs.Limit) {
		t.Errorf("300 layers: %v", err)
	}
}

// TestLeavesNothingBehind: the blob is in a temporary file without a name.
func TestLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := open(t, overlaybd.Options{Dir: dir})
	acceltest.Convert(t, f, acceltest.Layers(t))
	if _, err := f.Convert(t.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{acceltest.FromBytes([]byte(strings.Repeat("x", 1000)))}}); err == nil {
		t.Error("converted what is no tar")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	gone := open(t, overlaybd.Options{Dir: dir + "/not/there"})
	if _, err := gone.Convert(t.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{nil}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := overlaybd.New(overlaybd.Options{Algorithm: "gzip"}); !errors.Is(err, errs.Invalid) {
		t.Errorf("error %v", err)
	}
}

func TestHostileBlobs(t *testing.T) {
	t.Parallel()
	_, blobs := acceltest.Convert(t, open(t, overlaybd.Options{}), acceltest.Layers(t)[:1])
	for name, change := range map[string]func(b []byte) []byte{
		"another tar":           func(b []byte) []byte { copy(b[512:], "20 size=99999999999\n"); return b },
		"a folder":              func(b []byte) []byte { b[1024+156] = '5'; return b },
		"cut in the tar":        func(b []byte) []byte { return b[:700] },
		"cut in the file":       func(b []byte) []byte { return b[:len(b)/2] },
		"shorter than a header": func(b []byte) []byte { return b[:100] },
		"no ZFile":              func(b []byte) []byte { b[1536] = 'X'; return b },
	} {
		if _, err := overlaybd.Device(sources([][]byte{change(bytes.Clone(blobs[0]))})...); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDevice opens what is hardly a blob, and reads what it has.
func FuzzDevice(f *testing.F) {
	_, blobs := acceltest.Convert(f, open(f, overlaybd.Options{}), acceltest.Layers(f)[1:])
	f.Add(blobs[0])
	f.Add(blobs[0][1536:])
	f.Fuzz(func(_ *testing.T, blob []byte) {
		dev, err := overlaybd.Device(bytes.NewReader(blob))
		if err != nil {
			return
		}
		_, _ = dev.ReadAt(make([]byte, 1<<20), 0)
		if fs, err := ext4.Open(dev); err == nil {
			for _, err := range fs.Files() {
				if err != nil {
					return
				}
			}
		}
	})
}
