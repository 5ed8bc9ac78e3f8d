package chunk_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/chunk"
)

// copying is a codec that compresses nothing.
type copying struct{}

func (copying) Encoder() chunk.Encoder                 { return copying{} }
func (copying) Encode(dst, src []byte) ([]byte, error) { return append(dst, src...), nil }

// write writes a tar with a codec that copies, and returns the output with the entries.
func write(t testing.TB, data []byte, opts chunk.Options) ([]byte, []*chunk.Entry, chunk.Result, error) {
	t.Helper()
	var out bytes.Buffer
	var entries []*chunk.Entry
	opts.Codec = copying{}
	opts.Entry = func(e *chunk.Entry) error { entries = append(entries, e); return nil }
	w := chunk.NewWriter(t.Context(), &out, opts)
	defer w.Close()
	if err := w.Tar(bytes.NewReader(data), nil); err != nil {
		return nil, nil, chunk.Result{}, err
	}
	if err := w.Finish(); err != nil {
		return nil, nil, chunk.Result{}, err
	}
	return out.Bytes(), entries, w.Result(), nil
}

// file is what a tar says of one file.
type file struct {
	Name string
	Type byte
	Size int64
	Sum  string
}

// list reads a tar with archive/tar.
func list(data []byte) ([]file, error) {
	var files []file
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		f := file{Name: h.Name, Type: h.Typeflag}
		sum := sha256.New()
		if f.Size, err = io.Copy(sum, r); err != nil {
			return nil, err
		}
		if f.Size > 0 {
			f.Sum = digest.NewDigest(digest.SHA256, sum).String()
		}
		if h.Typeflag == tar.TypeGNUSparse {
			f.Type = tar.TypeReg
		}
		files = append(files, f)
	}
}

// told is the same of entries, and holds their chunks against the output.
func told(t testing.TB, out []byte, entries []*chunk.Entry) []file {
	t.Helper()
	var files []file
	for _, e := range entries {
		f := file{Name: e.Header.Name, Type: e.Header.Typeflag, Sum: e.Digest.String()}
		crc := crc64.New(crc64.MakeTable(crc64.ISO))
		for _, c := range e.Chunks {
			if c.Offset != f.Size {
				t.Errorf("%s: chunk at %d, want %d", e.Name, c.Offset, f.Size)
			}
			content := out[c.Start : c.Start+c.Size]
			if c.End < c.Start+c.Size || digest.FromBytes(content) != c.Digest {
				t.Errorf("%s: chunk at %d is not what its digest says", e.Name, c.Offset)
			}
			if zero := len(bytes.Trim(content, "\x00")) == 0; zero != c.Zero {
				t.Errorf("%s: chunk at %d: Zero is %v", e.Name, c.Offset, c.Zero)
			}
			_, _ = crc.Write(content)
			f.Size += c.Size
		}
		if e.Checksum != 0 && e.Checksum != crc.Sum64() {
			t.Errorf("%s: checksum %x, want %x", e.Name, e.Checksum, crc.Sum64())
		}
		files = append(files, f)
	}
	return files
}

func TestKeepsEveryByte(t *testing.T) {
	t.Parallel()
	for _, data := range append(acceltest.Layers(t), long(t)) {
		for name, opts := range map[string]chunk.Options{
			"":      {},
			"apart": {Apart: true, CRC64: true},
			"split": {Split: func() chunk.Splitter { return every(100_001) }, CRC64: true},
		} {
			opts.Raw = true
			out, entries, res, err := write(t, data, opts)
			if err != nil {
				t.Fatal(err)
			}
			want, err := list(data)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out, bytes.TrimSuffix(data, make([]byte, 1024))) {
				t.Errorf("%s: the output is not the tar", name)
			}
			if diff := cmp.Diff(want, told(t, out, entries)); diff != "" {
				t.Errorf("%s: entries mismatch (-want +got):\n%s", name, diff)
			}
			if d := digest.FromBytes(out); res.Digest != d || res.DiffID != d || res.Size != int64(len(out)) || res.Plain != res.Size {
				t.Errorf("%s: Result is %+v, wrote %d bytes with digest %s", name, res, len(out), d)
			}
			var again []byte
			for _, e := range entries {
				again = append(again, e.Raw...)
				for _, c := range e.Chunks {
					again = append(again, out[c.Start:c.Start+c.Size]...)
				}
			}
			if !bytes.HasPrefix(out, again) || len(out)-len(again) >= 512 {
				t.Errorf("%s: the parts do not make the whole", name)
			}
		}
	}
}

func TestWhole(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"as archive/tar writes it": acceltest.Layers(t)[1],
		"with a filled record":     append(acceltest.Layers(t)[1], make([]byte, 9*1024)...),
		"with more after its end":  append(acceltest.Layers(t)[1], "more"...),
		"without an end":           bytes.TrimSuffix(acceltest.Layers(t)[1], make([]byte, 1024)),
	} {
		out, _, res, err := write(t, data, chunk.Options{Whole: true, Raw: true, Apart: true})
		if err != nil || !bytes.Equal(out, data) || res.DiffID != digest.FromBytes(data) {
			t.Errorf("%s: wrote %d bytes of %d, %v", name, len(out), len(data), err)
		}
	}
	endless := append(acceltest.Layers(t)[1], make([]byte, 5<<20)...)
	if _, _, _, err := write(t, endless, chunk.Options{Whole: true}); !errors.Is(err, errs.Limit) {
		t.Errorf("with 5 MiB after its end: %v, want Limit", err)
	}
}

// long is a tar with a file of several chunks.
func long(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "long", Size: 9 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(acceltest.Random(9 << 20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// every cuts at one length.
type every int

func (n every) Split(data []byte) int { return min(int(n), len(data)) }

// TestGlobalHeader has what git archive begins with.
func TestGlobalHeader(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "a commit"}}, {Typeflag: tar.TypeReg, Name: "a"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	out, entries, _, err := write(t, b.Bytes(), chunk.Options{})
	if err != nil || len(entries) != 2 || entries[1].Name != "a" || !bytes.Equal(out, b.Bytes()) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestApart(t *testing.T) {
	t.Parallel()
	_, entries, _, err := write(t, acceltest.Layers(t)[0], chunk.Options{Apart: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, c := range e.Chunks {
			if c.End-c.Start != c.Size {
				t.Errorf("%s: a chunk of %d bytes has %d", e.Name, c.Size, c.End-c.Start)
			}
		}
	}
}

// TestManyHeaders has more headers in a row than belong in one piece.
func TestManyHeaders(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 15_000 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint(i), Linkname: strings.Repeat("x", 300)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, entries, _, err := write(t, buf.Bytes(), chunk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 15_000 || !bytes.HasPrefix(buf.Bytes(), out) {
		t.Errorf("%d entries", len(entries))
	}
}

func TestSparse(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/sparse-*.tar.gz")
	if err != nil || len(names) != 4 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		data := gunzip(t, name)
		want, err := list(data)
		if err != nil {
			t.Fatal(err)
		}
		out, entries, _, err := write(t, data, chunk.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, told(t, out, entries)); diff != "" {
			t.Errorf("%s: entries mismatch (-want +got):\n%s", name, diff)
		}
		got, err := list(out)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: output mismatch (-want +got):\n%s\n%v", name, diff, err)
		}
		if _, _, _, err := write(t, data, chunk.Options{NoSparse: true}); !errors.Is(err, chunk.ErrSparse) {
			t.Errorf("%s: refused with %v, want ErrSparse", name, err)
		}
		if _, _, _, err := write(t, data[:4000], chunk.Options{}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: cut short: %v, want Corrupt", name, err)
		}
		var seen []string
		if err := chunk.Headers(bytes.NewReader(data), func(h *tar.Header) { seen = append(seen, h.Name) }); err != nil || len(seen) != len(want) {
			t.Errorf("%s: Headers saw %q, %v", name, seen, err)
		}
	}
}

func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSparseClaims is about a header of some bytes that claims a file of a petabyte.
func TestSparseClaims(t *testing.T) {
	t.Parallel()
	data := append([]byte(nil), gunzip(t, "testdata/sparse-gnu.tar.gz")...)
	copy(data[483:495], "77777777777\x00") // the length of the file with its holes; then base 256 for more
	copy(data[483:495], "\x80\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00")
	copy(data[148:156], "        ")
	sum := 0
	for _, c := range data[:512] {
		sum += int(c)
	}
	copy(data[148:156], fmt.Sprintf("%06o\x00 ", sum))
	if _, _, _, err := write(t, data, chunk.Options{}); !errors.Is(err, errs.Limit) {
		t.Errorf("error %v, want one of kind Limit", err)
	}
}

func TestBadTars(t *testing.T) {
	t.Parallel()
	whole := acceltest.Layers(t)[1]
	oneEmpty := append(make([]byte, 512), whole...)
	longMeta := bytes.Clone(whole[:512])
	longMeta[156] = tar.TypeXHeader
	copy(longMeta[124:136], "77777777777\x00")
	for name, data := range map[string][]byte{
		"one empty block": oneEmpty, "too long an extended header": longMeta, "checksum": append([]byte("x"), whole[1:]...),
		"ends in a header": whole[:700], "ends in content": whole[:5*512+700],
	} {
		if _, _, _, err := write(t, data, chunk.Options{}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v, want Corrupt", name, err)
		}
	}
}

// FuzzTar holds what is told of a tar against archive/tar. It leaves out sparse files: what takes a fuzzer's time is
// their holes.
func FuzzTar(f *testing.F) {
	f.Add(acceltest.Layers(f)[1][:6*512])
	f.Add(append(acceltest.Layers(f)[0][:512], make([]byte, 1024)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, entries, _, err := write(t, data, chunk.Options{CRC64: true, NoSparse: true})
		if err != nil {
			if !errors.Is(err, errs.Corrupt) && !errors.Is(err, chunk.ErrSparse) {
				t.Errorf("error %v has no kind", err)
			}
			return
		}
		want, wantErr := list(data)
		if wantErr != nil {
			t.Fatalf("took what archive/tar refuses: %v", wantErr)
		}
		got := told(t, out, entries)
		if len(got) != len(want) {
			t.Fatalf("%d entries, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("entry %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	})
}
