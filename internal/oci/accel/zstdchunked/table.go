package zstdchunked

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/chunk"
)

// maxEntries bounds the table, which clients hold in memory as a whole.
const maxEntries = 1 << 20

// file is an entry of the table (go.podman.io/storage, FileMetadata). The order of the fields is part of the output's
// bytes. What repeats the header must be equal to it, names included.
type file struct {
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	LinkName    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	Size        int64             `json:"size,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	ModTime     *time.Time        `json:"modtime,omitempty"`
	AccessTime  *time.Time        `json:"accesstime,omitempty"`
	ChangeTime  *time.Time        `json:"changetime,omitempty"`
	DevMajor    int64             `json:"devMajor,omitempty"`
	DevMinor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string][]byte `json:"xattrs,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	EndOffset   int64             `json:"endOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkDigest string            `json:"chunkDigest,omitempty"`
	ChunkType   string            `json:"chunkType,omitempty"`
}

const (
	xattrPrefix = "SCHILY.xattr."
	zeroChunk   = "zeros"
)

// table gathers the entries, encoded, and the tar-split data beside them.
type table struct {
	text  []byte // entries, each followed by a comma
	count int
	seen  map[string]bool
	split *tarSplit
}

func (f *Format) newTable() (*table, error) {
	split, err := newTarSplit(f.level)
	return &table{seen: map[string]bool{}, split: split}, err
}

// add takes an entry down. It is what chunk.Options.Entry wants.
func (t *table) add(e *chunk.Entry) error {
	h := e.Header
	if t.count++; t.count > maxEntries {
		return errs.Mark(fmt.Errorf("layer has more than %d entries", maxEntries), errs.Limit)
	}
	kind, err := kindOf(h)
	if err != nil {
		return err
	}
	if kind != "reg" && h.Size != 0 {
		return unfit("%s: a %s with a length", h.Name, kind)
	}
	if t.seen[h.Name] {
		return unfit("%s is in it twice", h.Name)
	}
	t.seen[h.Name] = true
	main := file{
		Type: kind, Name: h.Name, LinkName: h.Linkname, Mode: h.Mode, Size: h.Size, UID: h.Uid, GID: h.Gid,
		ModTime: timeOf(h.ModTime), AccessTime: timeOf(h.AccessTime), ChangeTime: timeOf(h.ChangeTime),
		DevMajor: h.Devmajor, DevMinor: h.Devminor, Digest: e.Digest.String(),
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if main.Xattrs == nil {
				main.Xattrs = map[string][]byte{}
			}
			main.Xattrs[name] = []byte(v)
		}
	}
	if err := t.entries(main, e.Chunks); err != nil {
		return err
	}
	return t.split.file(e)
}

// entries adds an entry, and one for each further chunk of its content.
func (t *table) entries(main file, chunks []chunk.Chunk) error {
	if len(chunks) == 0 {
		return t.entry(main)
	}
	main.Offset, main.EndOffset = chunks[0].Start, chunks[len(chunks)-1].End
	if len(chunks) == 1 {
		return t.entry(main)
	}
	for i, c := range chunks {
		e := main
		if i > 0 {
			e = file{Type: "chunk", Name: main.Name}
		}
		e.Offset, e.ChunkOffset, e.ChunkSize, e.ChunkDigest = c.Start, c.Offset, c.Size, c.Digest.String()
		if c.Zero {
			e.ChunkType = zeroChunk
		}
		if err := t.entry(e); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) entry(e file) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	t.text = append(append(t.text, data...), ',')
	return nil
}

// encode returns the table as JSON.
func (t *table) encode(split oci.Digest) []byte {
	b := append(make([]byte, 0, len(t.text)+200), `{"version":1,"entries":[`...)
	b = append(b, bytes.TrimSuffix(t.text, []byte(","))...)
	return fmt.Appendf(b, `],"tarSplitDigest":%q}`, split)
}

func unfit(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), accel.ErrUnfit)
}

func kindOf(h *tar.Header) (string, error) {
	switch h.Typeflag {
	case tar.TypeReg:
		return "reg", nil
	case tar.TypeDir:
		return "dir", nil
	case tar.TypeSymlink:
		return "symlink", nil
	case tar.TypeLink:
		return "hardlink", nil
	case tar.TypeChar:
		return "char", nil
	case tar.TypeBlock:
		return "block", nil
	case tar.TypeFifo:
		return "fifo", nil
	}
	return "", unfit("%s: an entry of type %q", h.Name, h.Typeflag)
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC() // the same on machines in other places
	return &t
}

// tarSplit writes what a tar has besides the content of its files, so that the tar can be put together again: in the
// format of github.com/vbatts/tar-split, a JSON document a line, compressed.
type tarSplit struct {
	out  bytes.Buffer
	w    *zstd.Encoder
	size int64 // before compression
	next int
}

// splitEntry is a line of it: bytes of the tar, or the place where the content of a file goes.
type splitEntry struct {
	Type     int    `json:"type"`
	Name     string `json:"name,omitempty"`
	NameRaw  []byte `json:"name_raw,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Payload  []byte `json:"payload"` // the bytes, or the checksum of the content
	Position int    `json:"position"`
}

const (
	splitFile    = 1
	splitSegment = 2
)

func newTarSplit(level int) (*tarSplit, error) {
	t := &tarSplit{}
	var err error
	t.w, err = newEncoder(&t.out, level)
	return t, err
}

// file adds the bytes before a file's content, and the file.
func (t *tarSplit) file(e *chunk.Entry) error {
	if err := t.segment(e.Raw); err != nil {
		return err
	}
	line := splitEntry{Type: splitFile, Size: e.Header.Size}
	if e.Header.Size > 0 {
		line.Payload = binary.BigEndian.AppendUint64(nil, e.Checksum)
	}
	if utf8.ValidString(e.Header.Name) {
		line.Name = e.Header.Name
	} else {
		line.NameRaw = []byte(e.Header.Name)
	}
	return t.line(line)
}

// segment adds bytes that are no content.
func (t *tarSplit) segment(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	return t.line(splitEntry{Type: splitSegment, Payload: raw})
}

func (t *tarSplit) line(e splitEntry) error {
	e.Position = t.next
	t.next++
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("tar-split: %w", err)
	}
	data = append(data, '\n')
	t.size += int64(len(data))
	if _, err := t.w.Write(data); err != nil {
		return fmt.Errorf("tar-split: %w", err)
	}
	return nil
}

// close returns the compressed whole.
func (t *tarSplit) close() ([]byte, error) {
	if err := t.w.Close(); err != nil {
		return nil, fmt.Errorf("tar-split: %w", err)
	}
	return t.out.Bytes(), nil
}
