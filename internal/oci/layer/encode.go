package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// indexMagic begins an encoded index. The last byte is the version.
const indexMagic = "slipidx\x01"

// minRecord is the length of the shortest record.
const minRecord = 8

// The parts of an entry that most entries do not have.
const (
	hasLink = 1 << iota
	hasDevice
	hasXattrs
	isHard
	isWhiteout
	isOpaque
)

// Encode returns the index in a compact form that Decode reads: a checksum at the end, all names in one piece, and
// numbers as varints. Equal indexes give equal bytes.
func (x *Index) Encode() []byte {
	var names []byte
	var records []byte
	for i := range x.entries {
		records, names = appendRecord(records, names, &x.entries[i])
	}
	b := []byte(indexMagic)
	b = binary.AppendUvarint(b, uint64(len(x.entries)))
	b = binary.AppendUvarint(b, uint64(len(names)))
	b = append(append(b, names...), records...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func appendRecord(b, names []byte, e *Entry) (records, allNames []byte) {
	name := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		names = append(names, s...)
	}
	b = append(b, recordFlags(e))
	name(e.Path)
	b = binary.AppendUvarint(b, uint64(unixMode(e.Mode)))
	b = binary.AppendVarint(b, int64(e.UID))
	b = binary.AppendVarint(b, int64(e.GID))
	b = binary.AppendVarint(b, e.Size)
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	if e.Link != "" {
		name(e.Link)
	}
	if e.Major != 0 || e.Minor != 0 {
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	if len(e.Xattrs) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, key := range slices.Sorted(maps.Keys(e.Xattrs)) {
			name(key)
			name(e.Xattrs[key])
		}
	}
	return b, names
}

func recordFlags(e *Entry) byte {
	return flag(e.Link != "", hasLink) | flag(e.Major != 0 || e.Minor != 0, hasDevice) | flag(len(e.Xattrs) > 0, hasXattrs) |
		flag(e.Hard, isHard) | flag(e.Whiteout, isWhiteout) | flag(e.Opaque, isOpaque)
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// Decode returns the index that Encode made data of. Anything else is an error of kind errs.Corrupt.
func Decode(data []byte) (*Index, error) {
	x, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("decode layer index: %w", errs.Mark(err, errs.Corrupt))
	}
	return x, nil
}

func decode(data []byte) (*Index, error) {
	end := len(data) - 4
	if end < len(indexMagic) || string(data[:len(indexMagic)]) != indexMagic {
		return nil, errors.New("not an index of this version")
	}
	if crc32.ChecksumIEEE(data[:end]) != binary.LittleEndian.Uint32(data[end:]) {
		return nil, errors.New("wrong checksum")
	}
	d := decoder{rest: data[len(indexMagic):end]}
	count, size := d.uvarint(), d.uvarint()
	if size > uint64(len(d.rest)) || count > uint64(len(d.rest))/minRecord {
		return nil, errors.New("counts exceed the data")
	}
	d.names, d.rest = string(d.rest[:size]), d.rest[size:]
	entries := make([]Entry, count)
	for i := range entries {
		d.record(&entries[i])
		if d.bad || i == 0 && !inside(entries[i].Path) || i > 0 && !follows(entries[i-1].Path, entries[i].Path) {
			return nil, fmt.Errorf("entry %d is malformed or out of order", i)
		}
	}
	if len(d.rest) > 0 || d.names != "" {
		return nil, errors.New("bytes are left over")
	}
	return &Index{entries: entries}, nil
}

// decoder reads values from data. Once something is missing everything is zero and bad is set.
type decoder struct {
	rest  []byte
	names string
	bad   bool
}

func (d *decoder) record(e *Entry) {
	flags := d.byte()
	e.Path = d.name()
	e.Mode = FileMode(uint32(d.uvarint()))
	e.UID, e.GID = int(d.varint()), int(d.varint())
	e.Size = d.varint()
	sec := d.varint()
	e.ModTime = time.Unix(sec, int64(d.uvarint()%1e9))
	if flags&hasLink != 0 {
		e.Link = d.name()
	}
	if flags&hasDevice != 0 {
		e.Major, e.Minor = uint32(d.uvarint()), uint32(d.uvarint())
	}
	e.Hard, e.Whiteout, e.Opaque = flags&isHard != 0, flags&isWhiteout != 0, flags&isOpaque != 0
	if flags&hasXattrs != 0 {
		n := d.uvarint()
		e.Xattrs = map[string]string{}
		for range min(n, uint64(len(d.rest))) {
			key := d.name()
			e.Xattrs[key] = d.name()
		}
	}
	d.bad = d.bad || e.Path == ""
}

// follows says whether b comes after a, and is a proper path. Nearly always both are in the same directory, so that
// only the names need be looked at.
func follows(a, b string) bool {
	aDir, aBase := splitPath(a)
	if len(b) > len(aDir)+1 && b[:len(aDir)] == aDir && len(aDir) > 0 && b[len(aDir)] == '/' && strings.IndexByte(b[len(aDir)+1:], '/') < 0 {
		base := b[len(aDir)+1:]
		return base > aBase && base != "." && base != ".."
	}
	return inside(b) && comparePaths(a, b) < 0
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	return advance(d, v, n)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	return advance(d, v, n)
}

func advance[T int64 | uint64](d *decoder, v T, n int) T {
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) name() string {
	n := d.uvarint()
	if n > uint64(len(d.names)) {
		d.bad = true
		return ""
	}
	s := d.names[:n]
	d.names = d.names[n:]
	return s
}
