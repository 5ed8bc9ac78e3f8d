// Package lsmt reads and writes LSMT, the layers of which overlaybd makes a block device: a log of sectors in the order
// in which they were written, and an index that says where on the device each piece of the log is.
//
//	header (4096 bytes) | data | index: 16 bytes for each segment, by place on the device | trailer (4096 bytes)
//
// A Writer makes a layer. Open reads one, and Stack puts layers on top of each other: a sector is that of the highest
// layer which has it, and zero if none has. Numbers are little endian, places are counted in sectors of 512 bytes.
//
// Layers that can still be written to, and those that point into other files (warp files), are refused.
package lsmt

import (
	"encoding/binary"
	"fmt"

	"slipway/internal/errs"
)

const (
	// SectorSize is the unit of all places and lengths.
	SectorSize = 512
	// MaxSize is the largest device that an index can describe.
	MaxSize = int64(maxOffset) * SectorSize
	// MaxLayers is how many layers a stack may have.
	MaxLayers = 255

	headerSize = 4096
	structSize = 390 // what the header says its length is; the rest of the 4096 bytes is zero
	entrySize  = 16
	// maxSegments is how many segments a consumer takes in one layer.
	maxSegments = 1_000_000
	// maxMerged bounds the memory of a stack.
	maxMerged = 4_000_000

	maxOffset  = 1<<50 - 1 // also that of an entry which means nothing
	maxMapped  = 1<<55 - 1
	zeroedBit  = 1 << 55
	lengthBits = 14
	maxLength  = 1<<lengthBits - 1
	// longest is the longest segment that is written: whole pages, so that no page is in two pieces.
	longest = maxLength &^ 7
)

// Flags of a header.
const (
	flagHeader = 1 << 0 // it is the header, not the trailer
	flagData   = 1 << 1 // the file has data, not only an index
	flagSealed = 1 << 2 // nothing will be appended
)

const magic = "LSMT\x00\x01\x02\x00\x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a"

// UUID names a layer.
type UUID [16]byte

// String returns the usual form of 36 characters.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// header is what the header and the trailer say.
type header struct {
	flags       uint32
	indexOffset uint64 // in bytes
	indexCount  uint64
	size        uint64 // of the device, in bytes
	uuid        UUID
	parent      UUID
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[24:], structSize)
	le.PutUint32(b[28:], h.flags)
	le.PutUint64(b[32:], h.indexOffset)
	le.PutUint64(b[40:], h.indexCount)
	le.PutUint64(b[48:], h.size)
	copy(b[56:], h.uuid.String()) // a string of C: 37 bytes
	copy(b[93:], h.parent.String())
	b[132], b[133] = 1, 1 // version
	return b
}

// decode reads a header. UUIDs are not read: nothing depends on them.
func (h *header) decode(b []byte) error {
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("no LSMT header: %w", errs.Corrupt)
	}
	le := binary.LittleEndian
	*h = header{
		flags: le.Uint32(b[28:]), indexOffset: le.Uint64(b[32:]), indexCount: le.Uint64(b[40:]), size: le.Uint64(b[48:]),
	}
	return nil
}

// segment is a piece of the device that is in one piece in a layer.
type segment struct {
	offset uint64 // on the device, in sectors
	mapped uint64 // in the layer's file, in sectors
	length uint32 // in sectors
	layer  uint8  // of a stack
	zero   bool   // it is zero, and not in the file
}

func (s *segment) end() uint64 { return s.offset + uint64(s.length) }

// cut returns what is left of the segment without its first n sectors.
func (s segment) cut(n uint64) segment {
	s.offset += n
	s.length -= uint32(n)
	if !s.zero {
		s.mapped += n
	}
	return s
}

func (s *segment) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, s.offset|uint64(s.length)<<(64-lengthBits))
	mapped := s.mapped
	if s.zero {
		mapped |= zeroedBit
	}
	return binary.LittleEndian.AppendUint64(b, mapped)
}

// decodeSegment reads an entry of an index. The tag in its last byte has no meaning in a file.
func decodeSegment(b []byte) segment {
	place, mapped := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return segment{
		offset: place & maxOffset, length: uint32(place >> (64 - lengthBits)), mapped: mapped & maxMapped, zero: mapped&zeroedBit != 0,
	}
}
