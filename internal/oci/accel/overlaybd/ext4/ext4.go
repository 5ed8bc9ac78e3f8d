// Package ext4 keeps the merged tree of an image's layers as an ext4 file system, and writes for each layer only the
// blocks that the layer changes.
//
//	f, err := ext4.New(uuid)        // or Open, on what the layers below made
//	err = f.Apply(ctx, tar, dev)    // content of files goes to dev as it is read
//	err = f.Flush(dev)              // and then the metadata that became different
//
// So the device is all the state there is between layers: blocks are never moved, those of new files come after all that
// were ever used, and a file that a layer only touched keeps its content. Whoever reads the blocks of all layers on top
// of each other has the file system, which the kernel mounts and e2fsck has nothing to say about, except that there is
// no lost+found: the tree is the image's and nothing else.
//
// The file system has no journal and no free space worth the name: it is to be mounted read-only. It depends on the tars
// alone, times and numbers of inodes included.
//
// Open reads what this package wrote, and is not a reader for file systems of others; see docs/decisions/0023.
package ext4

import (
	"fmt"
	"io"
	"time"

	"slipway/internal/errs"
)

const (
	// BlockSize is the unit of all that is written.
	BlockSize = 4096
	// MaxSize is the largest file system there can be. It is also what a device should say its size is: that of a layer
	// is known only at its end.
	MaxSize = int64(maxBlocks) * BlockSize

	blocksPerGroup = 8 * BlockSize // as many as a bitmap has bits
	inodesPerGroup = 8 * BlockSize
	inodeSize      = 256
	tableBlocks    = inodesPerGroup * inodeSize / BlockSize
	descSize       = 32
	// Descriptors of groups have a fixed place, behind the superblock, so that growing moves nothing.
	descBlocks = 16
	maxGroups  = descBlocks * BlockSize / descSize
	maxBlocks  = maxGroups * blocksPerGroup

	rootInode  = 2
	firstInode = 11 // those before are reserved

	// maxInodes bounds memory.
	maxInodes = 4 << 20
	// maxContent is how much content the files of a layer may claim, holes included: a header of a few bytes can claim
	// any length.
	maxContent = 1 << 40
	// maxLinks is how many names a file may have.
	maxLinks = 65000
)

// FS is a file system that changes. Its methods belong to one goroutine.
type FS struct {
	uuid  [16]byte
	nodes []*node // by number of the inode; nil is free
	used  bitmap  // blocks
	next  uint32  // the first block that was never used

	groups []group
	// old is the device as the layers below left it, and oldBlocks how much of it there is.
	old       io.ReaderAt
	oldBlocks uint32
	// round counts calls of Apply: what belongs to the current layer has its number.
	round int
	files int // nodes that are not nil
}

// group is where the metadata of a group of blocks is. With flex_bg that may be anywhere.
type group struct{ blockBitmap, inodeBitmap, table uint32 }

// node is an inode.
type node struct {
	number       uint32
	mode         uint16 // type and permissions, as the kernel spells them
	uid, gid     uint32
	links        uint32 // names; not counted for directories
	size         int64
	seconds      int64
	nanos        uint32
	major, minor uint32
	target       string // of a symbolic link
	xattrs       []xattr
	extents      []extent
	indexes      []uint32 // blocks of the tree of extents, if they are too many for the inode
	xattrBlock   uint32   // 0: attributes are in the inode
	dir          *dir     // nil unless a directory
}

// extent is a run of blocks of a file.
type extent struct {
	file  uint32 // place in the file, in blocks
	disk  uint32
	count uint32
}

// dir is what a directory has in it.
type dir struct {
	parent *node
	list   []*name // in the order in which they came; removed ones have no node
	byName map[string]*name
}

// name is an entry of a directory.
type name struct {
	name  string
	node  *node
	round int // when it was last written by a layer
}

// New returns an empty file system, with a root that belongs to root.
func New(uuid [16]byte) *FS {
	f := &FS{uuid: uuid, next: 1 + descBlocks, nodes: make([]*node, firstInode)}
	f.used.set(0, f.next)
	root := &node{number: rootInode, mode: modeDir | 0o755, dir: newDir(nil)}
	root.dir.parent = root
	f.nodes[rootInode] = root
	f.files = 1
	return f
}

func newDir(parent *node) *dir { return &dir{parent: parent, byName: map[string]*name{}} }

func (f *FS) root() *node { return f.nodes[rootInode] }

// Size returns the size of the file system in bytes.
func (f *FS) Size() int64 { return int64(f.next) * BlockSize }

// alloc takes n blocks that were never used.
func (f *FS) alloc(n uint32) (uint32, error) {
	if n > maxBlocks-f.next {
		return 0, fmt.Errorf("file system is larger than %d bytes: %w", MaxSize, errs.Limit)
	}
	start := f.next
	f.next += n
	f.used.set(start, n)
	return start, nil
}

// create returns a new inode.
func (f *FS) create(mode uint16) (*node, error) {
	if f.files >= maxInodes || len(f.nodes) > maxGroups*inodesPerGroup {
		return nil, fmt.Errorf("file system has more than %d files: %w", maxInodes, errs.Limit)
	}
	n := &node{number: uint32(len(f.nodes)), mode: mode}
	f.nodes = append(f.nodes, n)
	f.files++
	return n, nil
}

// destroy frees an inode with all its blocks.
func (f *FS) destroy(n *node) {
	f.truncate(n)
	f.freeBlocks(n.indexes)
	if n.xattrBlock != 0 {
		f.used.clear(n.xattrBlock, 1)
	}
	f.nodes[n.number] = nil
	f.files--
}

// truncate frees the content of an inode.
func (f *FS) truncate(n *node) {
	for _, x := range n.extents {
		f.used.clear(x.disk, x.count)
	}
	n.extents, n.size = nil, 0
}

func (f *FS) freeBlocks(blocks []uint32) {
	for _, b := range blocks {
		f.used.clear(b, 1)
	}
}

// extend adds blocks to the end of a file.
func (n *node) extend(file, disk, count uint32) {
	if i := len(n.extents) - 1; i >= 0 {
		if last := &n.extents[i]; last.file+last.count == file && last.disk+last.count == disk {
			last.count += count
			return
		}
	}
	n.extents = append(n.extents, extent{file: file, disk: disk, count: count})
}

// blocks returns how many blocks the content has.
func (n *node) blocks() uint32 {
	sum := uint32(0)
	for _, x := range n.extents {
		sum += x.count
	}
	return sum
}

// Times that an inode can have.
const (
	minSeconds = -1 << 31
	maxSeconds = 1<<31 - 1 + 3<<32
)

// setTime sets the time of a file. One that an inode cannot have becomes the nearest, as in the kernel.
func (n *node) setTime(t time.Time) {
	n.seconds, n.nanos = t.Unix(), uint32(t.Nanosecond())
	if n.seconds < minSeconds {
		n.seconds, n.nanos = minSeconds, 0
	}
	if n.seconds > maxSeconds {
		n.seconds, n.nanos = maxSeconds, 0
	}
}

// bitmap has a bit for each block.
type bitmap []uint64

func (b *bitmap) set(start, n uint32) {
	for end := int((start + n + 63) / 64); len(*b) < end; {
		*b = append(*b, 0)
	}
	for i := start; i < start+n; i++ {
		(*b)[i/64] |= 1 << (i % 64)
	}
}

func (b bitmap) clear(start, n uint32) {
	for i := start; i < start+n; i++ {
		b[i/64] &^= 1 << (i % 64)
	}
}

func (b bitmap) has(i uint32) bool { return int(i/64) < len(b) && b[i/64]&(1<<(i%64)) != 0 }
