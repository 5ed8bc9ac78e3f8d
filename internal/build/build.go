// Package build holds the words of a Dockerfile build: what happens in one (Event), what a finished one gives back
// (Image), and how a failed step is reported (StepError).
//
// Rooms below it: dockerfile parses, plan turns instructions into operations, tree reads what COPY copies, cache
// remembers results by key, warm keeps base images in a folder, and solver walks the plan and drives them all.
// Package build itself does no I/O.
package build

import (
	"fmt"
	"time"

	"slipway/internal/oci"
)

// Image is what a build gives back.
type Image struct {
	// Manifest describes the image's manifest, or its index when several platforms were built.
	Manifest oci.Descriptor
	// Config describes the image's config.
	Config oci.Descriptor
	// Raw is the manifest's bytes, those that Manifest.Digest is taken over.
	Raw []byte
	// RawConfig is the config's bytes.
	RawConfig []byte
	// Layers are the manifest's layers, bottom first.
	Layers []oci.Descriptor
	// Platforms are the images that an index lists; Manifest and Raw are then the index's, and Config and Layers are
	// empty. Nil for an image of one platform.
	Platforms []*Image
	// Attached are statements about the image, kept beside it.
	Attached []Attached
	// Provenance is how the image was made (SLSA v1, JSON), when the build was asked for it.
	Provenance []byte
	// Stats says what the build did.
	Stats Stats
}

// Stats counts what a build did, for its summary and for tests that prove a rebuild did nothing.
type Stats struct {
	Steps         int           `json:"steps"`         // operations that make or may make a layer
	Cached        int           `json:"cached"`        // of these, how many the cache answered
	LayersPacked  int           `json:"layersPacked"`  // layers compressed by this build
	BytesPacked   int64         `json:"bytesPacked"`   // compressed bytes that it wrote
	BlobsPushed   int           `json:"blobsPushed"`   // blobs sent to registries, configs included
	BytesPushed   int64         `json:"bytesPushed"`   // bytes sent in them
	BlobsMounted  int           `json:"blobsMounted"`  // blobs that a registry mounted from another repository
	BlobsExisting int           `json:"blobsExisting"` // blobs that a registry had already
	Took          time.Duration `json:"took"`
}

// StepError is a RUN whose process exited non-zero.
type StepError struct {
	File string // the Dockerfile, as the user named it
	Line int
	Text string // the instruction
	Code int    // the process's exit status; 128+n when signal n killed it
	Tail []string
	// Source is what to show of the Dockerfile below the message.
	Source Excerpt
}

func (e *StepError) Error() string {
	return fmt.Sprintf("%s:%d: %s: exit status %d", e.File, e.Line, e.Text, e.Code)
}

// Excerpt is what to show of the Dockerfile below the message.
func (e *StepError) Excerpt() Excerpt { return e.Source }

// ExitCode is the status of the process that failed.
func (e *StepError) ExitCode() int { return e.Code }
