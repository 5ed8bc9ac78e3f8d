// Package layer turns a tree of files into a tar layer of an OCI image, and a tar layer into a tree of files.
//
// A layer is a list of changes to the layers below it. Between the two forms it is a sequence of [File]: an [Entry],
// which says what the change is, and content. [Upper] reads the sequence from a directory that an overlay mount wrote,
// [Write] makes a compressed tar of it, [Place] makes such a directory of it, and [Apply] makes such a directory of a
// stranger's tar. An [Index] keeps the entries of a layer where its content is not needed.
//
// Directories are in the form that the kernel's overlay file system reads and writes: a deleted file (whiteout) is a
// character device 0:0, and a directory that hides the one below it (opaque) has the extended attribute
// trusted.overlay.opaque. In a tar they are the files .wh.NAME and .wh..wh..opq (OCI image-spec, layer.md §whiteouts).
//
// Digests: a layer's diffID is the digest of its plain tar, its blob digest is that of the compressed tar. Write
// produces the same bytes for the same entries and options on every machine, whatever its number of processors.
package layer

import (
	"io"
	"io/fs"
	"time"

	"slipway/internal/oci"
)

// Entry is one file of a layer, without its content.
type Entry struct {
	// Path is clean, slash separated and relative. The root is ".".
	Path string
	// Mode is the type, the permissions, and setuid, setgid and sticky.
	Mode fs.FileMode
	// UID and GID own the file.
	UID, GID int
	// Size is the length in bytes of a regular file.
	Size int64
	// ModTime is stored in whole seconds.
	ModTime time.Time
	// Link is the target of a symbolic link; with Hard, the Path of the first name of the file.
	Link string
	// Hard says that this is one more name of an earlier file of the same layer. Its other fields are that file's.
	Hard bool
	// Major and Minor are the numbers of a device.
	Major, Minor uint32
	// Xattrs are the extended attributes, values as raw bytes.
	Xattrs map[string]string
	// Whiteout says that Path is deleted from the layers below. Nothing else but Path counts then.
	Whiteout bool
	// Opaque says that a directory hides everything that the layers below have in it.
	Opaque bool
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return !e.Whiteout && e.Mode.IsDir() }

// IsRegular says whether the entry has content of its own: a regular file that is not another name of an earlier one.
func (e *Entry) IsRegular() bool { return !e.Whiteout && !e.Hard && e.Mode.IsRegular() }

// File is an entry with its content.
type File struct {
	Entry
	// Open returns the content of a regular file, which has Size bytes. It may be nil when Source is set.
	Open func() (io.ReadCloser, error)
	// Source is the path on this machine of a regular file with the same content, if there is one. It is faster than
	// Open: the content is read in parallel, or copied inside the kernel.
	Source string
	// Ctime is the inode change time that Source had when the file was listed, in nanoseconds since 1970. When it is
	// another after the content was read, the file changed meanwhile, and that is an error. Default: not looked at.
	Ctime int64
}

// Compression says how a layer is compressed.
type Compression struct {
	// Algorithm is "gzip", "zstd" or "none". Default: gzip.
	Algorithm string
	// Level is the effort: 1 to 9 for gzip, 1 to 22 for zstd. Default: the one that decision 0006 chose.
	Level int
}

// Options change how a layer is written.
type Options struct {
	Compression
	// Epoch is the latest modification time that files get. Default: times as they are.
	Epoch *time.Time
	// Index asks for Result.Index. Default: none is made.
	Index bool
}

// Result describes a layer that was written.
type Result struct {
	// Descriptor has the media type, and the digest and the size in bytes of the compressed tar.
	Descriptor oci.Descriptor
	// DiffID is the digest of the plain tar.
	DiffID oci.Digest
	// Uncompressed is the size in bytes of the plain tar.
	Uncompressed int64
	// Entries is the number of entries, whiteouts included.
	Entries int
	// Index holds the entries if Options.Index asked for it.
	Index *Index
}

// The names by which a tar says that something is deleted.
const (
	whiteoutPrefix = ".wh."
	// reservedPrefix begins AUFS's own files. Only opaqueName means something to others.
	reservedPrefix = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// clampTime returns t in whole seconds and no later than epoch. No time at all is 1970, as in archive/tar.
func clampTime(t time.Time, epoch *time.Time) time.Time {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	if epoch != nil && t.After(*epoch) {
		t = *epoch
	}
	// Truncate rounds toward the zero time, that is down; seconds are what USTAR holds and containerd writes.
	return t.Truncate(time.Second)
}
