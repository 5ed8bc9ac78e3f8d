package ext4

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type blocks map[int64][]byte

func (b blocks) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, b[off/BlockSize]), nil
}

// TestDeepTreeOfExtents has two levels outside the inode, for which a file would need gigabytes.
func TestDeepTreeOfExtents(t *testing.T) {
	t.Parallel()
	n := &node{size: 1 << 34}
	for i := range uint32(2000) {
		n.extents = append(n.extents, extent{file: 3 * i, disk: 100_000 + 2*i, count: 1})
	}
	want := slices.Clone(n.extents)
	for i := range n.treeBlocks() {
		n.indexes = append(n.indexes, uint32(10+i))
	}
	if len(n.indexes) != 6+1 {
		t.Fatalf("%d blocks, want 6 below 1", len(n.indexes))
	}
	dev := blocks{}
	for i, data := range n.tree() {
		dev[int64(n.indexes[i])] = data
	}
	inode := make([]byte, inodeSize)
	n.encodeExtents(inode)
	read := &node{size: n.size}
	o := &opener{FS: &FS{old: dev, next: 200_000}}
	if err := o.extents(read, inode[40:100]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read.extents, cmp.AllowUnexported(extent{})); diff != "" {
		t.Errorf("extents mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(n.indexes, read.indexes); diff != "" {
		t.Errorf("blocks of the tree mismatch (-want +got):\n%s", diff)
	}
	if want := slices.Sorted(maps.Keys(dev)); len(want) != 7 {
		t.Errorf("%d blocks were written", len(want))
	}
}

func TestLongExtentsAreSplit(t *testing.T) {
	t.Parallel()
	n := &node{extents: []extent{{file: 0, disk: 1000, count: 2*maxExtent + 5}}}
	l := n.extentLevel()
	if diff := cmp.Diff([]uint32{maxExtent, maxExtent, 5}, l.count); diff != "" {
		t.Errorf("lengths mismatch (-want +got):\n%s", diff)
	}
}
