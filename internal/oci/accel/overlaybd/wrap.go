package overlaybd

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"

	"slipway/internal/errs"
)

// A blob is a tar of one file, so that its media type is true. Consumers look for it at a fixed place, after a PAX header
// of two blocks and a header of one, whatever its size is.
const (
	tarBlock    = 512
	bodyOffset  = 3 * tarBlock
	paxName     = "overlaybd.pax"
	commitName  = "overlaybd.commit"
	maxTarStart = 64 << 10 // headers that a stranger's blob may have before the file
)

// wrapping returns what comes before and after a file of size bytes.
func wrapping(size int64) (head, tail []byte) {
	record := fmt.Sprintf(" size=%d\n", size)
	n := len(record) + 2
	if n > 99 {
		panic("[bug] PAX record of a size has three digits")
	}
	record = fmt.Sprintf("%d%s", n, record)
	head = make([]byte, bodyOffset)
	header(head, tar.TypeXHeader, paxName, len(record))
	copy(head[tarBlock:], record)
	header(head[2*tarBlock:], tar.TypeReg, commitName, 0) // the size is in the record
	return head, make([]byte, -size&(tarBlock-1)+2*tarBlock)
}

// header writes a USTAR header.
func header(b []byte, kind byte, name string, size int) {
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00") // mode, owner
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00        ", size))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b[:tarBlock] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// unwrap returns the file in a blob, which may also be that file itself.
func unwrap(src io.ReaderAt, size int64) (*io.SectionReader, error) {
	b := make([]byte, tarBlock)
	if _, err := src.ReadAt(b, 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = errs.Mark(fmt.Errorf("blob: %w", io.ErrUnexpectedEOF), errs.Corrupt)
		}
		return nil, err
	}
	if !bytes.Equal(b[257:262], []byte("ustar")) {
		return io.NewSectionReader(src, 0, size), nil
	}
	section := io.NewSectionReader(src, 0, min(size, maxTarStart))
	hdr, err := tar.NewReader(section).Next()
	if err != nil {
		return nil, fmt.Errorf("blob: %w", errs.Mark(err, errs.Corrupt))
	}
	start, err := section.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if hdr.Typeflag != tar.TypeReg || hdr.Size > size-start {
		return nil, fmt.Errorf("blob of %d bytes is a tar of %s with %d: %w", size, hdr.Name, hdr.Size, errs.Corrupt)
	}
	return io.NewSectionReader(src, start, hdr.Size), nil
}
