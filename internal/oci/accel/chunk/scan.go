package chunk

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

const (
	tarBlock = 512
	// maxMeta is the longest PAX or GNU header that is read, as in archive/tar.
	maxMeta = 1 << 20
)

// padding is the number of zero bytes that follow n bytes of content.
func padding(n int64) int64 { return -n & (tarBlock - 1) }

// scanner reads a tar header by header and keeps the bytes of headers as they are: archive/tar understands them, and
// does not tell how they were written.
type scanner struct {
	in   io.Reader
	raw  []byte // the headers of the current entry
	last string // name of the entry before, for errors

	sparse int64 // length of the sparse files so far
}

// entry is what comes next in a tar.
type entry struct {
	hdr *tar.Header
	raw []byte // valid until the next call
	// content is of hdr.Size bytes, except for a sparse file, for which it is nil.
	content io.Reader
	sparse  *sparse
}

// next returns the next entry, or io.EOF. The content of the entry before must have been read, with its padding.
func (s *scanner) next() (*entry, error) {
	s.raw = s.raw[:0]
	for {
		block, err := s.block()
		if errors.Is(err, io.EOF) && len(s.raw) == 0 || isZero(block) && err == nil {
			// archive/tar takes a tar without an end for one, too.
			return nil, s.end(block)
		}
		if err != nil {
			return nil, s.failed(err)
		}
		kind := block[156]
		switch kind {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			if err := s.meta(block); err != nil {
				return nil, err
			}
			if kind != tar.TypeXGlobalHeader {
				continue
			}
		case tar.TypeGNUSparse:
			if err := s.sparseMap(block[482] != 0); err != nil {
				return nil, err
			}
		}
		return s.parse(kind)
	}
}

// block reads one more block of headers. It stays valid until the next.
func (s *scanner) block() ([]byte, error) {
	start := len(s.raw)
	s.raw = append(s.raw, make([]byte, tarBlock)...)
	n, err := io.ReadFull(s.in, s.raw[start:])
	if err != nil {
		s.raw = s.raw[:start+n]
		if n == 0 && !errors.Is(err, io.EOF) || n > 0 {
			return nil, err
		}
		return nil, io.EOF
	}
	return s.raw[start:], nil
}

// end is at the end of the tar: of the stream, or the first of two empty blocks.
func (s *scanner) end(block []byte) error {
	if block == nil {
		return io.EOF
	}
	if len(s.raw) > tarBlock {
		return s.corrupt(errors.New("a header has nothing to say of"))
	}
	second, err := s.block()
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if err != nil {
		return s.failed(err)
	}
	if !isZero(second) {
		return s.corrupt(errors.New("one empty block, where two end a tar"))
	}
	return io.EOF
}

func isZero(block []byte) bool {
	for _, c := range block {
		if c != 0 {
			return false
		}
	}
	return true
}

// meta reads what follows a PAX or GNU header that says something of the next.
func (s *scanner) meta(block []byte) error {
	size, err := number(block[124:136])
	if err != nil || size < 0 || size > maxMeta {
		return s.corrupt(fmt.Errorf("length of an extended header: %q", block[124:136]))
	}
	for range (size + padding(size)) / tarBlock {
		if _, err := s.block(); err != nil {
			return s.failed(err)
		}
		if len(s.raw) > 4*maxMeta {
			return s.corrupt(errors.New("too many extended headers"))
		}
	}
	return nil
}

// sparseMap reads the blocks that go on with the map of a GNU sparse file.
func (s *scanner) sparseMap(more bool) error {
	for more {
		block, err := s.block()
		if err != nil {
			return s.failed(err)
		}
		more = block[504] != 0
		if len(s.raw) > 4*maxMeta {
			return s.corrupt(errors.New("map of a sparse file is too long"))
		}
	}
	return nil
}

// number reads a numeric field as archive/tar does: octal digits, or in base 256.
func number(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		if field[0] != 0x80 {
			return 0, errs.Invalid
		}
		var n int64
		for _, c := range field[1:] {
			if n > 1<<54 {
				return 0, errs.Invalid
			}
			n = n<<8 | int64(c)
		}
		return n, nil
	}
	digits := strings.Trim(string(field), " \x00")
	if i := strings.IndexByte(digits, 0); i >= 0 {
		digits = digits[:i]
	}
	if digits == "" {
		return 0, nil
	}
	return strconv.ParseInt(digits, 8, 64)
}

// parse understands the headers that were read.
func (s *scanner) parse(kind byte) (*entry, error) {
	if kind == tar.TypeGNUSparse || bytes.Contains(s.raw, []byte("GNU.sparse.")) {
		return s.parseSparse()
	}
	r := bytes.NewReader(s.raw)
	hdr, err := tar.NewReader(r).Next()
	if err == nil && r.Len() >= tarBlock { // less is padding
		err = errors.New("lengths of extended headers do not add up")
	}
	if err != nil {
		return nil, s.corrupt(err)
	}
	s.last = hdr.Name
	e := &entry{hdr: hdr, raw: s.raw}
	if hasContent(hdr) {
		e.content = s.in
	}
	return e, nil
}

// hasContent says whether hdr.Size bytes follow. archive/tar ignores a size that other types claim.
func hasContent(hdr *tar.Header) bool {
	switch hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader:
		return false
	}
	return hdr.Size > 0
}

// sparse is a file that is in the tar without its holes.
type sparse struct {
	file *tar.Reader
	in   *counter
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// parseSparse lets archive/tar read a sparse file: a part of the map may be at the beginning of the content.
func (s *scanner) parseSparse() (*entry, error) {
	in := &counter{Reader: s.in}
	file := tar.NewReader(io.MultiReader(bytes.NewReader(s.raw), in))
	hdr, err := file.Next()
	if err != nil {
		return nil, s.failed(err)
	}
	s.last = hdr.Name
	e := &entry{hdr: hdr, raw: s.raw}
	if hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeGNUSparse {
		return nil, s.corrupt(errors.New("sparse, and no regular file"))
	}
	if s.sparse += hdr.Size; s.sparse > maxSparse || s.sparse < 0 {
		return nil, errs.Mark(fmt.Errorf("%s: sparse files have more than %d bytes", hdr.Name, int64(maxSparse)), errs.Limit)
	}
	e.sparse = &sparse{file: file, in: in}
	return e, nil
}

// skip reads over the padding of a sparse file that was read.
func (s *scanner) skip(sp *sparse) error {
	if _, err := io.CopyN(io.Discard, s.in, padding(sp.in.n)); err != nil {
		return s.failed(err)
	}
	return nil
}

// failed is the error of a reader; that it ended is the tar's fault.
func (s *scanner) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.corrupt(errors.New("the tar ends early"))
	}
	if errors.Is(err, tar.ErrHeader) {
		return s.corrupt(err)
	}
	if s.last == "" {
		return err
	}
	return fmt.Errorf("after %s: %w", s.last, err)
}

func (s *scanner) corrupt(err error) error {
	if s.last != "" {
		err = fmt.Errorf("after %s: %w", s.last, err)
	}
	return errs.Mark(err, errs.Corrupt)
}

// clean is the path that a name in a tar means.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }
