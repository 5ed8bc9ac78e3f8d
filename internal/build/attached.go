package build

import "slipway/internal/oci"

// Attached is an artifact that refers to an image: a statement about it.
type Attached struct {
	// Manifest describes the artifact's manifest, with its type and annotations, and Raw is that.
	Manifest oci.Descriptor
	Raw      []byte
	// Config describes the artifact's config, and RawConfig is that.
	Config    oci.Descriptor
	RawConfig []byte
	// Layer describes the statement, and Statement is that.
	Layer     oci.Descriptor
	Statement []byte
}
