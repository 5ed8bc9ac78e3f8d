package estargz

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// What a layer of a stranger may take of our memory.
const (
	footerSize = 51
	maxPacked  = 64 << 20  // of a table
	maxText    = 512 << 20 // of a table, decompressed
	maxPiece   = 64 << 20  // of a chunk
)

// Source reads parts of a layer's blob.
type Source interface {
	// ReadAt reads len(p) bytes at off.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// Size is the length of the blob.
	Size() int64
}

// Reader reads a layer of which only the table has been fetched.
type Reader struct {
	src   Source
	files []*File
}

// File is an entry of a layer's table.
type File struct {
	// Name is clean and relative.
	Name string
	// Type is one of reg, dir, symlink, hardlink, char, block and fifo.
	Type string
	// Link is the target of a symbolic link, or the Name of the file that a hard link is another name of.
	Link               string
	Mode               int64
	UID, GID           int
	Size               int64
	ModTime            time.Time
	DevMajor, DevMinor int64
	Xattrs             map[string][]byte

	chunks []piece
}

// piece is a part of a file's content, and where the member that begins with it is.
type piece struct {
	offset, size int64 // in the content
	start, end   int64 // in the blob
	digest       oci.Digest
}

// Open fetches a layer's table and verifies it by its digest, which the layer's descriptor has as AnnotationTOC. What is
// wrong with the layer is an error of kind errs.Corrupt; nothing of a table that is too large for memory is kept.
func Open(ctx context.Context, src Source, toc oci.Digest) (*Reader, error) {
	r, err := open(ctx, src, toc)
	if err != nil {
		return nil, fmt.Errorf("open estargz: %w", err)
	}
	return r, nil
}

func open(ctx context.Context, src Source, toc oci.Digest) (*Reader, error) {
	if err := toc.Validate(); err != nil {
		return nil, corrupt("digest of the table: %w", err)
	}
	size := src.Size()
	if size < footerSize {
		return nil, corrupt("%d bytes are too few", size)
	}
	var foot [footerSize]byte
	if err := src.ReadAt(ctx, foot[:], size-footerSize); err != nil {
		return nil, err
	}
	start, err := parseFooter(foot[:])
	if err != nil {
		return nil, err
	}
	if start < 0 || start >= size-footerSize || size-footerSize-start > maxPacked {
		return nil, corrupt("the footer says that the table is at %d of %d", start, size)
	}
	packed := make([]byte, size-footerSize-start)
	if err := src.ReadAt(ctx, packed, start); err != nil {
		return nil, err
	}
	text, err := unpackTable(packed)
	if err != nil {
		return nil, err
	}
	if got := toc.Algorithm().FromBytes(text); got != toc {
		return nil, corrupt("the table is %s, not %s", got, toc)
	}
	r := &Reader{src: src}
	return r, r.parse(text, start)
}

func corrupt(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), errs.Corrupt)
}

// parseFooter returns where the table is. See footer.
func parseFooter(b []byte) (int64, error) {
	const header = 16 // up to the number
	want := footer(0)
	if !bytes.Equal(b[:3], want[:3]) || !bytes.Equal(b[10:header], want[10:header]) || !bytes.Equal(b[header+16:38], want[header+16:38]) {
		return 0, corrupt("there is no footer")
	}
	number, err := hex.DecodeString(string(b[header : header+16]))
	if err != nil || number[0] > 0x7f {
		return 0, corrupt("footer: %q is no place", b[header:header+16])
	}
	var start int64
	for _, c := range number {
		start = start<<8 | int64(c)
	}
	return start, nil
}

// unpackTable returns the table's text from the member that ends the tar.
func unpackTable(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, corrupt("table: %w", err)
	}
	t := tar.NewReader(io.LimitReader(z, maxText))
	h, err := t.Next()
	if err != nil {
		return nil, corrupt("table: %w", err)
	}
	if h.Name != tocName || h.Typeflag != tar.TypeReg {
		return nil, corrupt("where the table should be is %q", h.Name)
	}
	text, err := io.ReadAll(t) // as much as there is, not as the header claims
	if err != nil {
		return nil, corrupt("table: %w", err)
	}
	return text, nil
}

// parse reads the table of a blob whose content ends at end.
func (r *Reader) parse(text []byte, end int64) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	var entries []tocEntry
	if err := tableEntries(dec, func(e tocEntry) error {
		if len(entries) >= maxEntries {
			return errs.Mark(fmt.Errorf("layer has more than %d entries", maxEntries), errs.Limit)
		}
		entries = append(entries, e)
		return nil
	}); err != nil {
		return err
	}
	starts := []int64{end}
	for _, e := range entries {
		if hasChunk(e) {
			starts = append(starts, e.Offset)
		}
	}
	slices.Sort(starts)
	var last *File
	for _, e := range entries {
		if e.Type != "chunk" {
			if err := last.complete(); err != nil {
				return err
			}
			if last = newFile(e); last == nil {
				return corrupt("%q is of type %q", e.Name, e.Type)
			}
			r.files = append(r.files, last)
		}
		if !hasChunk(e) {
			continue
		}
		if last == nil || last.Type != "reg" {
			return corrupt("a chunk without a file")
		}
		if err := last.chunk(e, starts, end); err != nil {
			return err
		}
	}
	return last.complete()
}

func hasChunk(e tocEntry) bool { return e.Type == "chunk" || e.Type == "reg" && e.Size > 0 }

// tableEntries calls each for the entries of a table, one by one.
func tableEntries(dec *json.Decoder, each func(tocEntry) error) error {
	for depth := 0; ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) && depth == 0 {
			return nil
		}
		if err != nil {
			return corrupt("table: %w", err)
		}
		switch token {
		case json.Delim('{'):
			depth++
		case json.Delim('}'):
			depth--
		case "entries":
			if depth != 1 {
				continue
			}
			if token, err := dec.Token(); err != nil || token != json.Delim('[') {
				return corrupt("table: entries are no list")
			}
			for dec.More() {
				var e tocEntry
				if err := dec.Decode(&e); err != nil {
					return corrupt("table: %w", err)
				}
				if err := each(e); err != nil {
					return err
				}
			}
		}
	}
}

func newFile(e tocEntry) *File {
	f := &File{
		Name: clean(e.Name), Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size, DevMajor: e.DevMajor, DevMinor: e.DevMinor,
		Xattrs: e.Xattrs,
	}
	if t, err := time.Parse(time.RFC3339, e.ModTime); err == nil {
		f.ModTime = t
	}
	switch e.Type {
	case "symlink":
		f.Link = e.LinkName
	case "hardlink":
		f.Link = clean(e.LinkName)
	case "reg", "dir", "char", "block", "fifo":
	default:
		return nil
	}
	if e.Type != "reg" {
		f.Size = 0
	}
	return f
}

// chunk adds a part of the file's content.
func (f *File) chunk(e tocEntry, starts []int64, end int64) error {
	i, ok := slices.BinarySearch(starts, e.Offset)
	if !ok || e.Offset <= 0 || e.Offset >= end {
		return corrupt("%s: a chunk at %d of %d", f.Name, e.Offset, end)
	}
	next := starts[i+1]
	if next == e.Offset {
		return errs.Mark(fmt.Errorf("%s: shares a member with another file, which is not read here", f.Name), errs.Invalid)
	}
	c := piece{offset: e.ChunkOffset, size: e.ChunkSize, start: e.Offset, end: next, digest: oci.Digest(e.ChunkDigest)}
	if c.size == 0 { // the last one, or the only one
		c.size = f.Size - c.offset
	}
	if c.digest == "" && len(f.chunks) == 0 && c.size == f.Size {
		c.digest = oci.Digest(e.Digest)
	}
	if c.offset != f.end() || c.size <= 0 || c.size > f.Size-c.offset {
		return corrupt("%s: a chunk of %d bytes at %d of %d", f.Name, c.size, c.offset, f.Size)
	}
	if err := c.digest.Validate(); err != nil || c.digest.Algorithm() != digest.SHA256 {
		return corrupt("%s: a chunk with the digest %q", f.Name, c.digest)
	}
	f.chunks = append(f.chunks, c)
	return nil
}

// end is up to where the chunks go.
func (f *File) end() int64 {
	if len(f.chunks) == 0 {
		return 0
	}
	last := f.chunks[len(f.chunks)-1]
	return last.offset + last.size
}

// complete checks that the chunks are all of the file.
func (f *File) complete() error {
	if f == nil || f.Type != "reg" || f.end() == f.Size {
		return nil
	}
	return corrupt("%s: chunks make %d bytes of %d", f.Name, f.end(), f.Size)
}

// Files are the layer's, without those of the format.
func (r *Reader) Files() []*File {
	return slices.DeleteFunc(slices.Clone(r.files), func(f *File) bool { return reserved(f.Name) })
}

// Chunk returns the chunk that has a file's content at an offset, and the number of the first byte in it. It is fetched
// and verified by its digest.
func (r *Reader) Chunk(ctx context.Context, f *File, offset int64) (data []byte, first int64, err error) {
	i := f.ChunkAt(offset)
	if i < 0 {
		return nil, 0, io.EOF
	}
	c := f.chunks[i]
	if data, err = r.fetch(ctx, c); err != nil {
		return nil, 0, fmt.Errorf("%s: chunk at %d: %w", f.Name, c.offset, err)
	}
	return data, c.offset, nil
}

// ChunkAt is the number of the chunk that has the content at an offset, from 0; -1 when none has.
func (f *File) ChunkAt(offset int64) int {
	i, ok := slices.BinarySearchFunc(f.chunks, offset, func(c piece, at int64) int {
		switch {
		case c.offset+c.size <= at:
			return -1
		case c.offset > at:
			return 1
		}
		return 0
	})
	if !ok {
		return -1
	}
	return i
}

func (r *Reader) fetch(ctx context.Context, c piece) ([]byte, error) {
	if c.size > maxPiece {
		return nil, errs.Mark(fmt.Errorf("%d bytes cannot be verified at once", c.size), errs.Limit)
	}
	// Headers follow the content in its member, maybe a lot of them: what the content itself takes is enough. A member
	// is never longer than its content by more than this.
	packed := make([]byte, min(c.end-c.start, c.size+c.size/8+4096))
	if err := r.src.ReadAt(ctx, packed, c.start); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	data := make([]byte, c.size)
	if _, err := io.ReadFull(z, data); err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	if got := digest.FromBytes(data); got != c.digest {
		return nil, corrupt("it is %s, not %s", got, c.digest)
	}
	return data, nil
}
