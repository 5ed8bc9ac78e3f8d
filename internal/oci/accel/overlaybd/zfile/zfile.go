// Package zfile reads and writes ZFile, the compressed container of overlaybd: a file cut into blocks of equal size, each
// compressed on its own and followed by a checksum, so that any part of it can be read without the rest.
//
//	header (512 bytes) | blocks | index: the stored length of each block | trailer (512 bytes)
//
// A Writer makes one of the bytes that are written to it; a Reader gives random access to the plain bytes and verifies the
// checksum of all that it reads. Numbers are little endian. Two things are not in the format's description: its CRC-32C is
// taken without the usual inversions, and a block of 64 KiB that does not compress is more than its consumer can take.
//
// Not written, and refused when read: dictionaries, compressed indexes, and LZO.
package zfile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sync"

	"slipway/internal/errs"
)

const (
	headerSize = 512
	// structSize is what the header says its length is. The rest of the 512 bytes is zero.
	structSize = 96
	sumSize    = 4 // of the checksum after each block
	entrySize  = 4 // of the index

	// Blocks are powers of two within these bounds: smaller ones are not worth an index entry, and larger ones overflow
	// the consumer's buffer of 64 KiB when they do not compress.
	minBlock = 4 << 10
	maxBlock = 32 << 10
)

// Flags of a header.
const (
	flagHeader  = 1 << 0 // it is the header, not the trailer
	flagData    = 1 << 1 // the file has data, not only an index
	flagSealed  = 1 << 2 // nothing will be appended; said by trailers only
	flagFilled  = 1 << 3 // the header has what the trailer has, and nobody needs to look for that
	flagDigest  = 1 << 4 // the header has a digest, and the index a checksum
	flagPacked  = 1 << 5 // the index is compressed
	knownFlags  = flagHeader | flagData | flagSealed | flagFilled | flagDigest | flagPacked
	magic       = "ZFile\x00\x01\x00tuji.yyf@Alibaba"
	blockSeed   = 100007 // checksums of blocks begin with it, those of header and index with 0
	defaultSeed = 0
)

// Algorithms, as headers number them.
const (
	algoLZ4  = 1
	algoZstd = 2
)

// header is what the header and the trailer say.
type header struct {
	flags       uint64
	indexOffset uint64
	indexCount  uint64
	plainSize   uint64
	indexSum    uint32
	blockSize   uint32
	algorithm   uint8
	dictionary  bool
	dictSize    uint32
	checksums   bool
}

// encode returns the header's 512 bytes, with a digest.
func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[24:], structSize)
	le.PutUint64(b[32:], h.flags|flagDigest)
	le.PutUint64(b[40:], h.indexOffset)
	le.PutUint64(b[48:], h.indexCount)
	le.PutUint64(b[56:], h.plainSize)
	le.PutUint32(b[64:], h.indexSum)
	le.PutUint32(b[72:], h.blockSize)
	b[76], b[78] = h.algorithm, flag(h.dictionary)
	le.PutUint32(b[84:], h.dictSize)
	b[88] = flag(h.checksums)
	le.PutUint32(b[28:], checksum(defaultSeed, b))
	return b
}

// decode reads a header's 512 bytes and verifies their digest.
func (h *header) decode(b []byte) error {
	le := binary.LittleEndian
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("no ZFile header: %w", errs.Corrupt)
	}
	*h = header{
		flags: le.Uint64(b[32:]), indexOffset: le.Uint64(b[40:]), indexCount: le.Uint64(b[48:]), plainSize: le.Uint64(b[56:]),
		indexSum: le.Uint32(b[64:]), blockSize: le.Uint32(b[72:]), algorithm: b[76], dictionary: b[78] != 0,
		dictSize: le.Uint32(b[84:]), checksums: b[88] != 0,
	}
	if h.flags&flagDigest == 0 {
		return nil
	}
	// The digest is that of all 512 bytes with zeros in its own place.
	sum := checksum(defaultSeed, b[:28])
	sum = checksum(sum, make([]byte, sumSize))
	if sum = checksum(sum, b[32:]); sum != le.Uint32(b[28:]) {
		return fmt.Errorf("ZFile header has checksum %08x, not %08x: %w", sum, le.Uint32(b[28:]), errs.Corrupt)
	}
	return nil
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// validBlock says whether blocks of n bytes can be read everywhere.
func validBlock(n uint32) bool {
	return n >= minBlock && n <= maxBlock && bits.OnesCount32(n) == 1
}

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// checksum continues a CRC-32C with data. It does not invert at either end, as ZFile wants it: Go's Update inverts twice.
func checksum(sum uint32, data []byte) uint32 {
	return ^crc32.Update(^sum, castagnoli(), data)
}
