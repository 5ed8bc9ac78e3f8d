package estargz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/flate"

	"slipway/internal/oci/accel/chunk"
)

// gzipCodec makes a gzip member of each piece. The encoder's tables, of which the standard library makes new ones for
// each member, are used again: that is most of the difference in time.
type gzipCodec struct{ level int }

func (c gzipCodec) Encoder() chunk.Encoder { return &gzipEncoder{level: c.level} }

type gzipEncoder struct {
	level int
	w     *flate.Writer
}

// Encode implements chunk.Encoder.
func (g *gzipEncoder) Encode(dst, src []byte) ([]byte, error) {
	// No name, no time, and "unknown" for the operating system (RFC 1952 §2.3).
	out := bytes.NewBuffer(append(dst, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff))
	if g.w == nil {
		w, err := flate.NewWriter(out, g.level)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		g.w = w
	} else {
		g.w.Reset(out)
	}
	if _, err := g.w.Write(src); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := g.w.Close(); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	b := binary.LittleEndian.AppendUint32(out.Bytes(), crc32.ChecksumIEEE(src))
	return binary.LittleEndian.AppendUint32(b, uint32(len(src))), nil
}

// footer is an empty gzip member that says, in an extra field "SG" of its header, where the member with the table
// begins. It has always 51 bytes: that is how readers find it.
func footer(toc int64) []byte {
	const extra uint16 = 16 + 6 // hexadecimal digits, and the word
	b := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff}
	b = binary.LittleEndian.AppendUint16(b, 4+extra)
	b = append(b, 'S', 'G')
	b = binary.LittleEndian.AppendUint16(b, extra)
	b = fmt.Appendf(b, "%016xSTARGZ", toc)
	return append(b,
		1, 0, 0, 0xff, 0xff, // a last stored block of no bytes
		0, 0, 0, 0, 0, 0, 0, 0) // checksum and length of nothing
}
