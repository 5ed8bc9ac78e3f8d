package lsmt

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"slipway/internal/errs"
)

// Options describe a layer.
type Options struct {
	// Size is that of the device, in bytes.
	Size int64
	// UUID names the layer, and Parent the one below it. Default: zeros, which name nothing.
	UUID, Parent UUID
}

// Writer makes a layer. Its methods belong to one goroutine.
type Writer struct {
	dst  io.Writer
	opts Options
	segs []segment // in the order in which they were written
	pos  uint64    // in dst, in sectors
	done bool
}

// NewWriter writes the header of a layer to dst and returns a writer for the rest.
func NewWriter(dst io.Writer, opts Options) (*Writer, error) {
	if opts.Size <= 0 || opts.Size > MaxSize || opts.Size%SectorSize != 0 {
		return nil, fmt.Errorf("LSMT device of %d bytes: %w", opts.Size, errs.Invalid)
	}
	w := &Writer{dst: dst, opts: opts, pos: headerSize / SectorSize}
	h := w.header(flagHeader | flagData | flagSealed)
	if _, err := dst.Write(h.encode()); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) header(flags uint32) header {
	return header{flags: flags, size: uint64(w.opts.Size), uuid: w.opts.UUID, parent: w.opts.Parent}
}

// WriteAt puts whole sectors at a place on the device. Sectors may come in any order; Finish refuses a layer in which one
// came twice.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off%SectorSize != 0 || len(p)%SectorSize != 0 || int64(len(p)) > w.opts.Size-off {
		return 0, fmt.Errorf("LSMT write of %d bytes at %d of %d: %w", len(p), off, w.opts.Size, errs.Invalid)
	}
	if w.done {
		return 0, errors.New("[bug] LSMT writer is finished")
	}
	n, err := w.dst.Write(p)
	if err != nil {
		return n, err
	}
	for offset, left := uint64(off)/SectorSize, uint64(len(p))/SectorSize; left > 0; {
		s := segment{offset: offset, mapped: w.pos, length: uint32(min(left, longest))}
		w.add(s)
		offset, left, w.pos = s.end(), left-uint64(s.length), w.pos+uint64(s.length)
	}
	if len(w.segs) > 4*maxSegments {
		return n, tooMany(len(w.segs))
	}
	return n, nil
}

// add appends a segment, to the last one if it goes on there.
func (w *Writer) add(s segment) {
	if n := len(w.segs); n > 0 && w.segs[n-1].grow(&s) {
		return
	}
	w.segs = append(w.segs, s)
}

// grow appends next to s if it is the continuation of it.
func (s *segment) grow(next *segment) bool {
	if s.end() != next.offset || s.mapped+uint64(s.length) != next.mapped || s.length+next.length > longest {
		return false
	}
	s.length += next.length
	return true
}

func tooMany(n int) error {
	return fmt.Errorf("LSMT layer of %d segments, more than the %d that can be read: %w", n, maxSegments, errs.Limit)
}

// Finish writes the index and the trailer.
func (w *Writer) Finish() error {
	w.done = true
	slices.SortFunc(w.segs, func(a, b segment) int {
		if a.offset < b.offset {
			return -1
		}
		return 1 // equal ones are refused below
	})
	segs := w.segs
	w.segs = w.segs[:0]
	for i := range segs {
		s := segs[i]
		if n := len(w.segs); n > 0 && w.segs[n-1].end() > s.offset {
			return fmt.Errorf("[bug] sector %d of an LSMT layer was written twice", s.offset)
		}
		w.add(s)
	}
	if len(w.segs) > maxSegments {
		return tooMany(len(w.segs))
	}
	h := w.header(flagData | flagSealed)
	h.indexOffset = w.pos * SectorSize
	const page = headerSize / entrySize
	h.indexCount = uint64((len(w.segs) + page - 1) / page * page)
	b := make([]byte, 0, headerSize)
	for i := range h.indexCount {
		s := segment{offset: maxOffset} // fills the last page
		if i < uint64(len(w.segs)) {
			s = w.segs[i]
		}
		if b = s.append(b); len(b) == headerSize {
			if _, err := w.dst.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err := w.dst.Write(h.encode())
	return err
}
