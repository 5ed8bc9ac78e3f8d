package lsmt

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"slipway/internal/errs"
)

// Layer is the index of a layer, and where its data is.
type Layer struct {
	src  io.ReaderAt
	segs []segment
	size int64
}

// Open reads the header, the trailer and the index of the layer that src has in its first size bytes. What is wrong with
// them is an error of kind errs.Corrupt, what this package does not read one of kind errs.Invalid. Memory for the index
// is allocated as it is read.
func Open(src io.ReaderAt, size int64) (*Layer, error) {
	if size < 2*headerSize || size%SectorSize != 0 {
		return nil, fmt.Errorf("%d bytes are no LSMT layer: %w", size, errs.Corrupt)
	}
	b := make([]byte, headerSize)
	var h header
	if err := readHeader(src, b, 0, &h); err != nil {
		return nil, err
	}
	if h.flags&(flagHeader|flagData) != flagHeader|flagData {
		return nil, fmt.Errorf("LSMT header has flags %#x: not a layer with data: %w", h.flags, errs.Invalid)
	}
	end := size - headerSize
	if err := readHeader(src, b, end, &h); err != nil {
		return nil, fmt.Errorf("trailer: %w", err)
	}
	if h.flags&(flagHeader|flagData|flagSealed) != flagData|flagSealed {
		return nil, fmt.Errorf("LSMT trailer has flags %#x: not a sealed layer: %w", h.flags, errs.Invalid)
	}
	if h.size > uint64(MaxSize) || h.size%SectorSize != 0 {
		return nil, fmt.Errorf("LSMT device of %d bytes: %w", h.size, errs.Corrupt)
	}
	if h.indexOffset < headerSize || h.indexOffset > uint64(end) || h.indexOffset%SectorSize != 0 ||
		h.indexCount > (uint64(end)-h.indexOffset)/entrySize {
		return nil, fmt.Errorf("LSMT layer of %d bytes has an index of %d segments at %d: %w", size, h.indexCount, h.indexOffset, errs.Corrupt)
	}
	if h.indexCount > maxSegments {
		return nil, fmt.Errorf("LSMT layer has %d segments, more than %d: %w", h.indexCount, maxSegments, errs.Limit)
	}
	l := &Layer{src: src, size: int64(h.size)}
	return l, l.index(b, &h)
}

func readHeader(src io.ReaderAt, b []byte, off int64, h *header) error {
	if err := readFull(src, b, off); err != nil {
		return fmt.Errorf("LSMT header: %w", err)
	}
	return h.decode(b)
}

// index reads the segments, which must be in order and inside the device and the data.
func (l *Layer) index(buf []byte, h *header) error {
	var last uint64
	for i := uint64(0); i < h.indexCount; {
		b := buf[:min(uint64(len(buf)), (h.indexCount-i)*entrySize)]
		if err := readFull(l.src, b, int64(h.indexOffset+i*entrySize)); err != nil {
			return fmt.Errorf("LSMT index: %w", err)
		}
		for ; len(b) > 0; b, i = b[entrySize:], i+1 {
			s := decodeSegment(b)
			if s.offset == maxOffset {
				continue
			}
			mappedEnd := s.mapped
			if !s.zero {
				mappedEnd += uint64(s.length)
			}
			if s.length == 0 || s.offset < last || s.end() > h.size/SectorSize || s.mapped < headerSize/SectorSize ||
				mappedEnd > h.indexOffset/SectorSize {
				return fmt.Errorf("LSMT segment %d: %d sectors at %d, stored at %d: %w", i, s.length, s.offset, s.mapped, errs.Corrupt)
			}
			last = s.end()
			l.segs = append(l.segs, s)
		}
	}
	return nil
}

// Size returns the size of the device that the layer is for, in bytes.
func (l *Layer) Size() int64 { return l.size }

// Device is what a stack of layers shows. It may be read by several goroutines at once, if the layers' sources may.
type Device struct {
	layers []*Layer
	segs   []segment
	size   int64
}

// Stack returns the device of some layers, the lowest first. It is as large as the highest layer says.
func Stack(layers ...*Layer) (*Device, error) {
	if len(layers) == 0 || len(layers) > MaxLayers {
		return nil, fmt.Errorf("stack of %d LSMT layers, not 1 to %d: %w", len(layers), MaxLayers, errs.Limit)
	}
	d := &Device{layers: layers}
	for i, l := range layers {
		upper := slices.Clone(l.segs)
		for j := range upper {
			upper[j].layer = uint8(i)
		}
		if d.segs = merge(upper, d.segs); len(d.segs) > maxMerged {
			return nil, fmt.Errorf("stack of LSMT layers has more than %d segments: %w", maxMerged, errs.Limit)
		}
		if l.size > 0 {
			d.size = l.size
		}
	}
	return d, nil
}

// merge returns the upper segments, and of the lower ones what those do not cover.
func merge(upper, lower []segment) []segment {
	if len(lower) == 0 {
		return upper
	}
	out := make([]segment, 0, len(upper)+len(lower))
	for _, s := range lower {
		for s.length > 0 {
			for len(upper) > 0 && upper[0].end() <= s.offset {
				out, upper = append(out, upper[0]), upper[1:]
			}
			if len(upper) == 0 || upper[0].offset >= s.end() {
				out = append(out, s)
				break
			}
			if upper[0].offset > s.offset {
				head := s
				head.length = uint32(upper[0].offset - s.offset)
				out = append(out, head)
				s = s.cut(uint64(head.length))
			}
			s = s.cut(min(upper[0].end(), s.end()) - s.offset)
		}
	}
	return append(out, upper...)
}

// Size returns the size of the device in bytes.
func (d *Device) Size() int64 { return d.size }

// ReadAt reads from the device. What no layer has is zero.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("LSMT read at %d: %w", off, errs.Invalid)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.size-off
	if short {
		p = p[:d.size-off]
	}
	i := sort.Search(len(d.segs), func(i int) bool { return d.segs[i].end() > uint64(off)/SectorSize })
	n := 0
	for n < len(p) {
		did, err := d.piece(&i, p[n:], off+int64(n))
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

// piece reads what is in one segment, or before the next. *i is the first segment that ends after off.
func (d *Device) piece(i *int, p []byte, off int64) (int, error) {
	if *i == len(d.segs) {
		clear(p)
		return len(p), nil
	}
	s := &d.segs[*i]
	if start := int64(s.offset) * SectorSize; off < start {
		n := int(min(int64(len(p)), start-off))
		clear(p[:n])
		return n, nil
	}
	skip := off - int64(s.offset)*SectorSize
	n := int(min(int64(len(p)), int64(s.length)*SectorSize-skip))
	*i++ // if n is less than that, p is full
	if s.zero {
		clear(p[:n])
		return n, nil
	}
	return n, readFull(d.layers[s.layer].src, p[:n], int64(s.mapped)*SectorSize+skip)
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
