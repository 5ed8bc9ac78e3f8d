package zfile

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"slipway/internal/errs"
)

// algorithm is one way to compress blocks.
type algorithm struct {
	name  string
	block int // that is used by default
	// bound is the most bytes that a block of n bytes takes.
	bound func(n int) int
	// compressor returns a compressor for one goroutine.
	compressor func() (compressor, error)
	// decompressor returns a decompressor for any number of goroutines.
	decompressor func() (decompressor, error)
}

// compressor appends the compressed src to dst, which has room for its bound.
type compressor func(dst, src []byte) ([]byte, error)

// decompressor fills dst with the plain bytes of src, which must be as many.
type decompressor func(dst, src []byte) error

// algorithmOf returns the algorithm that headers give a number.
func algorithmOf(number uint8) (algorithm, error) {
	switch number {
	case algoLZ4:
		return algorithm{
			name: "lz4", block: 4 << 10, bound: lz4.CompressBlockBound,
			compressor: newLZ4, decompressor: func() (decompressor, error) { return unLZ4, nil },
		}, nil
	case algoZstd:
		return algorithm{
			name: "zstd", block: 32 << 10, bound: func(n int) int { return n + n>>8 + 64 },
			compressor: newZstd, decompressor: newUnZstd,
		}, nil
	}
	return algorithm{}, fmt.Errorf("ZFile algorithm %d is neither lz4 nor zstd: %w", number, errs.Invalid)
}

// numberOf returns the number of a named algorithm.
func numberOf(name string) (uint8, error) {
	switch name {
	case "", "lz4":
		return algoLZ4, nil
	case "zstd":
		return algoZstd, nil
	}
	return 0, fmt.Errorf("compression %q is neither lz4 nor zstd: %w", name, errs.Invalid)
}

func newLZ4() (compressor, error) {
	c := new(lz4.Compressor)
	return func(dst, src []byte) ([]byte, error) {
		start := len(dst)
		// With room for the bound, what does not compress becomes a block of literals, which is what readers expect.
		n, err := c.CompressBlock(src, dst[start:start+lz4.CompressBlockBound(len(src))])
		if err == nil && n == 0 {
			err = fmt.Errorf("[bug] lz4 left a block of %d bytes out", len(src))
		}
		return dst[:start+n], err
	}, nil
}

func unLZ4(dst, src []byte) error {
	n, err := lz4.UncompressBlock(src, dst)
	return decompressed(n, len(dst), err)
}

func newZstd() (compressor, error) {
	// Blocks have checksums already, and readers know how long they are.
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxBlock))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return func(dst, src []byte) ([]byte, error) { return w.EncodeAll(src, dst), nil }, nil
}

func newUnZstd() (decompressor, error) {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return func(dst, src []byte) error {
		out, err := r.DecodeAll(src, dst[:0:len(dst)])
		return decompressed(len(out), len(dst), err)
	}, nil
}

// decompressed turns what a decompressor says into an error.
func decompressed(n, want int, err error) error {
	if err != nil {
		return errs.Mark(err, errs.Corrupt)
	}
	if n != want {
		return fmt.Errorf("%d bytes, not %d: %w", n, want, errs.Corrupt)
	}
	return nil
}
