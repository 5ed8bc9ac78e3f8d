package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Defaults, chosen by measurement: docs/decisions/0006-compression.md.
const (
	defaultGzip = 2
	defaultZstd = 3
)

// tinyBlock is the longest block that is compressed without a proper encoder, whose tables of 1 MB cost more to make
// than so little to compress: most layers of a Dockerfile are one such block.
const tinyBlock = 32 << 10

// codec is one way to compress a sequence of blocks, each on its own.
type codec interface {
	mediaType() string
	// header comes before the first block, trailer after the last.
	header() []byte
	trailer(crc uint32, size int64) []byte
	// encoder returns an encoder for one goroutine.
	encoder() encoder
}

// encoder compresses blocks; the output depends on the arguments alone.
type encoder interface {
	// encode appends the compressed src to dst, or returns src itself.
	encode(dst, src []byte, last bool) ([]byte, error)
}

func newCodec(c Compression) (codec, error) {
	switch c.Algorithm {
	case "", "gzip":
		level, err := c.level(defaultGzip, flate.BestCompression)
		return gzipCodec{level}, err
	case "zstd":
		level, err := c.level(defaultZstd, 22)
		return zstdCodec{level}, err
	case "none":
		_, err := c.level(0, 0)
		return noCodec{}, err
	}
	return nil, fmt.Errorf("compression %q is not gzip, zstd or none: %w", c.Algorithm, errs.Invalid)
}

// Validate returns an error of kind errs.Invalid if there is no such algorithm or level.
func (c Compression) Validate() error {
	_, err := newCodec(c)
	return err
}

// level returns the level, or else the default.
func (c Compression) level(standard, highest int) (int, error) {
	if c.Level < 0 || c.Level > highest {
		return 0, fmt.Errorf("%s level %d is not between 0 and %d: %w", c.Algorithm, c.Level, highest, errs.Invalid)
	}
	if c.Level == 0 {
		return standard, nil
	}
	return c.Level, nil
}

// gzipCodec makes one gzip member of blocks that do not refer to each other: every decoder takes it, and decoding can
// begin at any block.
type gzipCodec struct{ level int }

func (gzipCodec) mediaType() string { return oci.MediaTypeLayerGzip }

// header has no name, no time, and "unknown" for the operating system (RFC 1952 §2.3).
func (gzipCodec) header() []byte { return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff} }

func (gzipCodec) trailer(crc uint32, size int64) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, crc), uint32(size)) // modulo 2^32
}

func (c gzipCodec) encoder() encoder { return &gzipEncoder{level: c.level} }

type gzipEncoder struct {
	level int
	w     *flate.Writer
}

func (g *gzipEncoder) encode(dst, src []byte, last bool) ([]byte, error) {
	if cap(dst) == 0 && len(src) > smallLayer {
		dst = make([]byte, 0, len(src)+len(src)>>8) // what does not compress grows by 0.01 %
	}
	out := bytes.NewBuffer(dst)
	if len(src) <= tinyBlock && g.level == defaultGzip {
		err := flate.StatelessDeflate(out, src, last, nil)
		return out.Bytes(), err
	}
	if g.w == nil {
		w, err := flate.NewWriter(out, g.level)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		g.w = w
	} else {
		g.w.Reset(out)
	}
	_, err := g.w.Write(src)
	if err == nil && last {
		err = g.w.Close()
	} else if err == nil {
		err = g.w.Flush()
	}
	return out.Bytes(), err
}

// zstdCodec makes one frame of each block; decoders read frames on (RFC 8878 §3).
type zstdCodec struct{ level int }

func (zstdCodec) mediaType() string            { return oci.MediaTypeLayerZstd }
func (zstdCodec) header() []byte               { return nil }
func (zstdCodec) trailer(uint32, int64) []byte { return nil }
func (c zstdCodec) encoder() encoder           { return &zstdEncoder{level: c.level} }

type zstdEncoder struct {
	level int
	w     *zstd.Encoder
}

func (z *zstdEncoder) encode(dst, src []byte, _ bool) ([]byte, error) {
	if z.w == nil {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(z.level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(blockSize))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		z.w = w
	}
	return z.w.EncodeAll(src, dst), nil
}

// noCodec leaves the tar as it is.
type noCodec struct{}

func (noCodec) mediaType() string                            { return oci.MediaTypeLayer }
func (noCodec) header() []byte                               { return nil }
func (noCodec) trailer(uint32, int64) []byte                 { return nil }
func (noCodec) encoder() encoder                             { return noCodec{} }
func (noCodec) encode(_, src []byte, _ bool) ([]byte, error) { return src, nil }
