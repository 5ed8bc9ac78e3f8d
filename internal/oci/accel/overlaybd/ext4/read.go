package ext4

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

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

// readContent fills p with what a file has from off on, which must be inside it. Holes are zero.
func (f *FS) readContent(n *node, p []byte, off int64) error {
	i, _ := slices.BinarySearchFunc(n.extents, off, func(x extent, off int64) int {
		if int64(x.file+x.count)*BlockSize <= off {
			return -1
		}
		return 1
	})
	for len(p) > 0 {
		length := len(p)
		if i == len(n.extents) {
			clear(p)
			return nil
		}
		x := n.extents[i]
		if start := int64(x.file) * BlockSize; off < start {
			length = int(min(int64(length), start-off))
			clear(p[:length])
		} else {
			skip := off - start
			length = int(min(int64(length), int64(x.count)*BlockSize-skip))
			if err := readFull(f.old, p[:length], int64(x.disk)*BlockSize+skip); err != nil {
				return err
			}
			i++ // if the extent goes on, p is full
		}
		p, off = p[length:], off+int64(length)
	}
	return nil
}

// content is that of a file.
type content struct {
	fs   *FS
	node *node
}

func (c content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.node.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.node.size-off))
	if err := c.fs.readContent(c.node, p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Files yields the files of a file system that was opened, and to which nothing was applied: each directory before what
// is in it, names in byte order. Further names of a file are hard links to the first.
func (f *FS) Files() iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		first := map[*node]string{}
		var walk func(at string, n *node) bool
		walk = func(at string, n *node) bool {
			file, err := f.file(at, n, first)
			if !yield(file, err) || err != nil {
				return false
			}
			if n.dir == nil {
				return true
			}
			for _, base := range slices.Sorted(maps.Keys(n.dir.byName)) {
				if !walk(path.Join(at, base), n.dir.byName[base].node) {
					return false
				}
			}
			return true
		}
		walk(".", f.root())
	}
}

// file describes an inode at a path.
func (f *FS) file(at string, n *node, first map[*node]string) (layer.File, error) {
	e := layer.Entry{
		Path: at, Mode: layer.FileMode(uint32(n.mode)), UID: int(n.uid), GID: int(n.gid),
		ModTime: time.Unix(n.seconds, int64(n.nanos)), Link: n.target, Major: n.major, Minor: n.minor,
	}
	if n.mode&modeType == modeRegular {
		e.Size = n.size
	}
	if n.links > 1 {
		if earlier, ok := first[n]; ok {
			e.Hard, e.Link = true, earlier
			return layer.File{Entry: e}, nil
		}
		first[n] = at
	}
	for i := range n.xattrs {
		key, value, err := n.xattrs[i].key()
		if err != nil {
			return layer.File{}, fmt.Errorf("%s: %w", at, err)
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[key] = value
	}
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(content{f, n}, 0, n.size)), nil
	}
	return layer.File{Entry: e, Open: open}, nil
}
