package zfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"slipway/internal/errs"
)

const (
	// maxRead is how many stored bytes are read at once.
	maxRead = 1 << 20
	// stride is how many blocks share one full offset in memory; the others are sums of lengths.
	stride = 32
)

// Reader reads the plain bytes of a ZFile at any offset. It may be used by several goroutines at once.
type Reader struct {
	src    io.ReaderAt
	head   header
	unpack decompressor
	sizes  []uint32
	starts []int64 // of each stride-th block
	bufs   sync.Pool
}

// NewReader reads the header and the index of the ZFile that src has in its first size bytes, and verifies both. What is
// wrong with them is an error of kind errs.Corrupt, what this package does not read one of kind errs.Invalid. Memory for
// the index is allocated as it is read.
func NewReader(src io.ReaderAt, size int64) (*Reader, error) {
	r := &Reader{src: src}
	if err := r.open(size); err != nil {
		return nil, err
	}
	r.bufs.New = func() any { return new(buffers) }
	return r, nil
}

func (r *Reader) open(size int64) error {
	if size < 2*headerSize {
		return fmt.Errorf("%d bytes are no ZFile: %w", size, errs.Corrupt)
	}
	end := size - headerSize // of the index
	if err := r.header(end); err != nil {
		return err
	}
	h := &r.head
	if h.flags&^knownFlags != 0 || h.flags&flagPacked != 0 || h.dictionary || h.dictSize != 0 {
		return fmt.Errorf("ZFile has a dictionary, a compressed index or unknown flags %#x: not supported: %w", h.flags, errs.Invalid)
	}
	if !validBlock(h.blockSize) {
		return fmt.Errorf("ZFile block size %d is not a power of two from %d to %d: %w", h.blockSize, minBlock, maxBlock, errs.Invalid)
	}
	alg, err := algorithmOf(h.algorithm)
	if err != nil {
		return err
	}
	block := uint64(h.blockSize)
	if h.plainSize == 0 || h.plainSize > 1<<62 || h.indexCount != (h.plainSize+block-1)/block {
		return fmt.Errorf("ZFile of %d bytes has %d blocks of %d: %w", h.plainSize, h.indexCount, block, errs.Corrupt)
	}
	if h.indexOffset < headerSize || h.indexOffset > uint64(end) || h.indexCount > (uint64(end)-h.indexOffset)/entrySize {
		return fmt.Errorf("ZFile of %d bytes has its index of %d blocks at %d: %w", size, h.indexCount, h.indexOffset, errs.Corrupt)
	}
	if r.unpack, err = alg.decompressor(); err != nil {
		return err
	}
	return r.index(uint32(alg.bound(int(block))) + r.sumSize())
}

// header reads the header, and the trailer at end if the header was left unfinished.
func (r *Reader) header(end int64) error {
	b := make([]byte, headerSize)
	if err := readFull(r.src, b, 0); err != nil {
		return fmt.Errorf("ZFile header: %w", err)
	}
	if err := r.head.decode(b); err != nil {
		return err
	}
	if r.head.flags&flagHeader == 0 {
		return fmt.Errorf("ZFile begins with a trailer: %w", errs.Corrupt)
	}
	if r.head.flags&flagFilled != 0 {
		return nil
	}
	if err := readFull(r.src, b, end); err != nil {
		return fmt.Errorf("ZFile trailer: %w", err)
	}
	if err := r.head.decode(b); err != nil {
		return fmt.Errorf("trailer: %w", err)
	}
	if r.head.flags&(flagHeader|flagData|flagSealed) != flagData|flagSealed {
		return fmt.Errorf("ZFile trailer has flags %#x: %w", r.head.flags, errs.Corrupt)
	}
	return nil
}

func (r *Reader) sumSize() uint32 {
	if r.head.checksums {
		return sumSize
	}
	return 0
}

// index reads the lengths of the blocks, none of which is more than bound.
func (r *Reader) index(bound uint32) error {
	var (
		sum  uint32
		pos  = int64(headerSize)
		off  = int64(r.head.indexOffset)
		left = int64(r.head.indexCount) * entrySize
		buf  = make([]byte, min(left, 64<<10))
	)
	for left > 0 {
		b := buf[:min(left, int64(len(buf)))]
		if err := readFull(r.src, b, off); err != nil {
			return fmt.Errorf("ZFile index: %w", err)
		}
		sum = checksum(sum, b)
		for ; len(b) > 0; b = b[entrySize:] {
			n := binary.LittleEndian.Uint32(b)
			if n <= r.sumSize() || n > bound {
				return fmt.Errorf("ZFile block %d has %d bytes: %w", len(r.sizes), n, errs.Corrupt)
			}
			if len(r.sizes)%stride == 0 {
				r.starts = append(r.starts, pos)
			}
			r.sizes = append(r.sizes, n)
			pos += int64(n)
		}
		off += int64(len(buf))
		left -= int64(len(buf))
	}
	if r.head.flags&flagDigest != 0 && sum != r.head.indexSum {
		return fmt.Errorf("ZFile index has checksum %08x, not %08x: %w", sum, r.head.indexSum, errs.Corrupt)
	}
	if pos != int64(r.head.indexOffset) {
		return fmt.Errorf("ZFile blocks end at %d, and the index begins at %d: %w", pos, r.head.indexOffset, errs.Corrupt)
	}
	return nil
}

// Size returns the number of plain bytes.
func (r *Reader) Size() int64 { return int64(r.head.plainSize) }

// start returns where a block is stored.
func (r *Reader) start(block int64) int64 {
	first := block / stride * stride
	pos := r.starts[block/stride]
	for _, n := range r.sizes[first:block] {
		pos += int64(n)
	}
	return pos
}

// buffers are what one call of ReadAt needs.
type buffers struct{ stored, plain []byte }

// ReadAt reads plain bytes. Blocks that are next to each other are fetched in one read of the source. A block whose
// checksum is wrong or that does not decompress to its length is an error of kind errs.Corrupt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("ZFile read at %d: %w", off, errs.Invalid)
	}
	if off >= r.Size() {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.Size()-off
	if short {
		p = p[:r.Size()-off]
	}
	b, _ := r.bufs.Get().(*buffers)
	defer r.bufs.Put(b)
	n := 0
	for n < len(p) {
		did, err := r.run(b, p[n:], off+int64(n))
		n += did
		if err != nil {
			return n, err
		}
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// run fetches as many blocks as one read of the source may have, and copies to p what it asks for of them.
func (r *Reader) run(b *buffers, p []byte, off int64) (int, error) {
	size := int64(r.head.blockSize)
	first, last := off/size, (off+int64(len(p))-1)/size
	end, length := first, int64(0)
	for end <= last && (end == first || length+int64(r.sizes[end]) <= maxRead) {
		length += int64(r.sizes[end])
		end++
	}
	if int64(cap(b.stored)) < length {
		b.stored = make([]byte, length)
	}
	stored := b.stored[:length]
	if err := readFull(r.src, stored, r.start(first)); err != nil {
		return 0, fmt.Errorf("ZFile block %d: %w", first, err)
	}
	n := 0
	for block := first; block < end; block++ {
		packed := stored[:r.sizes[block]]
		stored = stored[len(packed):]
		did, err := r.block(b, p[n:], packed, block, off+int64(n)-block*size)
		if err != nil {
			return n, fmt.Errorf("ZFile block %d: %w", block, err)
		}
		n += did
	}
	return n, nil
}

// block copies to p what a block has from skip on.
func (r *Reader) block(b *buffers, p, packed []byte, block, skip int64) (int, error) {
	if r.head.checksums {
		end := len(packed) - sumSize
		want := binary.LittleEndian.Uint32(packed[end:])
		packed = packed[:end]
		if got := checksum(blockSeed, packed); got != want {
			return 0, fmt.Errorf("checksum %08x, not %08x: %w", got, want, errs.Corrupt)
		}
	}
	size := int64(r.head.blockSize)
	plain := int(min(size, r.Size()-block*size))
	if skip == 0 && len(p) >= plain {
		return plain, r.unpack(p[:plain:plain], packed)
	}
	if b.plain == nil {
		b.plain = make([]byte, size)
	}
	if err := r.unpack(b.plain[:plain:plain], packed); err != nil {
		return 0, err
	}
	return copy(p, b.plain[skip:plain]), nil
}

// readFull fills p from off. A source that ends before is corrupt.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w at %d: %w", io.ErrUnexpectedEOF, off+int64(n), errs.Corrupt)
	}
	return err
}
