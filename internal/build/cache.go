package build

import (
	"context"
	"time"

	"slipway/internal/oci"
)

// Record is what a cache remembers of an operation that ran.
type Record struct {
	// Below is the chainID of the file system the operation ran on, "" for an empty one. The record answers only for
	// the same file system: a step never stands on a base that it was not built on, even when the base's step ran
	// anew and left something else.
	Below oci.Digest `json:"below,omitempty"`
	// Layer describes the blob with what the operation changed; nil when it changed nothing.
	Layer *oci.Descriptor `json:"layer,omitempty"`
	// DiffID is the digest of the layer's plain tar.
	DiffID oci.Digest `json:"diffID,omitempty"`
	// Created is when the operation ran, which the image's history repeats.
	Created time.Time `json:"created"`
}

// Cache maps the key of an operation to what came of it. A key is a digest over all that determines the result, and
// says nothing of the machine it was computed on.
//
// Implementations are safe for concurrent use by several goroutines and processes. The last Store of a key wins.
type Cache interface {
	// Lookup returns the record of key, or errs.NotFound.
	Lookup(ctx context.Context, key oci.Digest) (Record, error)
	// Store remembers a record whose blob, if any, is already in the blob store.
	Store(ctx context.Context, key oci.Digest, r Record) error
}
