package layer

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"slipway/internal/errs"
)

// Decompress returns the plain bytes of r, whatever it is compressed with: gzip, zstd, bzip2, xz or nothing. It looks
// at the first bytes only, so it never fails on data that merely is not compressed. Closing it does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	magic, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	out, err := decompressor(in, string(magic))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", errs.Mark(err, errs.Corrupt))
	}
	return out, nil
}

func decompressor(in *bufio.Reader, magic string) (io.ReadCloser, error) {
	has := func(prefix string) bool { return len(magic) >= len(prefix) && magic[:len(prefix)] == prefix }
	switch {
	case has("\x1f\x8b"):
		return gzip.NewReader(in)
	case has("\x28\xb5\x2f\xfd"), isSkippable(magic):
		d, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case has("BZh"):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case has("\xfd7zXZ\x00"):
		d, err := xz.NewReader(in)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(d), nil
	}
	return io.NopCloser(in), nil
}

// isSkippable recognises the frame that zstd:chunked and pzstd may begin with (RFC 8878 §3.1.2).
func isSkippable(magic string) bool {
	return len(magic) >= 4 && magic[0]&0xf0 == 0x50 && magic[1:4] == "\x2a\x4d\x18"
}
