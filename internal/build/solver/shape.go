package solver

import (
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Shape is how an image is put together from its layers. It changes no layer, so it is in no cache key.
type Shape struct {
	// Annotations of the manifest.
	Annotations map[string]string
	// DescriptorAnnotations are those of what points at the manifest.
	DescriptorAnnotations map[string]string
	// DockerTypes states everything with the media types of Docker's schema 2 instead of the OCI's.
	DockerTypes bool
	// Squash makes one layer of all that the build adds to its base image.
	Squash bool
}

// Check refuses what Docker's types have no word for.
func (s *Shape) Check(compression string) error {
	if !s.DockerTypes {
		return nil
	}
	switch {
	case compression == "zstd":
		return dockerError("zstd layers", "compress with gzip, or use --media-types oci")
	case compression == "estargz" || compression == "zstdchunked":
		return dockerError("annotations of layers, by which those of "+compression+" are found", "compress with gzip, or use --media-types oci")
	case len(s.Annotations)+len(s.DescriptorAnnotations) > 0:
		return dockerError("annotations", "leave them out, or use --media-types oci")
	}
	return nil
}

func dockerError(what, hint string) error {
	return errs.Hint(fmt.Errorf("media types of docker: they have no %s: %w", what, errs.Invalid), hint)
}

func (s *Shape) configType() string {
	if s.DockerTypes {
		return oci.DockerConfig
	}
	return oci.MediaTypeConfig
}

func (s *Shape) manifest(config oci.Descriptor, layers []oci.Descriptor) oci.Manifest {
	m := oci.NewManifest(config, layers, s.Annotations)
	if s.DockerTypes {
		m.MediaType = oci.DockerManifest
	}
	return m
}

// layer states a layer with the types of the image: its bytes are the same. Base images may have either.
func (s *Shape) layer(d oci.Descriptor) (oci.Descriptor, error) {
	if !s.DockerTypes {
		d.MediaType = ociLayerType(d.MediaType)
		return d, nil
	}
	switch d.MediaType {
	case oci.MediaTypeLayerGzip:
		d.MediaType = oci.DockerLayerGzip
	case oci.MediaTypeLayer:
		d.MediaType = oci.DockerLayer
	case oci.MediaTypeLayerZstd, oci.DockerLayerZstd:
		return d, fmt.Errorf("layer %s: %w", d.Digest, dockerError("zstd layers", "choose another base image, or use --media-types oci"))
	}
	d.Annotations = nil
	return d, nil
}

func ociLayerType(mediaType string) string {
	switch mediaType {
	case oci.DockerLayerGzip:
		return oci.MediaTypeLayerGzip
	case oci.DockerLayerZstd:
		return oci.MediaTypeLayerZstd
	case oci.DockerLayer:
		return oci.MediaTypeLayer
	}
	return mediaType
}
