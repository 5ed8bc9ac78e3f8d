package zstdchunked

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/chunk"
)

// Convert implements accel.Format.
func (f *Format) Convert(ctx context.Context, dst io.Writer, in accel.Stack) (accel.Layer, error) {
	l, err := f.convert(ctx, dst, in.Top())
	if err != nil {
		return accel.Layer{}, fmt.Errorf("write zstd:chunked: %w", err)
	}
	return l, nil
}

func (f *Format) convert(ctx context.Context, dst io.Writer, top accel.Tar) (_ accel.Layer, err error) {
	toc, err := f.newTable()
	if err != nil {
		return accel.Layer{}, err
	}
	w := chunk.NewWriter(ctx, dst, chunk.Options{
		Codec: codec{f.level}, Entry: toc.add, Split: func() chunk.Splitter { return newSplitter() },
		Apart: true, Raw: true, Whole: true, CRC64: true, NoSparse: true,
	})
	defer w.Close()
	r, err := top(ctx)
	if err != nil {
		return accel.Layer{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = w.Tar(r, nil)
	if errors.Is(err, chunk.ErrSparse) {
		return accel.Layer{}, errs.Mark(err, accel.ErrUnfit)
	}
	if err == nil {
		err = w.Finish()
	}
	if err == nil {
		err = toc.split.segment(w.Rest())
	}
	if err != nil {
		return accel.Layer{}, err
	}
	return f.finish(w, toc)
}

// finish writes the frames behind those of the tar.
func (f *Format) finish(w *chunk.Writer, toc *table) (accel.Layer, error) {
	split, err := toc.split.close()
	if err != nil {
		return accel.Layer{}, err
	}
	plain := toc.encode(digest.FromBytes(split))
	packed, err := codec{f.level}.Encoder().Encode(nil, plain)
	if err != nil {
		return accel.Layer{}, err
	}
	tocAt := w.Size() + frameHeader
	splitAt := tocAt + int64(len(packed)) + frameHeader
	foot := footer(tocAt, len(packed), len(plain), splitAt, len(split), toc.split.size)
	for _, frame := range [][]byte{packed, split, foot} {
		if int64(len(frame)) > maxFrame {
			return accel.Layer{}, errs.Mark(errors.New("table of contents is too long"), errs.Limit)
		}
		if err := w.Append(nil, skippable(frame)); err != nil {
			return accel.Layer{}, err
		}
	}
	res := w.Result()
	sum := digest.FromBytes(packed).String()
	position := fmt.Sprintf("%d:%d:%d:%d", tocAt, len(packed), len(plain), tableType)
	return accel.Layer{
		Descriptor: oci.Descriptor{
			MediaType: oci.MediaTypeLayerZstd, Digest: res.Digest, Size: res.Size,
			Annotations: map[string]string{
				annotationTable: sum, annotationPosition: position,
				annotationTarSplit: fmt.Sprintf("%d:%d:%d", splitAt, len(split), toc.split.size),
				annotationOldTable: sum, annotationOldPosition: position,
			},
		},
		DiffID: res.DiffID,
	}, nil
}

const (
	// frameHeader is the length of what a skippable frame begins with (RFC 8878 §3.1.2).
	frameHeader = 8
	// maxFrame is what clients take of a table at most.
	maxFrame = 150 << 20
	// tableType is that of CRFS, the only one there is.
	tableType = 1
)

func skippable(data []byte) []byte {
	b := append(make([]byte, 0, frameHeader+len(data)), 0x50, 0x2a, 0x4d, 0x18)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// footer says where the table and the tar-split data are, for those who have no annotations.
func footer(toc int64, tocPacked, tocPlain int, split int64, splitPacked int, splitPlain int64) []byte {
	var b bytes.Buffer
	for _, n := range []int64{toc, int64(tocPacked), int64(tocPlain), tableType, split, int64(splitPacked), splitPlain} {
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	}
	b.WriteString("GNUlInUx")
	return b.Bytes()
}

// codec makes a zstd frame of each piece.
type codec struct{ level int }

func (c codec) Encoder() chunk.Encoder { return &encoder{level: c.level} }

type encoder struct {
	level int
	w     *zstd.Encoder
}

// Encode implements chunk.Encoder. Frames have no checksum: clients hold pieces against their digests.
func (e *encoder) Encode(dst, src []byte) ([]byte, error) {
	if e.w == nil {
		w, err := newEncoder(nil, e.level)
		if err != nil {
			return nil, err
		}
		e.w = w
	}
	return e.w.EncodeAll(src, dst), nil
}

func newEncoder(dst io.Writer, level int) (*zstd.Encoder, error) {
	w, err := zstd.NewWriter(dst, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return w, nil
}
