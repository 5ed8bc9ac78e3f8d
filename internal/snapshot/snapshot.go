// Package snapshot is the contract for states of a file system, and reads such states without mounting them.
//
// A state is a list of layer folders, bottom first. A layer folder holds the changes of one layer in the form of an
// overlay's upper directory (see package layer) and knows nothing of what is below it; so a layer is unpacked once on
// a machine, whatever it is stacked on, and there are no parent links to follow, to keep or to break. See
// docs/decisions/0005-layer-folders.md.
//
// A [Snapshotter] keeps layer folders. A [View] is the merged tree of a state, read in user space. Package overlay is
// the implementation on a local file system; package snapshottest is the suite that every implementation passes.
package snapshot

import (
	"context"

	"slipway/internal/oci"
)

// ID names a layer folder. It is never used again for another one.
type ID string

// Snapshotter keeps layer folders. Its methods may be called by several goroutines, and by several processes on the
// same storage, at once.
//
// A folder begins as a [Draft], which belongs to the process that began it. Filled by layer.Apply or layer.Place, or
// used as the upper directory of a mount, it is published under the digest of its layer and then never changes:
//
//	draft, err := s.Begin(ctx)
//	defer draft.Discard()
//	applied, err := layer.Apply(ctx, draft.Dir(), tar, layer.ApplyOptions{})
//	err = draft.Publish(ctx, applied.DiffID)
//
// A later build finds it, and keeps it from being removed while it is in use:
//
//	id, err := s.Lookup(ctx, diffID)
//	release, err := s.Hold(ctx, id)
//	defer release()
//	mount(s.Dir(id))
type Snapshotter interface {
	// Begin returns a new, empty folder.
	Begin(ctx context.Context) (Draft, error)
	// Lookup returns a folder that was published under a digest, or an error of kind errs.NotFound. A folder that a
	// crash of the machine may have damaged is removed and not found.
	Lookup(ctx context.Context, key oci.Digest) (ID, error)
	// Hold keeps a folder from being removed, by any process, until release is called or this process ends. If it is
	// gone the error is of kind errs.NotFound. A folder may be held many times. Holding it counts as a use.
	Hold(ctx context.Context, id ID) (release func(), err error)
	// Dir returns the path of a folder's files. It does not say whether they are there.
	Dir(id ID) string
	// Remove removes a folder. If it is held, or still a draft, the error is of kind errs.Conflict; if it is not
	// there, of kind errs.NotFound.
	Remove(ctx context.Context, id ID) error
	// Recover removes drafts of processes that are gone, and deletes what Discard only put aside. It may run at any
	// time, and is best run beside a build, by every process that uses the snapshotter: it ends, with what is left for
	// the next one, when ctx does.
	Recover(ctx context.Context) error
}

// Draft is a folder that is being filled. It belongs to one process; its methods may be called by one goroutine at a
// time.
type Draft interface {
	// ID returns the name that the folder has, now and once it is published.
	ID() ID
	// Dir returns the path of the folder's files: an empty directory with mode 0755, owned by root.
	Dir() string
	// Work returns the path of an empty directory in the same file system: the overlay's work directory.
	Work() string
	// Publish makes Lookup find the folder under key: the layer's diffID, or for a layer that depends on those below
	// (layer.Applied.Dependent) a digest over all of them. Nothing may change the folder's files from then on. The
	// folder stays where it is, and held until Discard. It may be published under several keys. If key has a folder
	// already, that one stays and this one is left unpublished, without an error.
	Publish(ctx context.Context, key oci.Digest) error
	// Discard ends the draft: removes the folder unless it was published, else only lets go of it. The files of a large
	// folder are only put aside, for the next Recover to delete. Calling it again does nothing.
	Discard() error
}
