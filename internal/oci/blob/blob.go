// Package blob is the contract of a blob store: bytes named by their digest.
//
// A blob is written once, under whatever digest its bytes turn out to have, and never changes. What Open returns is
// what that digest names: an implementation verifies before it trusts. Package dir is the implementation on a local
// file system; package blobtest is the suite that every implementation passes.
//
// A blob that is still being written can be read at the same time ([Writer].Follow), so that an upload starts while
// its layer is still being compressed.
//
// Blobs come and go: somebody may delete a blob between the moment another one learns that it is there and the moment
// that he opens it. Whoever works with many of them sees them through a [Keeper], which lets none of those it has seen
// go before its own end.
package blob

import (
	"context"
	"io"
	"iter"

	"slipway/internal/oci"
)

// Store keeps blobs by digest. Its methods may be called by several goroutines, and by several processes on the same
// storage, at once.
//
// Methods that name a digest return an error of kind errs.Invalid when it is malformed or its algorithm unknown.
type Store interface {
	// Stat returns the size in bytes of the blob d, or an error of kind errs.NotFound.
	Stat(ctx context.Context, d oci.Digest) (int64, error)
	// Open returns the content of the blob d, or an error of kind errs.NotFound. The caller closes the reader. A
	// reader stays readable when the blob is deleted under it.
	Open(ctx context.Context, d oci.Digest) (Reader, error)
	// Create begins a blob whose digest is not known yet. The caller closes the writer, whether it commits or not.
	Create(ctx context.Context) (Writer, error)
	// Put stores data and returns its sha256 digest. Putting the same data again is no error.
	Put(ctx context.Context, data []byte) (oci.Digest, error)
	// Delete removes the blob d. Deleting one that is not there is no error; if somebody holds it (see [Holder]) the
	// error is of kind errs.Conflict.
	Delete(ctx context.Context, d oci.Digest) error
	// List yields the digest of every blob, in no particular order. Blobs that come or go meanwhile may be missed.
	List(ctx context.Context) iter.Seq2[oci.Digest, error]
}

// Holder is a [Store] whose blobs can be kept from being deleted while somebody relies on them.
type Holder interface {
	Store
	// Hold opens the blob d as Open does, and keeps every process from deleting it until the reader is closed or this
	// process ends. It counts as a use of the blob. A blob may be held many times. A writer holds the blob that it
	// committed until it is closed, and those that follow it may.
	Hold(ctx context.Context, d oci.Digest) (Reader, error)
}

// Reader reads one blob, sequentially or at any offset.
type Reader interface {
	io.ReadSeekCloser
	io.ReaderAt
	// Size returns the length of the blob in bytes.
	Size() int64
}

// Writer writes one blob. Write, Commit and Close belong to one goroutine; Follow may be called by any.
type Writer interface {
	io.Writer
	// Follow returns a reader over the blob from offset on. Its Read waits for bytes that are not written yet, until
	// Commit, after which it ends with io.EOF, or until the writer is closed without one, after which it returns an
	// error. There may be many followers; one may start at any time before Close, also after Commit, and may outlive
	// the writer.
	Follow(offset int64) io.ReadCloser
	// Commit makes the blob visible under its digest, all at once or not at all, and returns a descriptor with its
	// digest and size; the media type is the caller's to fill in. If want is not empty and is not the digest of what
	// was written, nothing is stored and the error is of kind errs.Corrupt. It is no error if the blob exists already.
	Commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error)
	// Close gives up the blob unless it was committed, and releases the writer. Calling it again does nothing.
	Close() error
}

// Summer is a [Writer] that hashes what is written to it and can tell the digest before Commit, so that whoever
// produces the bytes need not hash them again.
type Summer interface {
	// Sum returns the sha256 digest of all bytes written so far.
	Sum() oci.Digest
}
