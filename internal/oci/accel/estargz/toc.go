package estargz

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/chunk"
)

// maxEntries bounds the table, which readers hold in memory as a whole.
const maxEntries = 2 << 20

// tocEntry is an entry of the table (estargz.md §TOCEntry). The order of the fields is part of the output's bytes.
type tocEntry struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	Size        int64             `json:"size,omitempty"`
	ModTime     string            `json:"modtime,omitempty"`
	LinkName    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	DevMajor    int64             `json:"devMajor,omitempty"`
	DevMinor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string][]byte `json:"xattrs,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkDigest string            `json:"chunkDigest,omitempty"`
}

const xattrPrefix = "SCHILY.xattr."

// table gathers the entries, encoded.
type table struct {
	text []byte // a line for each entry; chunks after the first are lines, too
	ends []int  // of the entries in text
	// last is the latest entry of each name: of several, that one counts, and the others' content must not be taken for
	// a part of its content.
	last  map[string]int
	dup   bool
	links []link
}

// link is a hard link, the nth entry of the table.
type link struct {
	n      int
	target string
}

// add takes an entry down. It is what chunk.Options.Entry wants.
func (t *table) add(e *chunk.Entry) error {
	h := e.Header
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment
	}
	if len(t.ends) >= maxEntries {
		return errs.Mark(fmt.Errorf("layer has more than %d entries", maxEntries), errs.Limit)
	}
	kind, err := kindOf(h)
	if err != nil {
		return err
	}
	out := tocEntry{Name: e.Name, Type: kind, Mode: h.Mode, UID: h.Uid, GID: h.Gid, ModTime: timeText(h.ModTime), Digest: e.Digest.String()}
	switch kind {
	case "dir":
		out.Name += "/"
	case "reg":
		out.Size = h.Size
	case "symlink":
		out.LinkName = h.Linkname
	case "hardlink":
		out.LinkName = h.Linkname
		t.links = append(t.links, link{len(t.ends), clean(h.Linkname)})
	case "char", "block":
		out.DevMajor, out.DevMinor = h.Devmajor, h.Devminor
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if out.Xattrs == nil {
				out.Xattrs = map[string][]byte{}
			}
			out.Xattrs[name] = []byte(v)
		}
	}
	if err := t.lines(out, e.Chunks); err != nil {
		return err
	}
	if _, again := t.last[e.Name]; again {
		t.dup = true
	}
	t.last[e.Name] = len(t.ends)
	t.ends = append(t.ends, len(t.text))
	return nil
}

// lines adds an entry, and one for each further chunk of its content.
func (t *table) lines(e tocEntry, chunks []chunk.Chunk) error {
	for i, c := range chunks {
		if i > 0 {
			if err := t.line(e); err != nil {
				return err
			}
			e = tocEntry{Name: e.Name, Type: "chunk"}
		}
		e.Offset, e.ChunkOffset, e.ChunkDigest = c.Start, c.Offset, c.Digest.String()
		if len(chunks) > 1 { // else it is all of the content
			e.ChunkSize = c.Size
		}
	}
	return t.line(e)
}

func (t *table) line(e tocEntry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	t.text = append(append(t.text, data...), ",\n"...)
	return nil
}

// check refuses hard links that the table cannot express: to files of the layers below, or to what a later entry of the
// same name replaced. Readers refuse the whole table then.
func (t *table) check() error {
	for _, l := range t.links {
		if at, ok := t.last[l.target]; !ok || at >= l.n {
			return errs.Mark(fmt.Errorf("hard link to %s, which this layer does not have before it", l.target), accel.ErrUnfit)
		}
	}
	return nil
}

// encode returns the table as JSON.
func (t *table) encode() []byte {
	const head, tail = "{\"version\":1,\"entries\":[\n", "]}\n"
	out := make([]byte, 0, len(head)+len(t.text)+len(tail))
	out = append(out, head...)
	if !t.dup {
		out = append(out, t.text...)
	} else {
		out = t.latest(out)
	}
	if len(t.ends) > 0 {
		out = append(out[:len(out)-len(",\n")], '\n')
	}
	return append(out, tail...)
}

// latest appends the entries that no later one of the same name replaces.
func (t *table) latest(out []byte) []byte {
	keep := make([]bool, len(t.ends))
	for _, i := range t.last {
		keep[i] = true
	}
	start := 0
	for i, end := range t.ends {
		if keep[i] {
			out = append(out, t.text[start:end]...)
		}
		start = end
	}
	return out
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
	return "", errs.Mark(fmt.Errorf("%s: entries of type %q belong in no layer", h.Name, h.Typeflag), errs.Corrupt)
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Truncate(time.Second).Format(time.RFC3339)
}

// clean is the path that a name in a tar means.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// reserved says whether a name is one that the format gives a meaning to.
func reserved(name string) bool {
	switch clean(name) {
	case tocName, prefetchLandmark, noPrefetch:
		return true
	}
	return false
}
