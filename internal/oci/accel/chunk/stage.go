package chunk

import (
	"context"
	"crypto/sha256"
	"hash/crc64"
	"io"

	"github.com/opencontainers/go-digest"
)

// content lays out the content of a file.
func (w *Writer) content(s *scanner, r io.Reader, size int64, file *Entry) error {
	var split Splitter
	if w.opts.Split != nil {
		split = w.opts.Split()
	}
	if size > maxChunk {
		file.whole = sha256.New()
		if w.opts.CRC64 {
			file.crc = crc64.New(isoTable())
		}
	}
	for off := int64(0); off < size; {
		n := int(min(size-off, maxChunk))
		if err := w.cut(); err != nil {
			return err
		}
		window := w.cur.extend(n)
		if _, err := io.ReadFull(r, window); err != nil {
			return s.failed(err)
		}
		first := len(w.cur.pieces)
		for at := 0; at < n; {
			length := n - at
			if split != nil {
				length = split.Split(window[at:])
			}
			at += length
			w.cur.pieces = append(w.cur.pieces, piece{
				end: len(w.cur.data) - n + at, content: length, offset: off + int64(at-length), file: file,
			})
		}
		if off += int64(n); int64(n) == size {
			w.cur.pieces[first].whole = n
		}
	}
	w.open = !w.opts.Apart
	return w.done(file)
}

// cut ends the current piece, and the batch when it is long enough.
func (w *Writer) cut() error {
	w.open = false
	if w.cur != nil && len(w.cur.data) >= batchSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.room()
}

// room makes sure that there is a current batch.
func (w *Writer) room() error {
	if w.cur != nil {
		return nil
	}
	var b *batch
	select {
	case b = <-w.free:
	default:
		if w.made < w.batches {
			w.made++
			b = new(batch)
			break
		}
		select {
		case b = <-w.free:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
	b.reset()
	w.cur = b
	return nil
}

// raw lays out what is not content.
func (w *Writer) raw(p []byte) error {
	if w.opts.Raw {
		w.between = append(w.between, p...)
	}
	for len(p) > 0 {
		if !w.open || w.pieceLen() >= maxChunk+batchSize {
			if err := w.cut(); err != nil {
				return err
			}
			w.cur.pieces = append(w.cur.pieces, piece{end: len(w.cur.data)})
			w.open = true
		}
		n := min(len(p), batchSize)
		copy(w.cur.extend(n), p[:n])
		w.cur.pieces[len(w.cur.pieces)-1].end = len(w.cur.data)
		p = p[n:]
	}
	return nil
}

// headers lays out the headers of an entry.
func (w *Writer) headers(file *Entry, p []byte) error {
	err := w.raw(p)
	file.Raw, w.between = w.between, nil
	return err
}

// pieceLen is the length of the last piece.
func (w *Writer) pieceLen() int {
	last := len(w.cur.pieces) - 1
	return w.cur.pieces[last].end - w.cur.start(last)
}

// done says that an entry is laid out. What it consists of may be on its way already, in batches before this one.
func (w *Writer) done(file *Entry) error {
	if err := w.room(); err != nil {
		return err
	}
	w.cur.done = append(w.cur.done, file)
	return nil
}

// flush hands the current batch on.
func (w *Writer) flush() error {
	b := w.cur
	w.cur, w.open = nil, false
	if b != nil { // the channels have room for all batches there are
		w.work <- b
		w.order <- b
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return nil
}

// compress is a worker.
func (w *Writer) compress() error {
	enc := w.opts.Codec.Encoder()
	for b := range w.work {
		if w.ctx.Err() != nil {
			continue
		}
		if err := b.pack(enc, w.opts.CRC64); err != nil {
			w.fail(err)
		}
	}
	return nil
}

// hash computes what is told of the plain tar as a whole, and of content in several batches.
func (w *Writer) hash() error {
	defer close(w.ready)
	for b := range w.order {
		w.diffID.Write(b.data)
		w.plain += int64(len(b.data))
		for i := range b.pieces {
			p := &b.pieces[i]
			if p.content == 0 || p.file.whole == nil {
				continue
			}
			start := b.start(i)
			p.file.whole.Write(b.data[start : start+p.content])
			if p.file.crc != nil {
				p.file.crc.Write(b.data[start : start+p.content])
			}
		}
		w.ready <- b
	}
	return nil
}

// output writes the compressed batches and tells of their entries.
func (w *Writer) output() error {
	err := w.drain()
	if err != nil {
		w.fail(err) // of several failures the first is the cause, and what all stages return
		return context.Cause(w.ctx)
	}
	return nil
}

func (w *Writer) drain() error {
	for b := range w.ready {
		select {
		case <-b.packed:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		w.locate(b)
		if err := w.write(b.out); err != nil {
			return err
		}
		for _, e := range b.done {
			if e.whole != nil {
				e.Digest = digest.NewDigest(digest.SHA256, e.whole)
			}
			if e.crc != nil {
				e.Checksum = e.crc.Sum64()
			}
			if err := w.opts.Entry(e); err != nil {
				return err
			}
		}
		w.free <- b
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return nil
}

// locate takes down where the chunks of a batch come to lie.
func (w *Writer) locate(b *batch) {
	start := w.size
	for i := range b.pieces {
		p := &b.pieces[i]
		end := w.size + int64(p.packed)
		if p.content > 0 {
			p.file.Chunks = append(p.file.Chunks, Chunk{
				Offset: p.offset, Size: int64(p.content), Start: start, End: end,
				Digest: digest.NewDigestFromBytes(digest.SHA256, p.sum[:]), Zero: p.isZero,
			})
		}
		if p.whole > 0 {
			p.file.Digest, p.file.Checksum = digest.NewDigestFromBytes(digest.SHA256, p.all[:]), p.crc
		}
		start = end
	}
}

func (w *Writer) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if w.digest != nil {
		w.digest.Write(p)
	}
	w.size += int64(len(p))
	n, err := w.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}
