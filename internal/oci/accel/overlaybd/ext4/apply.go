package ext4

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"slipway/internal/errs"
)

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	reservedPrefix = ".wh..wh."
	xattrPAX       = "SCHILY.xattr."
	tarBlock       = 512

	// chunkSize is how much content is looked at together. A chunk of zeros is a hole.
	chunkSize = 1 << 20
	// maxPath is the longest path that the kernel takes, maxName the longest name, and maxSymlinks how many symbolic
	// links a path may go through.
	maxPath     = 4095
	maxName     = 255
	maxSymlinks = 40
)

// Apply changes the tree as a layer says, a plain tar that a stranger made, and writes the content of its files to dev.
// Whiteouts delete what the layers below have, whatever the order in the tar. Names that go through symbolic links end
// inside the root, as in containerd. A file that has the content that its path had before keeps the blocks.
//
// Extended attributes that Linux does not have, and those that an overlay obeys, are left out. What is wrong with the tar
// is an error of kind errs.Corrupt, what an ext4 file system cannot hold one of kind errs.Limit. Both name the entry. r
// is read up to the end of the tar.
func (f *FS) Apply(ctx context.Context, r io.Reader, dev io.WriterAt) error {
	f.round++
	in := &counter{Reader: r}
	a := &applier{FS: f, ctx: ctx, tar: tar.NewReader(in), dev: dev, buf: make([]byte, chunkSize)}
	for {
		hdr, err := a.tar.Next()
		if errors.Is(err, io.EOF) {
			if in.n%tarBlock != 0 { // archive/tar takes one that ends in the padding for whole
				return corrupt(io.ErrUnexpectedEOF)
			}
			return nil
		}
		if err != nil {
			return corrupt(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := a.entry(hdr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Name, err)
		}
	}
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// corrupt marks what archive/tar finds wrong with the bytes. Errors of the stream have their own kinds.
func corrupt(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Mark(err, errs.Corrupt)
	}
	return err
}

func corruptf(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), errs.Corrupt)
}

// applier applies one layer.
type applier struct {
	*FS
	ctx     context.Context //nolint:containedctx // lives for one call of Apply
	tar     *tar.Reader
	dev     io.WriterAt
	buf     []byte
	before  []byte // the same, for what a file had before
	content int64  // of all files
}

func (a *applier) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	clean, err := inside(hdr.Name)
	if err != nil {
		return err
	}
	if clean == "." {
		if hdr.Typeflag != tar.TypeDir {
			return corruptf("the root cannot be a file of type %q", hdr.Typeflag)
		}
		return a.describe(a.root(), hdr)
	}
	parent, base := path.Split(clean)
	links := 0
	dir, err := a.walk(a.root(), parent, &links, true)
	if err != nil {
		return err
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return a.marker(dir, base, hidden)
	}
	if len(base) > maxName {
		return corruptf("name has more than %d bytes", maxName)
	}
	return a.put(dir, base, hdr)
}

// inside returns a name of the tar as a clean relative path.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == "":
		return "", corruptf("empty name")
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", corruptf("%q leads out of the layer", name)
	case strings.IndexByte(name, 0) >= 0:
		return "", corruptf("name contains a NUL")
	case len(clean) > maxPath:
		return "", corruptf("name has more than %d bytes", maxPath)
	}
	return clean, nil
}

// walk goes from a directory along a path. If something is missing it is made, or else the result is nil.
func (a *applier) walk(dir *node, rest string, links *int, create bool) (*node, error) {
	for rest != "" && dir != nil {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		var err error
		switch part {
		case "", ".":
		case "..":
			dir = dir.dir.parent
		default:
			if dir, err = a.step(dir, part, links, create); err != nil {
				return nil, err
			}
		}
	}
	return dir, nil
}

// step returns the directory called part in dir. A directory on the way to something new belongs to the layer, as it
// would in an overlay: what hides it hides only what it had before.
func (a *applier) step(dir *node, part string, links *int, create bool) (*node, error) {
	child := dir.dir.byName[part]
	switch {
	case child == nil:
	case child.node.dir != nil:
		if create {
			child.round = a.round
		}
		return child.node, nil
	case child.node.mode&modeType == modeLink:
		if *links++; *links > maxSymlinks {
			return nil, corruptf("%s: too many symbolic links", part)
		}
		if strings.HasPrefix(child.node.target, "/") {
			dir = a.root()
		}
		return a.walk(dir, child.node.target, links, create)
	case create && child.round == a.round:
		return nil, corruptf("%s is no directory", part)
	}
	if !create {
		return nil, nil
	}
	if len(part) > maxName {
		return nil, corruptf("name has more than %d bytes", maxName)
	}
	n, err := a.create(modeDir | 0o755)
	if err != nil {
		return nil, err
	}
	n.dir = newDir(dir)
	if child != nil {
		a.unlink(child)
	}
	a.enter(dir, part, n)
	return n, nil
}

// enter makes a name of an inode. One that has another inode, whose name it was, loses that.
func (a *applier) enter(dir *node, part string, n *node) {
	d := dir.dir.byName[part]
	if d == nil {
		d = &name{name: part}
		dir.dir.byName[part] = d
		dir.dir.list = append(dir.dir.list, d)
	}
	d.node, d.round = n, a.round
	if n.dir == nil {
		n.links++
	}
}

// unlink takes the inode from a name, with all that is in it if it is a directory. The name stays where it is, to get
// another inode or to be removed.
func (a *applier) unlink(d *name) {
	n := d.node
	d.node = nil
	if n.dir == nil {
		if n.links--; n.links > 0 {
			return
		}
	} else {
		for _, child := range n.dir.list {
			if child.node != nil {
				a.unlink(child)
			}
		}
	}
	a.destroy(n)
}

// remove takes a name out of its directory.
func (a *applier) remove(dir *node, d *name) {
	a.unlink(d)
	delete(dir.dir.byName, d.name)
}

// marker obeys the names by which a layer says that something is deleted.
func (a *applier) marker(dir *node, base, hidden string) error {
	switch {
	case base == opaqueName:
		a.hide(dir)
		return nil
	case strings.HasPrefix(base, reservedPrefix):
		return nil // AUFS's bookkeeping
	case hidden == "" || hidden == "." || hidden == "..":
		return corruptf("whiteout of no name")
	}
	a.whiteout(dir, hidden)
	return nil
}

// whiteout deletes what the layers below have by a name.
func (a *applier) whiteout(dir *node, base string) {
	d := dir.dir.byName[base]
	switch {
	case d == nil:
	case d.round != a.round:
		a.remove(dir, d)
	case d.node.dir != nil:
		a.hide(d.node)
	}
}

// hide deletes what the layers below have in a directory.
func (a *applier) hide(dir *node) {
	for _, d := range dir.dir.list {
		if d.node == nil {
			continue
		}
		if d.round != a.round {
			a.remove(dir, d)
		} else if d.node.dir != nil {
			a.hide(d.node)
		}
	}
}

// put makes the file that a header describes, in the place of what is there.
func (a *applier) put(dir *node, base string, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeLink {
		return a.link(dir, base, hdr)
	}
	mode, err := modeOf(hdr)
	if err != nil {
		return err
	}
	if mode == modeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		a.whiteout(dir, base) // there is no such device, and overlays take it for a whiteout
		return nil
	}
	d := dir.dir.byName[base]
	switch {
	case d != nil && d.node.dir != nil && mode == modeDir:
		d.round = a.round
		return a.describe(d.node, hdr)
	case d != nil && d.node.dir == nil && mode != modeDir && d.node.links == 1:
		return a.replace(d, mode, hdr)
	case d != nil:
		a.unlink(d)
	}
	n, err := a.create(mode)
	if err != nil {
		return err
	}
	if mode == modeDir {
		n.dir = newDir(dir)
	}
	a.enter(dir, base, n)
	if err := a.describe(n, hdr); err != nil {
		return err
	}
	if mode != modeRegular {
		return nil
	}
	return corrupt(a.store(n, hdr.Size, 0))
}

// replace makes another file of an inode that has one name, so that its directory stays as it is.
func (a *applier) replace(d *name, mode uint16, hdr *tar.Header) error {
	n, was := d.node, *d.node
	below := d.round != a.round && a.onDevice(n)
	d.round = a.round
	n.mode, n.target, n.major, n.minor, n.extents, n.size = mode, "", 0, 0, nil, 0
	if err := a.describe(n, hdr); err != nil {
		return err
	}
	var err error
	kept := false
	if mode == modeRegular {
		if below && was.mode&modeType == modeRegular && was.size == hdr.Size && hdr.Size > 0 {
			kept, err = a.same(n, &was)
		} else {
			err = a.store(n, hdr.Size, 0)
		}
	}
	if !kept {
		a.truncate(&was)
	}
	return corrupt(err)
}

// link makes one more name of a file.
func (a *applier) link(dir *node, base string, hdr *tar.Header) error {
	clean, err := inside(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	parent, last := path.Split(clean)
	links := 0
	from, err := a.walk(a.root(), parent, &links, false)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	var target *name
	if from != nil {
		target = from.dir.byName[last]
	}
	if target == nil || target.node.dir != nil {
		return corruptf("hard link to %s, which is no file", hdr.Linkname)
	}
	d := dir.dir.byName[base]
	if d != nil && d.node == target.node {
		d.round = a.round
		return nil
	}
	if target.node.links >= maxLinks {
		return fmt.Errorf("file has more than %d names: %w", maxLinks, errs.Limit)
	}
	n := target.node
	if d != nil {
		n.links++ // what makes way may be the folder that the file is in
		a.unlink(d)
		n.links--
	}
	a.enter(dir, base, n)
	return nil
}

// modeOf returns the type of a file as the kernel spells it.
func modeOf(hdr *tar.Header) (uint16, error) {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return modeRegular, nil
	case tar.TypeDir:
		return modeDir, nil
	case tar.TypeSymlink:
		return modeLink, nil
	case tar.TypeFifo:
		return modeFifo, nil
	case tar.TypeBlock:
		return modeBlock, nil
	case tar.TypeChar:
		return modeChar, nil
	}
	return 0, corruptf("unknown type %q", hdr.Typeflag)
}

// describe gives an inode what its header says besides content.
func (a *applier) describe(n *node, hdr *tar.Header) error {
	n.mode = n.mode&modeType | uint16(hdr.Mode)&0o7777
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) > 1<<32-1 || int64(hdr.Gid) > 1<<32-1 {
		return corruptf("owner %d:%d", hdr.Uid, hdr.Gid)
	}
	n.uid, n.gid = uint32(hdr.Uid), uint32(hdr.Gid)
	n.setTime(hdr.ModTime)
	switch n.mode & modeType {
	case modeLink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxTarget || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return corruptf("symbolic link to %q", hdr.Linkname)
		}
		n.target, n.size = hdr.Linkname, int64(len(hdr.Linkname))
	case modeChar, modeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return corruptf("device %d:%d", hdr.Devmajor, hdr.Devminor)
		}
		n.major, n.minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	}
	n.xattrs = nil
	for key, value := range hdr.PAXRecords {
		key, is := strings.CutPrefix(key, xattrPAX)
		if !is {
			continue
		}
		x, ok, err := newXattr(key, value)
		if err != nil {
			return err
		}
		if ok {
			n.xattrs = append(n.xattrs, x)
		}
	}
	sortXattrs(n.xattrs)
	if xattrSpace(n.xattrs) > blockXattrs {
		return fmt.Errorf("extended attributes of more than %d bytes: %w", blockXattrs, errs.Limit)
	}
	return nil
}

// store writes the content of a file of size bytes from pos on, as it comes in the tar.
func (a *applier) store(n *node, size, pos int64) error {
	if pos == 0 {
		if a.content += size; size > maxContent || a.content > maxContent {
			return fmt.Errorf("content is more than %d bytes: %w", int64(maxContent), errs.Limit)
		}
	}
	n.size = size
	for pos < size {
		data, err := a.read(size - pos)
		if err != nil {
			return err
		}
		if err := a.chunk(n, pos, data); err != nil {
			return err
		}
		pos += int64(len(data))
	}
	return nil
}

// read returns the next chunk of content of the current file, of which there are left bytes.
func (a *applier) read(left int64) ([]byte, error) {
	if a.ctx.Err() != nil {
		return nil, context.Cause(a.ctx)
	}
	data := a.buf[:min(left, chunkSize)]
	_, err := io.ReadFull(a.tar, data)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

// chunk writes a piece of content. Its backing array has room up to the end of the block.
func (a *applier) chunk(n *node, pos int64, data []byte) error {
	if zero(data) {
		return nil
	}
	count := (len(data) + BlockSize - 1) / BlockSize
	whole := data[:count*BlockSize]
	clear(whole[len(data):])
	start, err := a.alloc(uint32(count))
	if err != nil {
		return err
	}
	n.extend(uint32(pos/BlockSize), start, uint32(count))
	// The blocks are new: where nothing is written there are zeros.
	return runs(count, func(i int) bool { return !zero(whole[i*BlockSize : (i+1)*BlockSize]) }, func(i, j int) error {
		_, err := a.dev.WriteAt(whole[i*BlockSize:j*BlockSize], int64(start+uint32(i))*BlockSize)
		return err
	})
}

// runs calls do for each longest run of numbers below n for which want is true.
func runs(n int, want func(i int) bool, do func(i, j int) error) error {
	for i := 0; i < n; {
		if !want(i) {
			i++
			continue
		}
		j := i + 1
		for j < n && want(j) {
			j++
		}
		if err := do(i, j); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// zero says whether data has no other byte.
func zero(data []byte) bool {
	return len(data) == 0 || data[0] == 0 && bytes.Equal(data[1:], data[:len(data)-1])
}

// onDevice says whether the content of a file can be read.
func (f *FS) onDevice(n *node) bool {
	return !slices.ContainsFunc(n.extents, func(x extent) bool { return x.disk >= f.oldBlocks })
}

// same compares the content that comes with what the file had before, and keeps that as long as it is the same. kept says
// that it was to the end. Otherwise what was the same is copied.
func (a *applier) same(n, was *node) (kept bool, err error) {
	if a.before == nil {
		a.before = make([]byte, chunkSize)
	}
	for pos := int64(0); pos < was.size; {
		data, err := a.read(was.size - pos)
		if err != nil {
			return false, err
		}
		before := a.before[:len(data)]
		if err := a.readContent(was, before, pos); err != nil {
			return false, err
		}
		if !bytes.Equal(data, before) {
			return false, a.differs(n, was, pos, data)
		}
		pos += int64(len(data))
	}
	n.extents, n.size = was.extents, was.size
	return true, nil
}

// differs goes on where the content turned out to be another than before, at pos.
func (a *applier) differs(n, was *node, pos int64, data []byte) error {
	for p := int64(0); p < pos; p += chunkSize {
		if err := a.readContent(was, a.before, p); err != nil {
			return err
		}
		if err := a.chunk(n, p, a.before); err != nil {
			return err
		}
	}
	if err := a.chunk(n, pos, data); err != nil {
		return err
	}
	return a.store(n, was.size, pos+int64(len(data)))
}
