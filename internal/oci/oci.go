// Package oci holds the words of the OCI image specification that every other package speaks: descriptors,
// manifests, indexes, image configs and platforms, over the specification's own Go types.
//
// It does no I/O. Rooms below it do: blob stores bytes by digest, layer turns trees into tars and back, ref parses
// image references, registry talks to registries.
package oci

import (
	"encoding/json"
	"fmt"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The specification's types under their short names.
type (
	// Digest is algorithm:hex over some bytes.
	Digest = digest.Digest
	// Descriptor points at a blob.
	Descriptor = v1.Descriptor
	// Manifest is one platform's config and layers.
	Manifest = v1.Manifest
	// Index is a list of manifests over platforms.
	Index = v1.Index
	// Platform is os/arch/variant.
	Platform = v1.Platform
	// History is what made a layer.
	History = v1.History
	// Image is an image's JSON config with the fields that Docker adds to the specification (Healthcheck,
	// OnBuild, Shell), which OCI allows and every runtime reads.
	Image = dockerspec.DockerOCIImage
	// Config is the part of Image that a container starts with.
	Config = dockerspec.DockerOCIImageConfig
)

// Media types that slipway reads. It writes the OCI ones.
const (
	MediaTypeManifest  = v1.MediaTypeImageManifest
	MediaTypeIndex     = v1.MediaTypeImageIndex
	MediaTypeConfig    = v1.MediaTypeImageConfig
	MediaTypeLayer     = v1.MediaTypeImageLayer
	MediaTypeLayerGzip = v1.MediaTypeImageLayerGzip
	MediaTypeLayerZstd = v1.MediaTypeImageLayerZstd
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	AnnotationCreated  = v1.AnnotationCreated
	AnnotationRefName  = v1.AnnotationRefName
	AnnotationBaseName = v1.AnnotationBaseImageName
	AnnotationBaseDgst = v1.AnnotationBaseImageDigest
	AnnotationTitle    = v1.AnnotationTitle
	ImageLayoutFile    = v1.ImageLayoutFile
	ImageLayoutVersion = v1.ImageLayoutVersion
	ImageIndexFile     = v1.ImageIndexFile
	ImageBlobsDir      = v1.ImageBlobsDir
)

// MaxManifestBytes is the largest manifest or index that is read (distribution-spec: registries should accept 4 MiB).
const MaxManifestBytes = 4 << 20

// IsIndex says whether a media type is a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == DockerManifestList
}

// IsManifest says whether a media type is one platform's manifest.
func IsManifest(mediaType string) bool {
	return mediaType == MediaTypeManifest || mediaType == DockerManifest
}

// Describe returns the descriptor of data under a media type.
func Describe(mediaType string, data []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// NewManifest returns an OCI manifest over a config and layers, ready to be marshalled.
func NewManifest(config Descriptor, layers []Descriptor, annotations map[string]string) Manifest {
	return Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   MediaTypeManifest,
		Config:      config,
		Layers:      layers,
		Annotations: annotations,
	}
}

// NewIndex returns an OCI index over manifests, ready to be marshalled.
func NewIndex(manifests []Descriptor, annotations map[string]string) Index {
	return Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   MediaTypeIndex,
		Manifests:   manifests,
		Annotations: annotations,
	}
}

// Marshal encodes v as the JSON that its digest is taken over: compact, keys in the order of the type.
func Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return data, nil
}
