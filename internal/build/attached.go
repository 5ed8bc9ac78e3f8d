package build

import "slipway/internal/oci"

// Attached is a manifest of statements about an image: an artifact that refers to it or, if it is Listed, an entry of the
// index around it.
type Attached struct {
	// Manifest describes the manifest, with its type and annotations, and Raw is that.
	Manifest oci.Descriptor
	Raw      []byte
	// Config describes the artifact's config, and RawConfig is that.
	Config    oci.Descriptor
	RawConfig []byte
	// Statements are its layers.
	Statements []Statement
	// Listed says that it is in the index around the image, as BuildKit has it.
	Listed bool
}

// Statement is what somebody states of an image.
type Statement struct {
	Layer oci.Descriptor
	Data  []byte
}
