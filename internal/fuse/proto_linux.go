package fuse

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// The protocol's operations that are answered. All others get ENOSYS, after which the kernel does without.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opReadlink    = 5
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
)

const (
	major, minor = 7, 31

	initAsyncRead     = 1 << 0
	initParallelDirs  = 1 << 18
	initNoOpendir     = 1 << 24
	initMaxPages      = 1 << 22
	initCacheSymlinks = 1 << 23

	openKeepCache = 1 << 1

	inHeader  = 40
	outHeader = 16
	// maxRead is the most that the kernel asks for at once: 256 pages.
	maxRead = 1 << 20
	// requestSize is the buffer that the kernel wants for a request (FUSE_MIN_READ_BUFFER), with room for names.
	requestSize = 64 << 10
	// forever is how long the kernel may keep what it was told, in seconds: the tree does not change.
	forever = 1 << 30
)

var le = binary.LittleEndian

// request is a question of the kernel.
type request struct {
	op     uint32
	unique uint64
	node   uint64
	body   []byte
}

var errShort = errors.New("request is too short")

func parseRequest(b []byte) (request, error) {
	if len(b) < inHeader || int(le.Uint32(b)) != len(b) {
		return request{}, errShort
	}
	return request{op: le.Uint32(b[4:]), unique: le.Uint64(b[8:]), node: le.Uint64(b[16:]), body: b[inHeader:]}, nil
}

// reply begins an answer; finish completes it.
func reply(buf []byte, r request) []byte {
	b := append(buf[:0], make([]byte, outHeader)...)
	le.PutUint64(b[8:], r.unique)
	return b
}

func finish(b []byte, errno unix.Errno) []byte {
	if errno != 0 {
		b = b[:outHeader]
	}
	le.PutUint32(b, uint32(len(b)))
	le.PutUint32(b[4:], uint32(-int32(errno)))
	return b
}

func appendInit(b, body []byte) ([]byte, unix.Errno) {
	if len(body) < 16 {
		return b, unix.EINVAL
	}
	if le.Uint32(body) != major {
		return append(le.AppendUint32(b, major), make([]byte, 60)...), 0 // the kernel asks again, in our version
	}
	b = le.AppendUint32(b, major)
	b = le.AppendUint32(b, min(minor, le.Uint32(body[4:])))
	b = append(b, body[8:12]...) // max_readahead: as much as the kernel likes
	b = le.AppendUint32(b, le.Uint32(body[12:])&(initAsyncRead|initParallelDirs|initNoOpendir|initMaxPages|initCacheSymlinks))
	b = le.AppendUint16(b, 16) // max_background
	b = le.AppendUint16(b, 12) // congestion_threshold
	b = le.AppendUint32(b, 4096)
	b = le.AppendUint32(b, 1) // time_gran
	b = le.AppendUint16(b, maxRead/4096)
	return append(b, make([]byte, 34)...), 0
}

func (n *Node) appendAttr(b []byte) []byte {
	for _, v := range []uint64{n.id, uint64(n.Size), uint64(n.Size+511) / 512} {
		b = le.AppendUint64(b, v)
	}
	var sec uint64 // 1970 when it has no time
	if !n.ModTime.IsZero() {
		sec = uint64(n.ModTime.Unix())
	}
	for range 3 { // atime, mtime, ctime
		b = le.AppendUint64(b, sec)
	}
	nsec := uint32(n.ModTime.Nanosecond())
	rdev := n.Minor&0xff | n.Major<<8 | n.Minor&^0xff<<12
	for _, v := range []uint32{nsec, nsec, nsec, n.Mode, n.Links, n.UID, n.GID, rdev, 4096, 0} {
		b = le.AppendUint32(b, v)
	}
	return b
}

// appendEntry answers a lookup. A nil node is the answer that there is none, which the kernel remembers, too.
func appendEntry(b []byte, n *Node) []byte {
	if n == nil {
		return append(le.AppendUint64(le.AppendUint64(le.AppendUint64(b, 0), 0), forever), make([]byte, 104)...)
	}
	b = le.AppendUint64(b, n.id)
	b = le.AppendUint64(b, 0) // generation
	b = le.AppendUint64(b, forever)
	b = le.AppendUint64(b, forever)
	return n.appendAttr(le.AppendUint64(b, 0))
}

func (n *Node) appendAttrOut(b []byte) []byte {
	return n.appendAttr(le.AppendUint64(le.AppendUint64(b, forever), 0))
}

// appendDir appends as many entries as fit, from the one at offset: the folder itself, the one above, which the kernel
// knows better, and its children.
func (n *Node) appendDir(b []byte, offset uint64, size int) []byte {
	limit := len(b) + size
	for i := min(offset, uint64(len(n.names)+2)); i < uint64(len(n.names)+2); i++ {
		name, child := ".", n
		switch {
		case i == 1:
			name = ".."
		case i > 1:
			name = n.names[i-2]
			child = n.Children[name]
		}
		if len(b)+24+(len(name)+7)&^7 > limit {
			break
		}
		b = le.AppendUint64(b, child.id)
		b = le.AppendUint64(b, i+1)
		b = le.AppendUint32(b, uint32(len(name)))
		b = le.AppendUint32(b, child.Mode&unix.S_IFMT>>12)
		b = append(b, name...)
		b = append(b, make([]byte, -len(name)&7)...)
	}
	return b
}

func appendStatfs(b []byte, files int) []byte {
	for _, v := range []uint64{0, 0, 0, uint64(files), 0} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range []uint32{4096, 255, 4096, 0} {
		b = le.AppendUint32(b, v)
	}
	return append(b, make([]byte, 24)...)
}

// appendValue answers with a value, or, when nothing is to be read, with its length.
func appendValue(b []byte, value string, room uint32) ([]byte, unix.Errno) {
	switch {
	case room == 0:
		return le.AppendUint64(b, uint64(uint32(len(value)))), 0
	case int(room) < len(value):
		return b, unix.ERANGE
	}
	return append(b, value...), 0
}
