package layer

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"slipway/internal/errs"
)

// maxWindow is the most memory that a zstd frame may ask for: what the zstd program takes unasked.
const maxWindow = 128 << 20

// Decompress returns the plain bytes of r, whatever it is compressed with: gzip, zstd, bzip2, xz or nothing. It looks
// at the first bytes only. What is wrong with compressed bytes is an error of kind errs.Corrupt; errors of r itself
// stay what they are. Closing the result does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	d := &decompressor{in: r}
	in := bufio.NewReaderSize(readerFunc(d.fetch), 256<<10)
	magic, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if d.out, err = newDecoder(in, string(magic)); err != nil {
		return nil, d.explain(err)
	}
	return d, nil
}

// newDecoder returns the decoder for what begins with magic.
func newDecoder(in *bufio.Reader, magic string) (io.ReadCloser, error) {
	switch {
	case strings.HasPrefix(magic, "\x1f\x8b"):
		return gzip.NewReader(in)
	case strings.HasPrefix(magic, "\x28\xb5\x2f\xfd"), isSkippable(magic):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case strings.HasPrefix(magic, "BZh"):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case strings.HasPrefix(magic, "\xfd7zXZ\x00"):
		x, err := xz.NewReader(in)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	}
	return io.NopCloser(in), nil
}

// isSkippable recognises the frame that zstd:chunked and pzstd may begin with (RFC 8878 §3.1.2).
func isSkippable(magic string) bool {
	return len(magic) >= 4 && magic[0]&0xf0 == 0x50 && magic[1:4] == "\x2a\x4d\x18"
}

// decompressor tells what is wrong with the bytes from what is wrong with the stream.
type decompressor struct {
	in     io.Reader
	failed error // of in, other than its end
	out    io.ReadCloser
}

func (d *decompressor) fetch(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		d.failed = err
	}
	return n, err
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.out.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // decoders return it as it is
		err = d.explain(err)
	}
	return n, err
}

func (d *decompressor) explain(err error) error {
	if d.failed != nil {
		return fmt.Errorf("decompress: %w", d.failed)
	}
	return fmt.Errorf("decompress: %w", errs.Mark(err, errs.Corrupt))
}

func (d *decompressor) Close() error { return d.out.Close() }

// readerFunc is a function as a reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
