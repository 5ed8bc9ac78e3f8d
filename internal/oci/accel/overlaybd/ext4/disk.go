package ext4

import (
	"encoding/binary"
)

// Types of files, as the kernel spells them in modes.
const (
	modeType    = 0o170000
	modeFifo    = 0o010000
	modeChar    = 0o020000
	modeDir     = 0o040000
	modeBlock   = 0o060000
	modeRegular = 0o100000
	modeLink    = 0o120000
)

// fileType returns a type as directories spell it.
func fileType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFifo:
		return 5
	case modeLink:
		return 7
	}
	return 0
}

// Features. There is no journal, no checksums, and only one superblock, so that data can be in one piece.
const (
	featureCompat   = 0x8 | 0x200                   // ext_attr, sparse_super2
	featureIncompat = 0x2 | 0x40 | 0x200            // filetype, extents, flex_bg
	featureROCompat = 0x2 | 0x8 | 0x20 | 0x40       // large_file, huge_file, dir_nlink, extra_isize
	superMagic      = 0xef53                        //
	superOffset     = 1024                          // in block 0
	flagExtents     = 0x80000                       // of an inode
	extraSize       = 32                            // what inodes have beyond the first 128 bytes: finer times
	xattrStart      = 128 + extraSize               // in an inode
	xattrMagic      = 0xea020000                    //
	xattrHeader     = 32                            // of a block of attributes
	extentMagic     = 0xf30a                        //
	extentSize      = 12                            // of an entry, and of the header of a node
	maxExtent       = 32768                         // blocks of one extent
	inlineExtents   = 4                             // in an inode
	blockExtents    = (BlockSize - extentSize) / 12 // in a block
	inlineTarget    = 60                            // a symbolic link shorter than that is in the inode
	maxTarget       = BlockSize - 1                 // and no link is longer than that
)

var le = binary.LittleEndian

// superblock is what is in it that differs between file systems.
type superblock struct {
	groups, blocks, freeBlocks, freeInodes uint32
	uuid                                   [16]byte
}

func (s *superblock) encode() []byte {
	b := make([]byte, BlockSize)
	sb := b[superOffset:]
	le.PutUint32(sb[0:], s.groups*inodesPerGroup)
	le.PutUint32(sb[4:], s.blocks)
	le.PutUint32(sb[12:], s.freeBlocks)
	le.PutUint32(sb[16:], s.freeInodes)
	le.PutUint32(sb[24:], 2) // blocks and clusters of 1024<<2 bytes
	le.PutUint32(sb[28:], 2)
	le.PutUint32(sb[32:], blocksPerGroup)
	le.PutUint32(sb[36:], blocksPerGroup)
	le.PutUint32(sb[40:], inodesPerGroup)
	le.PutUint16(sb[54:], 0xffff) // mounts until a check: never
	le.PutUint16(sb[56:], superMagic)
	le.PutUint16(sb[58:], 1) // clean
	le.PutUint16(sb[60:], 1) // errors: go on
	le.PutUint32(sb[76:], 1) // revision: inodes of any size
	le.PutUint32(sb[84:], firstInode)
	le.PutUint16(sb[88:], inodeSize)
	le.PutUint32(sb[92:], featureCompat)
	le.PutUint32(sb[96:], featureIncompat)
	le.PutUint32(sb[100:], featureROCompat)
	copy(sb[104:], s.uuid[:])
	le.PutUint32(sb[256:], 0x4|0x8)   // mount with attributes of users and access control lists
	le.PutUint16(sb[348:], extraSize) // that inodes have at least
	le.PutUint16(sb[350:], extraSize) // and that new ones should have
	le.PutUint32(sb[352:], 0x2)       // char is unsigned
	sb[372] = 31                      // all groups are one flexible group
	return b
}

// groupDesc is the descriptor of a group.
type groupDesc struct {
	group
	freeBlocks, freeInodes, dirs uint32
}

func (d *groupDesc) encode(b []byte) {
	le.PutUint32(b[0:], d.blockBitmap)
	le.PutUint32(b[4:], d.inodeBitmap)
	le.PutUint32(b[8:], d.table)
	le.PutUint16(b[12:], uint16(d.freeBlocks))
	le.PutUint16(b[14:], uint16(d.freeInodes))
	le.PutUint16(b[16:], uint16(d.dirs))
}

// encode writes the inode to b, which is zero.
func (n *node) encode(b []byte) {
	le.PutUint16(b[0:], n.mode)
	le.PutUint16(b[2:], uint16(n.uid))
	le.PutUint32(b[4:], uint32(n.size))
	for i, at := range []int{8, 12, 16, 144} { // of access, change, modification, creation
		le.PutUint32(b[at:], uint32(n.seconds))
		le.PutUint32(b[[]int{140, 132, 136, 148}[i]:], n.nanos<<2|n.epoch())
	}
	le.PutUint16(b[24:], uint16(n.gid))
	le.PutUint16(b[26:], uint16(n.linkCount()))
	sectors := uint64(n.blocks()) + uint64(len(n.indexes))
	if n.xattrBlock != 0 {
		sectors++
	}
	sectors *= BlockSize / 512
	le.PutUint32(b[28:], uint32(sectors))
	le.PutUint16(b[116:], uint16(sectors>>32))
	le.PutUint32(b[104:], n.xattrBlock)
	le.PutUint32(b[108:], uint32(n.size>>32))
	le.PutUint16(b[120:], uint16(n.uid>>16))
	le.PutUint16(b[122:], uint16(n.gid>>16))
	le.PutUint16(b[128:], extraSize)
	switch n.mode & modeType {
	case modeRegular, modeDir:
		n.encodeExtents(b)
	case modeLink:
		if n.inlineLink() {
			copy(b[40:100], n.target)
		} else {
			n.encodeExtents(b)
		}
	case modeChar, modeBlock:
		if n.major < 256 && n.minor < 256 {
			le.PutUint32(b[40:], n.major<<8|n.minor)
		} else {
			le.PutUint32(b[44:], n.minor&0xff|n.major<<8|(n.minor&^0xff)<<12)
		}
	}
	if n.xattrBlock == 0 && len(n.xattrs) > 0 {
		le.PutUint32(b[xattrStart:], xattrMagic)
		encodeXattrs(b[xattrStart+4:], 0, n.xattrs)
	}
}

// inlineLink says whether the target of a symbolic link is in the inode.
func (n *node) inlineLink() bool { return len(n.target) < inlineTarget }

// epoch is the bits that seconds have beyond 32.
func (n *node) epoch() uint32 {
	return uint32((n.seconds-int64(int32(n.seconds)))>>32) & 3
}

// linkCount is what the inode says how many names it has. A directory is also "." and its children's "..", and stops
// counting where that would not fit.
func (n *node) linkCount() uint32 {
	if n.dir == nil {
		return n.links
	}
	count := uint32(2)
	for _, d := range n.dir.byName {
		if d.node.dir != nil {
			count++
		}
	}
	if count > maxLinks {
		return 1
	}
	return count
}

// level is a level of the tree of extents: entries that point at extents of the file or at blocks of the level below.
type level struct {
	file  []uint32
	disk  []uint32
	count []uint32 // nil above the lowest
}

func (n *node) extentLevel() level {
	var l level
	for _, x := range n.extents {
		for x.count > 0 { // an entry cannot say more than maxExtent
			c := min(x.count, maxExtent)
			l.file, l.disk, l.count = append(l.file, x.file), append(l.disk, x.disk), append(l.count, c)
			x.file, x.disk, x.count = x.file+c, x.disk+c, x.count-c
		}
	}
	return l
}

// treeBlocks returns how many blocks the tree of extents has outside the inode.
func (n *node) treeBlocks() int {
	sum, entries := 0, len(n.extentLevel().file)
	for entries > inlineExtents {
		entries = (entries + blockExtents - 1) / blockExtents
		sum += entries
	}
	return sum
}

// encodeExtents writes the root of the tree of extents.
func (n *node) encodeExtents(b []byte) {
	le.PutUint32(b[32:], flagExtents)
	l, depth := n.extentLevel(), 0
	blocks := n.indexes
	for len(l.file) > inlineExtents {
		l = l.up(blocks)
		blocks = blocks[len(l.file):]
		depth++
	}
	l.encode(b[40:100], depth, inlineExtents)
}

// up returns the level above, whose entries point at blocks.
func (l *level) up(blocks []uint32) level {
	var above level
	for i := 0; i < len(l.file); i += blockExtents {
		above.file = append(above.file, l.file[i])
		above.disk = append(above.disk, blocks[len(above.disk)])
	}
	return above
}

// part returns some of the entries.
func (l *level) part(start, end int) level {
	p := level{file: l.file[start:end], disk: l.disk[start:end]}
	if l.count != nil {
		p.count = l.count[start:end]
	}
	return p
}

// encode writes a node of the tree to b, which is zero.
func (l *level) encode(b []byte, depth, room int) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(len(l.file)))
	le.PutUint16(b[4:], uint16(room))
	le.PutUint16(b[6:], uint16(depth))
	for i := range l.file {
		e := b[extentSize*(i+1):]
		le.PutUint32(e[0:], l.file[i])
		if depth > 0 {
			le.PutUint32(e[4:], l.disk[i])
		} else {
			le.PutUint16(e[4:], uint16(l.count[i])) // maxExtent is 0x8000, which still means initialized
			le.PutUint32(e[8:], l.disk[i])
		}
	}
}

// tree returns the blocks of the tree of extents outside the inode, in the order of n.indexes.
func (n *node) tree() [][]byte {
	var out [][]byte
	l, depth, blocks := n.extentLevel(), 0, n.indexes
	for len(l.file) > inlineExtents {
		for i := 0; i < len(l.file); i += blockExtents {
			part := l.part(i, min(i+blockExtents, len(l.file)))
			b := make([]byte, BlockSize)
			part.encode(b, depth, blockExtents)
			out = append(out, b)
		}
		l = l.up(blocks)
		blocks = blocks[len(l.file):]
		depth++
	}
	return out
}

// recordSize is the length of a directory's record of a name.
func recordSize(name string) int { return (8 + len(name) + 3) &^ 3 }

// encodeDir returns the content of a directory.
func (n *node) encodeDir() []byte {
	var b []byte
	last := 0 // where the last record is
	add := func(name string, to *node) {
		size := recordSize(name)
		if end := len(b); end == 0 || end%BlockSize+size > BlockSize || end%BlockSize == 0 {
			if end > 0 { // the last record takes the rest of its block
				full := (end + BlockSize - 1) / BlockSize * BlockSize
				le.PutUint16(b[last+4:], uint16(full-last))
				b = append(b, make([]byte, full-end)...)
			}
		}
		last = len(b)
		b = append(b, make([]byte, size)...)
		r := b[last:]
		le.PutUint32(r[0:], to.number)
		le.PutUint16(r[4:], uint16(size))
		r[6], r[7] = byte(len(name)), fileType(to.mode)
		copy(r[8:], name)
	}
	add(".", n)
	add("..", n.dir.parent)
	for _, d := range n.dir.list {
		add(d.name, d.node)
	}
	full := (len(b) + BlockSize - 1) / BlockSize * BlockSize
	le.PutUint16(b[last+4:], uint16(full-last))
	return append(b, make([]byte, full-len(b))...)
}
