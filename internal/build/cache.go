package build

import (
	"context"
	"time"

	"slipway/internal/oci"
)

// Record is what a cache remembers of an operation that ran.
type Record struct {
	// Below identifies the file system the operation ran on, "" for an empty one. The record answers only for the same
	// file system: a step never stands on a base that it was not built on, even when the base's step ran anew and left
	// something else.
	Below oci.Digest `json:"below,omitempty"`
	// Layer describes the blob with what the operation changed; nil when it changed nothing, or when nobody has needed
	// a blob of it yet.
	Layer *oci.Descriptor `json:"layer,omitempty"`
	// DiffID is the digest of the layer's plain tar; it comes with Layer.
	DiffID oci.Digest `json:"diffID,omitempty"`
	// Folder is the key of the layer's folder in this machine's snapshots, when the operation ran for its files alone:
	// in a stage that others only copy from.
	Folder oci.Digest `json:"folder,omitempty"`
	// Created is when the operation ran, which the image's history repeats.
	Created time.Time `json:"created"`
	// Name is what people call the operation. It is for this machine's lists alone.
	Name string `json:"name,omitempty"`
}

// Empty says that the operation changed nothing.
func (r Record) Empty() bool { return r.Layer == nil && r.Folder == "" }

// Identity stands for the layer in the identity of a file system (see Below).
func (r Record) Identity() oci.Digest {
	if r.Folder != "" {
		return r.Folder
	}
	return r.DiffID
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
