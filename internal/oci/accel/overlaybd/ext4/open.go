package ext4

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"slipway/internal/errs"
)

// Open reads the metadata of a file system that this package wrote, to apply another layer or to read its files. One that
// another program made is an error of kind errs.Invalid. One whose parts do not fit together is one of kind errs.Corrupt:
// no block and no directory is in two places, and every inode is in the tree.
func Open(dev io.ReaderAt) (*FS, error) {
	f := &FS{old: dev}
	o := &opener{FS: f}
	if err := o.open(); err != nil {
		return nil, fmt.Errorf("open ext4 file system: %w", err)
	}
	return f, nil
}

// opener reads a file system.
type opener struct {
	*FS
	links map[*node]uint32 // names that were found
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errs.Corrupt)
}

func (o *opener) open() error {
	count, err := o.superblock()
	if err != nil {
		return err
	}
	if err := o.take(0, 1+descBlocks); err != nil {
		return err
	}
	descs, err := o.read(1, descBlocks)
	if err != nil {
		return err
	}
	o.nodes = make([]*node, firstInode)
	for i := range count {
		d := descs[i*descSize:]
		g := group{blockBitmap: le.Uint32(d), inodeBitmap: le.Uint32(d[4:]), table: le.Uint32(d[8:])}
		if g.inodeBitmap != g.blockBitmap+1 || g.table != g.blockBitmap+2 {
			return damaged("group %d has its metadata at %d, %d and %d", i, g.blockBitmap, g.inodeBitmap, g.table)
		}
		if err := o.take(g.blockBitmap, 2+tableBlocks); err != nil {
			return err
		}
		o.groups = append(o.groups, g)
	}
	for i, g := range o.groups {
		if err := o.inodes(i, g); err != nil {
			return err
		}
	}
	return o.tree()
}

// superblock reads the superblock and returns the number of groups.
func (o *opener) superblock() (uint32, error) {
	b := make([]byte, BlockSize)
	if err := readFull(o.old, b, 0); err != nil {
		return 0, err
	}
	sb := b[superOffset:]
	s := superblock{
		groups: le.Uint32(sb) / inodesPerGroup, blocks: le.Uint32(sb[4:]), freeBlocks: le.Uint32(sb[12:]), freeInodes: le.Uint32(sb[16:]),
	}
	copy(s.uuid[:], sb[104:])
	if string(b) != string(s.encode()) {
		return 0, fmt.Errorf("not a file system that slipway made: %w", errs.Invalid)
	}
	if s.groups == 0 || s.groups > maxGroups || s.groups != (s.blocks-1)/blocksPerGroup+1 {
		return 0, damaged("%d groups, %d blocks", s.groups, s.blocks)
	}
	o.uuid, o.next, o.oldBlocks = s.uuid, s.blocks, s.blocks
	return s.groups, nil
}

// take notes that blocks are used, by nobody else.
func (o *opener) take(start, n uint32) error {
	if n > o.next || start > o.next-n {
		return damaged("blocks %d to %d of %d", start, uint64(start)+uint64(n), o.next)
	}
	for b := start; b < start+n; b++ {
		if o.used.has(b) {
			return damaged("block %d is used twice", b)
		}
	}
	o.used.set(start, n)
	return nil
}

func (o *opener) read(start, n uint32) ([]byte, error) {
	b := make([]byte, n*BlockSize)
	return b, readFull(o.old, b, int64(start)*BlockSize)
}

// inodes reads the inodes of a group.
func (o *opener) inodes(i int, g group) error {
	bits, err := o.read(g.inodeBitmap, 1)
	if err != nil {
		return err
	}
	last := -1
	for k := range inodesPerGroup {
		if bits[k/8]&(1<<(k%8)) != 0 {
			last = k
		}
	}
	const perRun = tableRun * BlockSize / inodeSize
	for at := 0; at <= last; at += perRun {
		n := min(perRun, last+1-at)
		data, err := o.read(g.table+uint32(at*inodeSize/BlockSize), uint32((n*inodeSize+BlockSize-1)/BlockSize))
		if err != nil {
			return err
		}
		for k := range n {
			number := uint32(i*inodesPerGroup + at + k + 1)
			used := bits[(at+k)/8]&(1<<((at+k)%8)) != 0
			if !used || number < firstInode && number != rootInode {
				continue
			}
			if o.files++; o.files > maxInodes {
				return fmt.Errorf("file system has more than %d files: %w", maxInodes, errs.Limit)
			}
			if err := o.inode(number, data[k*inodeSize:(k+1)*inodeSize]); err != nil {
				return fmt.Errorf("inode %d: %w", number, err)
			}
		}
	}
	return nil
}

// inode reads an inode and notes its blocks.
func (o *opener) inode(number uint32, b []byte) error {
	n := &node{
		number: number, mode: le.Uint16(b), uid: uint32(le.Uint16(b[2:])) | uint32(le.Uint16(b[120:]))<<16,
		gid: uint32(le.Uint16(b[24:])) | uint32(le.Uint16(b[122:]))<<16, links: uint32(le.Uint16(b[26:])),
		size: int64(le.Uint32(b[4:])) | int64(le.Uint32(b[108:]))<<32, xattrBlock: le.Uint32(b[104:]),
	}
	extra := le.Uint32(b[136:])
	n.seconds, n.nanos = int64(int32(le.Uint32(b[16:])))+int64(extra&3)<<32, extra>>2
	if n.size < 0 || n.size > maxContent {
		return damaged("size %d", n.size)
	}
	for len(o.nodes) <= int(number) {
		o.nodes = append(o.nodes, nil)
	}
	o.nodes[number] = n
	if err := o.kind(n, b); err != nil {
		return err
	}
	return o.attributes(n, b)
}

// kind reads what depends on the type of the file.
func (o *opener) kind(n *node, b []byte) error {
	extents := le.Uint32(b[32:])&flagExtents != 0
	if extents {
		if err := o.extents(n, b[40:100]); err != nil {
			return err
		}
	}
	switch n.mode & modeType {
	case modeRegular, modeDir:
		if !extents {
			return damaged("no extents")
		}
		if n.mode&modeType == modeDir {
			n.dir = newDir(nil)
			n.links = 0
			if uint64(n.blocks())*BlockSize != uint64(n.size) {
				return damaged("directory of %d bytes has %d blocks", n.size, n.blocks())
			}
		}
	case modeLink:
		if n.size == 0 || n.size > maxTarget || extents != (n.size >= inlineTarget) || extents && n.blocks() != 1 {
			return damaged("symbolic link of %d bytes", n.size)
		}
		target := b[40:100]
		if extents {
			target = make([]byte, n.size)
			if err := o.readContent(n, target, 0); err != nil {
				return err
			}
		}
		n.target = string(target[:n.size])
	case modeChar, modeBlock:
		if old := le.Uint32(b[40:]); old != 0 {
			n.major, n.minor = old>>8, old&0xff
		} else {
			dev := le.Uint32(b[44:])
			n.major, n.minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
	case modeFifo:
	default:
		return damaged("mode %o", n.mode)
	}
	return nil
}

func (o *opener) attributes(n *node, b []byte) (err error) {
	if n.xattrBlock != 0 {
		if err := o.take(n.xattrBlock, 1); err != nil {
			return err
		}
		block, err := o.read(n.xattrBlock, 1)
		if err != nil {
			return err
		}
		n.xattrs, err = decodeXattrs(block[xattrHeader:], xattrHeader)
		return err
	}
	if le.Uint32(b[xattrStart:]) == xattrMagic {
		n.xattrs, err = decodeXattrs(b[xattrStart+4:], 0)
	}
	return err
}

// extents reads the tree of extents, whose blocks come level by level, the lowest first.
func (o *opener) extents(n *node, root []byte) error {
	depth := int(le.Uint16(root[6:]))
	if depth > 4 {
		return damaged("tree of extents has %d levels", depth)
	}
	nodes := [][]byte{root}
	var levels [][]uint32
	for ; ; depth-- {
		var blocks []uint32
		for _, b := range nodes {
			entries := int(le.Uint16(b[2:]))
			if le.Uint16(b) != extentMagic || int(le.Uint16(b[6:])) != depth || entries > len(b)/extentSize-1 {
				return damaged("tree of extents is damaged")
			}
			for e := b[extentSize : extentSize*(entries+1)]; len(e) > 0; e = e[extentSize:] {
				if depth > 0 {
					blocks = append(blocks, le.Uint32(e[4:]))
					continue
				}
				if err := o.extent(n, le.Uint32(e), le.Uint32(e[8:]), uint32(le.Uint16(e[4:]))); err != nil {
					return err
				}
			}
		}
		if depth == 0 {
			break
		}
		levels = append(levels, blocks)
		nodes = nodes[:0]
		for _, at := range blocks {
			if err := o.take(at, 1); err != nil {
				return err
			}
			b, err := o.read(at, 1)
			if err != nil {
				return err
			}
			nodes = append(nodes, b)
		}
	}
	for i := len(levels) - 1; i >= 0; i-- {
		n.indexes = append(n.indexes, levels[i]...)
	}
	return nil
}

func (o *opener) extent(n *node, file, disk, count uint32) error {
	if i := len(n.extents) - 1; i >= 0 && file < n.extents[i].file+n.extents[i].count || count == 0 || count > maxExtent ||
		int64(file)+int64(count) > (n.size+BlockSize-1)/BlockSize {
		return damaged("extent of %d blocks at %d", count, file)
	}
	if err := o.take(disk, count); err != nil {
		return err
	}
	n.extend(file, disk, count)
	return nil
}

// tree reads all directories, from the root on.
func (o *opener) tree() error {
	root := o.root()
	if root == nil || root.dir == nil {
		return damaged("no root")
	}
	root.dir.parent = root
	o.links = map[*node]uint32{}
	dirs := 0
	for todo := []*node{root}; len(todo) > 0; dirs++ {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := o.directory(n); err != nil {
			return fmt.Errorf("directory %d: %w", n.number, err)
		}
		for _, d := range n.dir.list {
			if d.node.dir != nil {
				todo = append(todo, d.node)
			}
		}
	}
	for n, count := range o.links {
		if n.links != count {
			return damaged("inode %d has %d names, and says %d", n.number, count, n.links)
		}
	}
	if found := len(o.links) + dirs; found != o.files {
		return damaged("%d inodes, %d of them in the tree", o.files, found)
	}
	return nil
}

// directory reads the names in a directory, some blocks at a time: how large it says it is need not be true.
func (o *opener) directory(n *node) error {
	buf := make([]byte, min(n.size, tableRun*BlockSize))
	i := 0
	for off := int64(0); off < n.size; off += int64(len(buf)) {
		data := buf[:min(int64(len(buf)), n.size-off)]
		if err := o.readContent(n, data, off); err != nil {
			return err
		}
		for ; len(data) > 0; data = data[BlockSize:] {
			if err := o.records(n, &i, data[:BlockSize]); err != nil {
				return err
			}
		}
	}
	if i < 2 {
		return errDir
	}
	return nil
}

// records reads the names in a block of a directory, in which *i were read already.
func (o *opener) records(n *node, i *int, b []byte) error {
	for ; len(b) > 0; *i++ {
		if len(b) < 8 {
			return errDir
		}
		size, length := int(le.Uint16(b[4:])), int(b[6])
		if size < 8+length || size > len(b) || size%4 != 0 {
			return errDir
		}
		if err := o.name(n, *i, string(b[8:8+length]), le.Uint32(b)); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

var errDir = errs.Mark(errors.New("a record is damaged"), errs.Corrupt)

// name adds the i-th name of a directory.
func (o *opener) name(n *node, i int, base string, number uint32) error {
	switch i {
	case 0:
		if base != "." || number != n.number {
			return errDir
		}
		return nil
	case 1:
		if base != ".." || number != n.dir.parent.number {
			return errDir
		}
		return nil
	}
	if base == "" || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") || uint64(number) >= uint64(len(o.nodes)) ||
		o.nodes[number] == nil {
		return damaged("%q is inode %d", base, number)
	}
	child := o.nodes[number]
	if n.dir.byName[base] != nil || child.dir != nil && child.dir.parent != nil {
		return damaged("%q is there twice", base)
	}
	if child.dir != nil {
		child.dir.parent = n
	} else {
		o.links[child]++
	}
	d := &name{name: base, node: child}
	n.dir.byName[base] = d
	n.dir.list = append(n.dir.list, d)
	return nil
}
