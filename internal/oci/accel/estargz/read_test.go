package estargz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	oracle "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/estargz"
)

// memory is a blob that counts what is read of it.
type memory struct {
	data []byte
	read int64
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.read += int64(len(p))
	if off < 0 || off+int64(len(p)) > m.Size() {
		return fmt.Errorf("%d bytes at %d of %d", len(p), off, m.Size())
	}
	copy(p, m.data[off:])
	return nil
}

// checkReader reads everything and holds it against the tar.
func checkReader(t *testing.T, r *estargz.Reader, data []byte) {
	t.Helper()
	files := map[string]*estargz.File{}
	for _, f := range r.Files() {
		files[f.Name] = f
	}
	list := entries(t, data)
	if len(files) != len(list) {
		t.Errorf("%d files, want %d", len(files), len(list))
	}
	for _, e := range list {
		name := strings.TrimPrefix(path.Clean("/"+e.hdr.Name), "/")
		f := files[name]
		if f == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if f.Mode != e.hdr.Mode || f.UID != e.hdr.Uid || f.GID != e.hdr.Gid || f.Size != e.hdr.Size || !f.ModTime.Equal(e.hdr.ModTime) ||
			f.DevMajor != e.hdr.Devmajor || f.DevMinor != e.hdr.Devminor || f.Link != e.hdr.Linkname {
			t.Errorf("%s: %+v, want %+v", name, f, e.hdr)
		}
		for off := 0; off < len(e.content); {
			chunk, first, err := r.Chunk(t.Context(), f, int64(off+min(7, len(e.content)-off-1)))
			if err != nil || int(first) != off || !bytes.Equal(chunk, e.content[off:off+len(chunk)]) {
				t.Errorf("%s: chunk of %d bytes at %d, %v", name, len(chunk), first, err)
				break
			}
			off += len(chunk)
		}
		if _, _, err := r.Chunk(t.Context(), f, f.Size); !errors.Is(err, io.EOF) {
			t.Errorf("%s: a chunk after the end: %v", name, err)
		}
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	huge := pack(t, file("huge", string(acceltest.Text(9<<20))), file("small", "small"))
	for _, data := range append(acceltest.Layers(t), huge) {
		l, blob := convert(t, data, estargz.Options{Level: 1})
		src := &memory{data: blob}
		r, err := estargz.Open(t.Context(), src, digest.Digest(l.Descriptor.Annotations[estargz.AnnotationTOC]))
		if err != nil {
			t.Fatal(err)
		}
		if src.read > int64(len(blob))/2 && len(blob) > 100_000 {
			t.Errorf("the table of %d bytes took %d", len(blob), src.read)
		}
		checkReader(t, r, data)
	}
}

// TestReadsOthers reads a layer that the snapshotter's library wrote.
func TestReadsOthers(t *testing.T) {
	t.Parallel()
	data := acceltest.Layers(t)[0]
	b, err := oracle.Build(io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), oracle.WithChunkSize(100_000))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	blob, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	r, err := estargz.Open(t.Context(), &memory{data: blob}, b.TOCDigest())
	if err != nil {
		t.Fatal(err)
	}
	checkReader(t, r, data)
}

// blobWith puts a table of ours in a blob's place. What is before it stays.
func blobWith(t testing.TB, blob, text []byte) ([]byte, oci.Digest) {
	t.Helper()
	start, _, err := oracle.OpenFooter(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	w := tar.NewWriter(z)
	err = errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "stargz.index.json", Size: int64(len(text))}))
	if err == nil {
		_, err = w.Write(text)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	out := append(bytes.Clone(blob[:start]), member.Bytes()...)
	return append(out, blob[len(blob)-51:]...), digest.FromBytes(text)
}

// tableOf is the table of a blob.
func tableOf(t testing.TB, blob []byte) []byte {
	t.Helper()
	plain := gunzip(t, blob)
	list := entries(t, plain)
	return list[len(list)-1].content
}

// TestHostileTables opens layers whose tables lie, under the right digests.
func TestHostileTables(t *testing.T) {
	t.Parallel()
	_, blob := convert(t, pack(t, file("a", "content of a"), file("b", "content of b")), estargz.Options{})
	text := tableOf(t, blob)
	with := func(change func(a map[string]any)) []byte {
		var toc struct {
			Version int              `json:"version"`
			Entries []map[string]any `json:"entries"`
		}
		if err := json.Unmarshal(text, &toc); err != nil {
			t.Fatal(err)
		}
		change(toc.Entries[1])
		out, err := json.Marshal(toc)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	set := func(key string, value any) []byte { return with(func(a map[string]any) { a[key] = value }) }
	for name, table := range map[string][]byte{
		"no JSON": []byte("{"), "entries that are none": []byte(`{"entries":{}}`), "an entry that is none": []byte(`{"entries":[1]}`),
		"a type of its own": set("type", "socket"), "a chunk alone": set("type", "chunk"), "behind the end": set("offset", 1<<40),
		"before the beginning": set("offset", -5), "in the table": set("offset", len(blob)-60), "longer than its chunks": with(func(a map[string]any) { a["size"], a["chunkSize"] = 1<<40, 5 }),
		"a negative length": set("chunkSize", -1), "no digest": with(func(a map[string]any) { delete(a, "digest"); delete(a, "chunkDigest") }),
		"a digest that is none": set("chunkDigest", "sha256:../.."), "a chunk of elsewhere": set("chunkOffset", 3),
	} {
		evil, d := blobWith(t, blob, table)
		if _, err := estargz.Open(t.Context(), &memory{data: evil}, d); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v, want Corrupt", name, err)
		}
	}
	// What only shows when content is read.
	for name, tt := range map[string]struct {
		table []byte
		want  error
	}{
		"another's content":         {set("chunkDigest", digest.FromString("x").String()), errs.Corrupt},
		"a file of a terabyte":      {set("size", 1<<40), errs.Limit},
		"content that is not there": {set("size", 1000), errs.Corrupt},
	} {
		evil, d := blobWith(t, blob, tt.table)
		r, err := estargz.Open(t.Context(), &memory{data: evil}, d)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, _, err := r.Chunk(t.Context(), r.Files()[0], 0); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestHostileBlobs(t *testing.T) {
	t.Parallel()
	l, blob := convert(t, acceltest.Layers(t)[1], estargz.Options{})
	d := digest.Digest(l.Descriptor.Annotations[estargz.AnnotationTOC])
	foot := len(blob) - 51
	change := func(at int, b byte) []byte {
		out := bytes.Clone(blob)
		out[at] ^= b
		return out
	}
	for name, evil := range map[string][]byte{
		"empty": nil, "short": blob[:30], "cut": blob[:len(blob)-1], "no footer": change(foot+12, 1), "no number": change(foot+20, 0xff),
		"another table": change(foot-100, 1), "far away": append(bytes.Clone(blob[:foot+16]), append([]byte("7fffffffffffffff"), blob[foot+32:]...)...),
		"negative": append(bytes.Clone(blob[:foot+16]), append([]byte("ffffffffffffffff"), blob[foot+32:]...)...),
	} {
		if _, err := estargz.Open(t.Context(), &memory{data: evil}, d); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v, want Corrupt", name, err)
		}
	}
	if _, err := estargz.Open(t.Context(), &memory{data: blob}, digest.FromString("another")); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another digest: %v, want Corrupt", err)
	}
}

// FuzzTable reads all that a table claims to be there.
func FuzzTable(f *testing.F) {
	_, blob := convert(f, pack(f, file("a", "content of a"), file("b", "content of b"), hardLink("c", "a")), estargz.Options{})
	f.Add(tableOf(f, blob))
	f.Add([]byte(`{"version":1,"entries":[{"name":"a","type":"reg","size":5,"offset":200,"chunkSize":2,"chunkDigest":"sha256:"},{"name":"a","type":"chunk","offset":300}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		evil, d := blobWith(t, blob, text)
		r, err := estargz.Open(t.Context(), &memory{data: evil}, d)
		if err != nil {
			if !errors.Is(err, errs.Corrupt) && !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Limit) {
				t.Errorf("error %v has no kind", err)
			}
			return
		}
		for _, file := range r.Files() {
			for off := int64(0); off < file.Size; {
				chunk, first, err := r.Chunk(t.Context(), file, off)
				if err != nil {
					break
				}
				if first != off || len(chunk) == 0 {
					t.Fatalf("%s: a chunk of %d bytes at %d, want one at %d", file.Name, len(chunk), first, off)
				}
				off += int64(len(chunk))
			}
		}
	})
}
