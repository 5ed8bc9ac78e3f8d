package zstdchunked_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	splittar "github.com/vbatts/tar-split/archive/tar"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/zstdchunked"
)

// entry is what a client reads of the table.
type entry struct {
	Type, Name, LinkName, Digest, ChunkDigest, ChunkType string
	Mode, Size, Offset, EndOffset, ChunkSize             int64
	ChunkOffset, DevMajor, DevMinor                      int64
	UID, GID                                             int
	ModTime                                              *time.Time
	Xattrs                                               map[string]string
}

// client reads a layer as podman does: from the annotations on.
type client struct {
	t     *testing.T
	blob  []byte
	z     *zstd.Decoder
	toc   []entry
	split []byte
	files map[string][]entry // by name: the entry, and those of its further chunks
}

func convert(t *testing.T, data []byte) (accel.Layer, []byte) {
	t.Helper()
	f, err := zstdchunked.New(zstdchunked.Options{})
	if err != nil {
		t.Fatal(err)
	}
	layers, blobs := acceltest.Convert(t, f, [][]byte{data})
	return layers[0], blobs[0]
}

func read(t *testing.T, d oci.Descriptor, blob []byte) *client {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Close)
	c := &client{t: t, blob: blob, z: z, files: map[string][]entry{}}
	const keys = "io.github.containers.zstd-chunked."
	var off, size, plain, kind int
	if _, err := fmt.Sscanf(d.Annotations[keys+"manifest-position"], "%d:%d:%d:%d", &off, &size, &plain, &kind); err != nil || kind != 1 {
		t.Fatal(d.Annotations, err)
	}
	packed := blob[off : off+size]
	if got := digest.FromBytes(packed).String(); got != d.Annotations[keys+"manifest-checksum"] {
		t.Errorf("table has digest %s, annotated as %s", got, d.Annotations[keys+"manifest-checksum"])
	}
	var toc struct {
		Version        int
		Entries        []entry
		TarSplitDigest string
	}
	if err := json.Unmarshal(c.decode(packed, plain), &toc); err != nil || toc.Version != 1 {
		t.Fatal(toc.Version, err)
	}
	c.toc = toc.Entries
	if _, err := fmt.Sscanf(d.Annotations[keys+"tarsplit-position"], "%d:%d:%d", &off, &size, &plain); err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(blob[off : off+size]).String(); got != toc.TarSplitDigest {
		t.Errorf("tar-split data has digest %s, the table says %s", got, toc.TarSplitDigest)
	}
	c.split = c.decode(blob[off:off+size], plain)
	for _, e := range c.toc {
		c.files[e.Name] = append(c.files[e.Name], e)
	}
	return c
}

func (c *client) decode(packed []byte, size int) []byte {
	c.t.Helper()
	data, err := c.z.DecodeAll(packed, nil)
	if err != nil || len(data) != size {
		c.t.Fatalf("%d bytes decode to %d, want %d: %v", len(packed), len(data), size, err)
	}
	return data
}

// content fetches the content of a file, piece by piece.
func (c *client) content(name string) []byte {
	c.t.Helper()
	parts := c.files[name]
	var data []byte
	for i, e := range parts {
		end, size, sum := parts[0].EndOffset, e.ChunkSize, e.ChunkDigest
		if i+1 < len(parts) {
			end = parts[i+1].Offset
		}
		if len(parts) == 1 {
			size, sum = e.Size, e.Digest
		}
		piece := c.decode(c.blob[e.Offset:end], int(size))
		if int64(len(data)) != e.ChunkOffset || digest.FromBytes(piece).String() != sum {
			c.t.Errorf("%s: piece %d at %d is not what the table says", name, i, e.ChunkOffset)
		}
		if zero := len(bytes.Trim(piece, "\x00")) == 0; len(parts) > 1 && zero != (e.ChunkType == "zeros") {
			c.t.Errorf("%s: piece %d has type %q", name, i, e.ChunkType)
		}
		data = append(data, piece...)
	}
	if digest.FromBytes(data).String() != parts[0].Digest {
		c.t.Errorf("%s: content is not what the table says", name)
	}
	return data
}

// Get implements storage.FileGetter.
func (c *client) Get(name string) (io.ReadCloser, error) {
	if c.files[name][0].Size == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return io.NopCloser(bytes.NewReader(c.content(name))), nil
}

// TestReadByClients fetches every piece of a layer, and puts its tar together again with the library that clients use.
func TestReadByClients(t *testing.T) {
	t.Parallel()
	long := acceltest.Files(t, map[string]string{
		"holes": string(acceltest.Random(200_000)) + strings.Repeat("\x00", 5<<20) + string(acceltest.Random(100)) + strings.Repeat("\x00", 1000),
		"long":  string(acceltest.Random(5 << 20)),
	})
	for i, data := range append(acceltest.Layers(t), long) {
		l, blob := convert(t, data)
		if l.DiffID != digest.FromBytes(data) {
			t.Errorf("layer %d: the diffID changed", i)
		}
		c := read(t, l.Descriptor, blob)
		again, err := io.ReadAll(asm.NewOutputTarStream(c, storage.NewJSONUnpacker(bytes.NewReader(c.split))))
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("layer %d: %d bytes of %d were put together, %v", i, len(again), len(data), err)
		}
		if plain := c.decode(blob, len(data)); !bytes.Equal(plain, data) {
			t.Errorf("layer %d is no ordinary layer", i)
		}
		checkHeaders(t, c)
	}
}

// checkHeaders holds the table against the headers in the tar-split data, as clients do.
func checkHeaders(t *testing.T, c *client) {
	t.Helper()
	kinds := map[byte]string{
		tar.TypeReg: "reg", tar.TypeLink: "hardlink", tar.TypeSymlink: "symlink", tar.TypeDir: "dir", tar.TypeChar: "char",
		tar.TypeBlock: "block", tar.TypeFifo: "fifo",
	}
	seen := 0
	err := asm.IterateHeaders(storage.NewJSONUnpacker(bytes.NewReader(c.split)), func(h *splittar.Header) error {
		seen++
		if len(c.files[h.Name]) == 0 {
			return fmt.Errorf("%s is not in the table", h.Name)
		}
		e := c.files[h.Name][0]
		if e.Type != kinds[h.Typeflag] || e.LinkName != h.Linkname || e.Mode != h.Mode || e.Size != h.Size || e.UID != h.Uid ||
			e.GID != h.Gid || !e.ModTime.Equal(h.ModTime) || e.DevMajor != h.Devmajor || e.DevMinor != h.Devminor {
			t.Errorf("%s: header %+v, table has %+v", h.Name, h, e)
		}
		xattrs := map[string]string{}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				xattrs[name] = base64.StdEncoding.EncodeToString([]byte(v))
			}
		}
		if len(xattrs) != len(e.Xattrs) || len(xattrs) > 0 && !cmp.Equal(xattrs, e.Xattrs) {
			t.Errorf("%s: attributes %q, table has %q", h.Name, xattrs, e.Xattrs)
		}
		return nil
	})
	if err != nil || seen != len(c.files) {
		t.Errorf("%d of %d files, %v", seen, len(c.files), err)
	}
}

func TestFooter(t *testing.T) {
	t.Parallel()
	l, blob := convert(t, acceltest.Layers(t)[1])
	foot := blob[len(blob)-64:]
	if !bytes.HasPrefix(blob[len(blob)-72:], []byte{0x50, 0x2a, 0x4d, 0x18, 64, 0, 0, 0}) || string(foot[56:]) != "GNUlInUx" {
		t.Fatalf("footer is %q", foot)
	}
	var n [7]any
	for i := range n {
		n[i] = binary.LittleEndian.Uint64(foot[8*i:])
	}
	a := l.Descriptor.Annotations
	if got := fmt.Sprintf("%d:%d:%d:%d", n[:4]...); got != a["io.github.containers.zstd-chunked.manifest-position"] || got != a["io.containers.zstd-chunked.manifest-position"] {
		t.Errorf("footer says %s, annotations %v", got, a)
	}
	if got := fmt.Sprintf("%d:%d:%d", n[4:]...); got != a["io.github.containers.zstd-chunked.tarsplit-position"] {
		t.Errorf("footer says %s, annotations %v", got, a)
	}
	for k := range a {
		if strings.Contains(k, "stargz") {
			t.Errorf("annotation %s is another format's: clients refuse both on one layer", k)
		}
	}
}

// TestSharesPieces changes some bytes in the middle of a file: the pieces around them stay the same.
func TestSharesPieces(t *testing.T) {
	t.Parallel()
	before := acceltest.Random(3 << 20)
	after := append(append(bytes.Clone(before[:1<<20]), "some bytes that were not there before"...), before[1<<20:]...)
	have := map[string]bool{}
	for _, e := range pieces(t, before) {
		have[e.ChunkDigest] = true
	}
	lacking := int64(0)
	for _, e := range pieces(t, after) {
		if !have[e.ChunkDigest] {
			lacking += e.ChunkSize
		}
	}
	if lacking == 0 || lacking > 1<<20 {
		t.Errorf("%d bytes of %d are in new pieces", lacking, len(after))
	}
}

func pieces(t *testing.T, content []byte) []entry {
	t.Helper()
	l, blob := convert(t, acceltest.Files(t, map[string]string{"file": string(content)}))
	c := read(t, l.Descriptor, blob)
	c.content("file")
	return c.files["file"]
}

func TestUnfit(t *testing.T) {
	t.Parallel()
	file := tar.Header{Typeflag: tar.TypeReg, Name: "a"}
	pax := tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}
	for name, headers := range map[string][]tar.Header{"twice": {file, file}, "global header": {pax, file}} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := zstdchunked.New(zstdchunked.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Convert(t.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{acceltest.FromBytes(b.Bytes())}}); !errors.Is(err, accel.ErrUnfit) {
			t.Errorf("%s: %v, want ErrUnfit", name, err)
		}
	}
}
