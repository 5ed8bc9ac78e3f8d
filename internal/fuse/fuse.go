// Package fuse shows a tree of files, which does not change, as a file system of the kernel.
//
//	s, err := fuse.Mount(dir, root, fuse.Options{})
//	defer s.Close()
//
// It speaks as much of the protocol (Linux, include/uapi/linux/fuse.h) as reading takes: content is asked for when it is
// read, everything else is in the tree. The mount can be the lower folder of an overlay: whiteouts are character devices
// 0:0, and extended attributes are shown as they are.
//
// The kernel's questions come from other processes and from this one, which must have goroutines to spare for both. It
// must not map files of its own mount into memory: a page fault there would wait for a goroutine that cannot run.
package fuse

import (
	"context"
	"time"
)

// Node is a file of a tree. What is set here must not change while it is mounted.
type Node struct {
	// Mode is as in stat(2), type included.
	Mode     uint32
	UID, GID uint32
	Size     int64
	ModTime  time.Time
	// Links is the number of names. Default: 1, and what a folder's children say.
	Links        uint32
	Major, Minor uint32
	// Target is that of a symbolic link.
	Target string
	// Xattrs are the extended attributes.
	Xattrs map[string]string
	// Children are what a folder has in it. A file may be there under several names.
	Children map[string]*Node
	// Read reads content at an offset, like an io.ReaderAt. It may be called by several goroutines at once.
	Read func(ctx context.Context, p []byte, off int64) (int, error)
	// Opened is told each time the file is opened, also to be executed. Default: nobody is.
	Opened func()

	id    uint64
	names []string // of Children, in order
}

// Options say how a tree is served.
type Options struct {
	// Failed hears of reads that failed; whoever reads gets EIO. Default: nobody does.
	Failed func(error)
	// Source is what /proc/mounts shows as the device. Default: slipway.
	Source string
}
