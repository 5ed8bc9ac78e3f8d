package ext4

import (
	"bytes"
	"io"
	"slices"
)

// Flush writes to dev all metadata that is not on the device already. Nothing is applied after it.
func (f *FS) Flush(dev io.WriterAt) error {
	w := &flusher{FS: f, dev: dev}
	for _, n := range f.nodes {
		if n == nil {
			continue
		}
		if err := w.outside(n); err != nil {
			return err
		}
	}
	if err := w.grow(); err != nil {
		return err
	}
	for i, g := range f.groups {
		if err := w.table(i, g); err != nil {
			return err
		}
	}
	return w.groupsAndSuperblock()
}

// flusher writes metadata.
type flusher struct {
	*FS
	dev   io.WriterAt
	block []byte // of the device as it was
}

// put writes blocks that differ from what is on the device.
func (w *flusher) put(start uint32, data []byte) error {
	count := len(data) / BlockSize
	if cap(w.block) < len(data) {
		w.block = make([]byte, len(data))
	}
	old := w.block[:len(data)]
	if w.old == nil || start >= w.oldBlocks {
		clear(old)
	} else if err := readFull(w.old, old, int64(start)*BlockSize); err != nil {
		return err
	}
	differs := func(i int) bool {
		return !bytes.Equal(data[i*BlockSize:(i+1)*BlockSize], old[i*BlockSize:(i+1)*BlockSize])
	}
	return runs(count, differs, func(i, j int) error {
		_, err := w.dev.WriteAt(data[i*BlockSize:j*BlockSize], int64(start+uint32(i))*BlockSize)
		return err
	})
}

// outside writes what an inode has outside the table: the content of directories and long symbolic links, attributes,
// and the tree of extents.
func (w *flusher) outside(n *node) error {
	switch {
	case n.dir != nil:
		n.dir.list = slices.DeleteFunc(n.dir.list, func(d *name) bool { return d.node == nil })
		if err := w.content(n, n.encodeDir()); err != nil {
			return err
		}
	case n.mode&modeType == modeLink && !n.inlineLink():
		b := make([]byte, BlockSize)
		copy(b, n.target)
		if err := w.content(n, b); err != nil {
			return err
		}
		n.size = int64(len(n.target))
	}
	if err := w.attributes(n); err != nil {
		return err
	}
	return w.tree(n)
}

// content makes data the content of an inode, in the blocks that it has as far as they go.
func (w *flusher) content(n *node, data []byte) error {
	want := uint32(len(data) / BlockSize)
	have := n.blocks()
	if want > have {
		start, err := w.alloc(want - have)
		if err != nil {
			return err
		}
		n.extend(have, start, want-have)
	}
	for ; have > want; have-- {
		last := &n.extents[len(n.extents)-1]
		last.count--
		w.used.clear(last.disk+last.count, 1)
		if last.count == 0 {
			n.extents = n.extents[:len(n.extents)-1]
		}
	}
	n.size = int64(len(data))
	for _, x := range n.extents {
		if err := w.put(x.disk, data[:x.count*BlockSize]); err != nil {
			return err
		}
		data = data[x.count*BlockSize:]
	}
	return nil
}

// attributes writes extended attributes that do not fit into the inode.
func (w *flusher) attributes(n *node) error {
	if xattrSpace(n.xattrs) <= inodeXattrs || len(n.xattrs) == 0 {
		if n.xattrBlock != 0 {
			w.used.clear(n.xattrBlock, 1)
			n.xattrBlock = 0
		}
		return nil
	}
	if n.xattrBlock == 0 {
		var err error
		if n.xattrBlock, err = w.alloc(1); err != nil {
			return err
		}
	}
	return w.put(n.xattrBlock, encodeXattrBlock(n.xattrs))
}

// tree writes the blocks of the tree of extents.
func (w *flusher) tree(n *node) error {
	count := n.treeBlocks()
	for len(n.indexes) < count {
		b, err := w.alloc(1)
		if err != nil {
			return err
		}
		n.indexes = append(n.indexes, b)
	}
	w.freeBlocks(n.indexes[count:])
	n.indexes = n.indexes[:count]
	for i, data := range n.tree() {
		if err := w.put(n.indexes[i], data); err != nil {
			return err
		}
	}
	return nil
}

// grow adds groups until all blocks, those of the groups' metadata included, and all inodes are in one.
func (w *flusher) grow() error {
	for {
		have := uint32(len(w.groups))
		inodes := uint32(len(w.nodes) - 1)
		if have*blocksPerGroup >= w.next && have*inodesPerGroup >= inodes {
			// The number of groups follows from that of blocks: the last one must have some.
			if last := (have - 1) * blocksPerGroup; w.next <= last {
				w.next = last + 1
			}
			return nil
		}
		start, err := w.alloc(2 + tableBlocks)
		if err != nil {
			return err
		}
		w.groups = append(w.groups, group{blockBitmap: start, inodeBitmap: start + 1, table: start + 2})
	}
}

// tableRun is how many blocks of a table are compared at a time.
const tableRun = 64

// table writes the inodes of a group, up to the last one there is. Those after it were never used.
func (w *flusher) table(i int, g group) error {
	nodes := w.groupNodes(i)
	const perRun = tableRun * BlockSize / inodeSize
	for at := uint32(0); len(nodes) > 0; at += tableRun {
		run := nodes[:min(len(nodes), perRun)]
		nodes = nodes[len(run):]
		data := make([]byte, (len(run)*inodeSize+BlockSize-1)/BlockSize*BlockSize)
		for k, n := range run {
			if n != nil {
				n.encode(data[k*inodeSize : (k+1)*inodeSize])
			}
		}
		if err := w.put(g.table+at, data); err != nil {
			return err
		}
	}
	return nil
}

// groupNodes returns the inodes of a group.
func (f *FS) groupNodes(i int) []*node {
	start := i*inodesPerGroup + 1
	if start >= len(f.nodes) {
		return nil
	}
	return f.nodes[start:min(start+inodesPerGroup, len(f.nodes))]
}

func (w *flusher) groupsAndSuperblock() error {
	super := superblock{groups: uint32(len(w.groups)), blocks: w.next, uuid: w.uuid}
	descs := make([]byte, descBlocks*BlockSize)
	for i, g := range w.groups {
		d := groupDesc{group: g}
		b := make([]byte, 2*BlockSize) // both bitmaps are next to each other
		d.freeBlocks = w.blockBitmap(uint32(i), b[:BlockSize])
		d.freeInodes, d.dirs = w.inodeBitmap(i, b[BlockSize:])
		if err := w.put(g.blockBitmap, b); err != nil {
			return err
		}
		d.encode(descs[i*descSize:])
		super.freeBlocks += d.freeBlocks
		super.freeInodes += d.freeInodes
	}
	if err := w.put(1, descs); err != nil {
		return err
	}
	// The superblock comes even if it is the same: a layer without a single block is one that nobody has tried to read.
	_, err := w.dev.WriteAt(super.encode(), 0)
	return err
}

// blockBitmap writes which blocks of a group are used to b, and returns how many are not. There are none after the end.
// Blocks that are kept for descriptors of more groups are free as long as there are none.
func (w *flusher) blockBitmap(i uint32, b []byte) (free uint32) {
	descs := uint32(len(w.groups)*descSize+BlockSize-1) / BlockSize
	for k := range uint32(blocksPerGroup) {
		block := i*blocksPerGroup + k
		kept := block > descs && block <= descBlocks
		if block >= w.next || w.used.has(block) && !kept {
			b[k/8] |= 1 << (k % 8)
		} else {
			free++
		}
	}
	return free
}

// inodeBitmap writes which inodes of a group are used to b, and returns how many are not, and how many are directories.
func (w *flusher) inodeBitmap(i int, b []byte) (free, dirs uint32) {
	free = inodesPerGroup
	for k, n := range w.groupNodes(i) {
		reserved := i == 0 && k+1 < firstInode
		if n == nil && !reserved {
			continue
		}
		b[k/8] |= 1 << (k % 8)
		free--
		if n != nil && n.dir != nil {
			dirs++
		}
	}
	return free, dirs
}
