package estargz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	oracle "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/estargz"
)

// convert converts a tar.
func convert(t testing.TB, data []byte, opts estargz.Options) (accel.Layer, []byte) {
	t.Helper()
	f, err := estargz.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	layers, blobs := acceltest.Convert(t, f, [][]byte{data})
	return layers[0], blobs[0]
}

// open reads a blob with the snapshotter's own library, and verifies its table.
func open(t testing.TB, l accel.Layer, blob []byte) (*oracle.Reader, oracle.TOCEntryVerifier) {
	t.Helper()
	r, err := oracle.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.VerifyTOC(digest.Digest(l.Descriptor.Annotations[estargz.AnnotationTOC]))
	if err != nil {
		t.Fatal(err)
	}
	return r, v
}

// entry is one of a tar, with its content.
type entry struct {
	hdr     *tar.Header
	content []byte
}

func entries(t testing.TB, data []byte) []entry {
	t.Helper()
	var list []entry
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, entry{h, content})
	}
}

func gunzip(t testing.TB, blob []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReadByOthers holds what the snapshotter's library says of a layer against the tar that it was made of.
func TestReadByOthers(t *testing.T) {
	t.Parallel()
	huge := pack(t, file("huge", string(acceltest.Text(9<<20))), file("small", "small"))
	for i, data := range append(acceltest.Layers(t), huge) {
		l, blob := convert(t, data, estargz.Options{Level: 2, First: []string{"many/123", "/bin/tool-link"}})
		r, v := open(t, l, blob)
		for _, e := range entries(t, data) {
			got, ok := r.Lookup(e.hdr.Name)
			if !ok {
				t.Errorf("layer %d: %s is missing", i, e.hdr.Name)
				continue
			}
			if e.hdr.Typeflag == tar.TypeLink {
				if target, _ := r.Lookup(e.hdr.Linkname); target != got {
					t.Errorf("layer %d: %s is no link to %s", i, e.hdr.Name, e.hdr.Linkname)
				}
				continue
			}
			checkEntry(t, e, got)
			if e.hdr.Typeflag == tar.TypeReg && len(e.content) > 0 {
				checkContent(t, r, v, e)
			}
		}
	}
}

func checkEntry(t *testing.T, e entry, got *oracle.TOCEntry) {
	t.Helper()
	h := e.hdr
	want := map[byte]string{
		tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
	}[h.Typeflag]
	if got.Type != want || got.Mode != h.Mode || got.UID != h.Uid || got.GID != h.Gid || got.Size != h.Size ||
		!got.ModTime().Equal(h.ModTime) || got.LinkName != h.Linkname || int64(got.DevMajor) != h.Devmajor || int64(got.DevMinor) != h.Devminor {
		t.Errorf("%s: header %+v, table has %+v", h.Name, h, got)
	}
	xattrs := map[string]string{}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			xattrs[name] = v
		}
	}
	have := map[string]string{}
	for k, v := range got.Xattrs {
		have[k] = string(v)
	}
	if diff := cmp.Diff(xattrs, have); diff != "" {
		t.Errorf("%s: attributes mismatch (-want +got):\n%s", h.Name, diff)
	}
}

func checkContent(t *testing.T, r *oracle.Reader, v oracle.TOCEntryVerifier, e entry) {
	t.Helper()
	file, err := r.OpenFile(e.hdr.Name)
	if err != nil {
		t.Error(err)
		return
	}
	got := make([]byte, len(e.content))
	if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, e.content) {
		t.Errorf("%s: content differs, %v", e.hdr.Name, err)
	}
	for off := int64(0); off < int64(len(e.content)); {
		c, ok := r.ChunkEntryForOffset(e.hdr.Name, off)
		if !ok || c.ChunkOffset != off || c.ChunkSize <= 0 {
			t.Errorf("%s: no chunk at %d", e.hdr.Name, off)
			return
		}
		check, err := v.Verifier(c)
		if err != nil {
			t.Errorf("%s: %v", e.hdr.Name, err)
			return
		}
		if _, err := check.Write(e.content[off : off+c.ChunkSize]); err != nil || !check.Verified() {
			t.Errorf("%s: chunk at %d does not verify, %v", e.hdr.Name, off, err)
		}
		off += c.ChunkSize
	}
}

// TestIsAnOrdinaryLayer reads a layer as every other runtime does.
func TestIsAnOrdinaryLayer(t *testing.T) {
	t.Parallel()
	data := acceltest.Layers(t)[0]
	l, blob := convert(t, data, estargz.Options{Level: 2})
	plain := gunzip(t, blob)
	if got := digest.FromBytes(plain); got != l.DiffID {
		t.Errorf("diffID is %s, that of the plain tar %s", l.DiffID, got)
	}
	if got := strconv.Itoa(len(plain)); got != l.Descriptor.Annotations[estargz.AnnotationSize] {
		t.Errorf("length of the plain tar is %s, annotated as %s", got, l.Descriptor.Annotations[estargz.AnnotationSize])
	}
	got := entries(t, plain)
	if first, last := got[0].hdr.Name, got[len(got)-1].hdr.Name; first != ".no.prefetch.landmark" || last != "stargz.index.json" {
		t.Errorf("the first entry is %s, the last %s", first, last)
	}
	got = got[1 : len(got)-1]
	for i, want := range entries(t, data) {
		if diff := cmp.Diff(*want.hdr, *got[i].hdr); diff != "" || !bytes.Equal(want.content, got[i].content) {
			t.Errorf("%s: mismatch (-want +got):\n%s", want.hdr.Name, diff)
		}
	}
	if !bytes.Contains(plain, bytes.TrimSuffix(data, make([]byte, 1024))) {
		t.Error("headers are not the original's, byte by byte")
	}
}

// TestFirst looks at the order of a layer with files that come first.
func TestFirst(t *testing.T) {
	t.Parallel()
	l, blob := convert(t, acceltest.Layers(t)[0], estargz.Options{Level: 2, First: []string{"many/123", "/bin/tool-link", "./data/big", "nowhere"}})
	var names []string
	for _, e := range entries(t, gunzip(t, blob)) {
		names = append(names, path.Clean(e.hdr.Name))
	}
	want := []string{"bin", "bin/tool", "bin/tool-link", "data", "data/big", "many", "many/123", ".prefetch.landmark"}
	if got := names[:len(want)]; !slices.Equal(got, want) {
		t.Errorf("first come %q, want %q", got, want)
	}
	r, _ := open(t, l, blob)
	mark, ok := r.Lookup(".prefetch.landmark")
	if last, found := r.Lookup("many/123"); !ok || !found || last.Offset >= mark.Offset {
		t.Error("the landmark does not come after the first files")
	}
	if _, ok := r.Lookup(".no.prefetch.landmark"); ok {
		t.Error("there are two landmarks")
	}
}

// TestAgain converts what is eStargz already.
func TestAgain(t *testing.T) {
	t.Parallel()
	data := acceltest.Layers(t)[0]
	once, blob := convert(t, data, estargz.Options{Level: 2, First: []string{"many/123"}})
	plain, _ := convert(t, data, estargz.Options{Level: 2})
	again, _ := convert(t, gunzip(t, blob), estargz.Options{Level: 2, First: []string{"many/123"}})
	if once.Descriptor.Digest != again.Descriptor.Digest || once.DiffID == plain.DiffID {
		t.Errorf("converted once: %s, twice: %s", once.Descriptor.Digest, again.Descriptor.Digest)
	}
}

// pack makes a tar.
func pack(t testing.TB, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		e.hdr.Size = int64(len(e.content))
		if err := w.WriteHeader(e.hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) entry {
	return entry{&tar.Header{Typeflag: tar.TypeReg, Name: name}, []byte(content)}
}

func hardLink(name, target string) entry {
	return entry{hdr: &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// TestSameNameTwice: of several entries with one name the last counts.
func TestSameNameTwice(t *testing.T) {
	t.Parallel()
	data := pack(t, file("a", strings.Repeat("old", 2<<20)), file("b", "b"), file("./a", "new"))
	l, blob := convert(t, data, estargz.Options{})
	r, _ := open(t, l, blob)
	a, err := r.OpenFile("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); string(got) != "new" || err != nil {
		t.Errorf("a has %d bytes, %v", len(got), err)
	}
}

// TestUnfit has hard links that a table cannot express: readers would refuse the whole layer.
func TestUnfit(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"to a layer below":   pack(t, hardLink("b", "below")),
		"to itself":          pack(t, hardLink("b", "b")),
		"to what was before": pack(t, file("a", "old"), hardLink("b", "a"), file("a", "new")),
	} {
		f, err := estargz.New(estargz.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Convert(t.Context(), io.Discard, accel.Stack{Tars: []accel.Tar{acceltest.FromBytes(data)}})
		if !errors.Is(err, accel.ErrUnfit) {
			t.Errorf("%s: %v, want ErrUnfit", name, err)
		}
	}
}
