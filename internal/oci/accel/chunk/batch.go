package chunk

import (
	"crypto/sha256"
	"hash/crc64"
	"sync"
)

// batch is some of the tar, on its way through the stages.
type batch struct {
	data   []byte
	pieces []piece
	done   []*Entry // entries that end in this batch
	out    []byte
	packed chan struct{} // closed when out and what is known of the pieces are there
}

// piece is what is compressed on its own: a chunk of content, and what follows it.
type piece struct {
	end     int    // in data; it begins where the one before ends
	content int    // length of the chunk that it begins with
	offset  int64  // of the chunk, in the content
	whole   int    // length of the content, when all of it begins here; 0: elsewhere
	file    *Entry // whose content; nil without
	packed  int    // end in out

	sum    [sha256.Size]byte // of the chunk
	all    [sha256.Size]byte // of the whole content
	crc    uint64            // of the whole content
	isZero bool
}

func (b *batch) reset() {
	b.data, b.pieces, b.done, b.out = b.data[:0], b.pieces[:0], b.done[:0], b.out[:0]
	b.packed = make(chan struct{})
}

// extend adds n bytes, to be overwritten.
func (b *batch) extend(n int) []byte {
	start := len(b.data)
	if start+n > cap(b.data) {
		grown := make([]byte, start, max(start+n, min(2*cap(b.data), batchSize+maxChunk), 64<<10))
		copy(grown, b.data)
		b.data = grown
	}
	b.data = b.data[:start+n]
	return b.data[start:]
}

// start is where a piece begins.
func (b *batch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.pieces[i-1].end
}

// isoTable is the polynomial that tar-split uses.
var isoTable = sync.OnceValue(func() *crc64.Table { return crc64.MakeTable(crc64.ISO) })

// pack compresses and hashes the pieces.
func (b *batch) pack(enc Encoder, crc bool) error {
	for i := range b.pieces {
		p, start := &b.pieces[i], b.start(i)
		if p.content > 0 {
			chunk := b.data[start : start+p.content]
			p.sum = sha256.Sum256(chunk)
			p.isZero = isZero(chunk)
		}
		if p.whole > 0 {
			content := b.data[start : start+p.whole]
			if p.all = p.sum; p.whole != p.content {
				p.all = sha256.Sum256(content)
			}
			if crc {
				p.crc = crc64.Checksum(content, isoTable())
			}
		}
		var err error
		if b.out, err = enc.Encode(b.out, b.data[start:p.end]); err != nil {
			return err
		}
		p.packed = len(b.out)
	}
	close(b.packed)
	return nil
}
