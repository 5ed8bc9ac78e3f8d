// Package chunk compresses tars in pieces that can be decompressed one by one, and says where the content of each file
// went. It is what formats with a table of contents have in common.
//
//	w := chunk.NewWriter(ctx, dst, chunk.Options{Codec: codec, Entry: func(e *chunk.Entry) error { … }})
//	defer w.Close()
//	err := w.Tar(r, nil)
//	res, err := w.Finish()
//
// A tar is cut where the content of a file begins, at fixed lengths inside it, and where Options.Split says; a piece is
// a chunk of content with the padding and the headers up to the next one. The tar's own bytes are kept, headers
// included: only sparse files are written out, for their content is not in the tar as it is in the file.
//
// The bytes that are written depend on the tar and the options alone. Pieces are compressed by as many workers as there
// are processors, in batches, and memory is bounded by the batches under way.
package chunk

import (
	"archive/tar"
	"errors"
	"hash"

	"slipway/internal/oci"
)

const (
	// maxChunk is the longest chunk of content, and about the longest run of headers in one piece. It is part of the
	// output's bytes.
	maxChunk = 4 << 20
	// batchSize is how much of the tar is handed to a worker at once: small files by the hundred.
	batchSize = 1 << 20
	// maxWorkers bounds memory, as each worker and each batch that waits for one may hold a chunk and its compression.
	maxWorkers = 8
	// maxSparse is how much content the sparse files of a layer may claim together: a header of a few bytes can claim
	// any length.
	maxSparse = 16 << 30
	// maxTail is how much may follow the entries of a tar: GNU tar fills a record of at most 1 MiB.
	maxTail = 4 << 20
)

// ErrSparse is the error for a sparse file, with Options.NoSparse.
var ErrSparse = errors.New("sparse file")

// Entry is an entry of a tar.
type Entry struct {
	// Header is the entry's. One of a sparse file is that of the file as it was written out.
	Header *tar.Header
	// Name is the path of the file: clean, and without a slash before or after it.
	Name string
	// Raw is what the tar has between the content of the entry before and that of this one: padding and headers.
	Raw []byte
	// Digest is the content's; "" without content.
	Digest oci.Digest
	// Checksum is that of the content, with Options.CRC64.
	Checksum uint64
	// Chunks are the pieces of the content, in order.
	Chunks []Chunk

	whole hash.Hash   // of content that is not all in one batch; nil for others
	crc   hash.Hash64 // the same
}

// Chunk is a piece of a file's content.
type Chunk struct {
	// Offset and Size say which part of the content it is.
	Offset, Size int64
	// Start and End are where in the output its compression begins and ends. What is compressed begins with the chunk,
	// and may go on after it.
	Start, End int64
	// Digest is the chunk's.
	Digest oci.Digest
	// Zero says that the chunk is all zeros.
	Zero bool
}

// Result describes what was written.
type Result struct {
	// DiffID is the digest of the plain tar.
	DiffID oci.Digest
	// Plain is the length of the plain tar.
	Plain int64
	// Digest is that of the output, and Size its length.
	Digest oci.Digest
	Size   int64
}

// Codec compresses pieces. Encoder returns one for the use of a single goroutine.
type Codec interface {
	Encoder() Encoder
}

// Encoder appends the compression of src, complete in itself, to dst. The output depends on src alone.
type Encoder interface {
	Encode(dst, src []byte) ([]byte, error)
}

// Splitter finds where the content of one file is cut.
type Splitter interface {
	// Split returns the length of the chunk that data begins with: it may be all of data, when that is cut for its
	// length or the file ends. What follows a chunk comes again in the next call.
	Split(data []byte) int
}

// Options say how a Writer works.
type Options struct {
	// Codec compresses.
	Codec Codec
	// Entry is told of each entry, in the order of the tar, once it is known where its content went. It is called by
	// one goroutine at a time.
	Entry func(*Entry) error
	// Split makes what cuts the content of one more file. Default: content is cut at fixed lengths alone.
	Split func() Splitter
	// Apart puts headers and padding in pieces of their own, so that a piece with content has nothing else.
	Apart bool
	// Raw asks for Entry.Raw and Writer.Rest.
	Raw bool
	// Whole adds what follows the last entry of a tar, too: the blocks that end it, and whatever comes after them, up to
	// maxTail bytes; more is an error of kind errs.Limit.
	Whole bool
	// CRC64 asks for Entry.Checksum: ISO 3309, as tar-split has it.
	CRC64 bool
	// NoSparse refuses sparse files with ErrSparse. Default: they are written out.
	NoSparse bool
}
