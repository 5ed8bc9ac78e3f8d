// Package overlaybd writes and reads the native images of overlaybd (DADI): a block device in layers, whose blocks a node
// fetches when they are read. A container on such an image starts when the few blocks are there that it reads first.
//
//	f, err := overlaybd.New(overlaybd.Options{Algorithm: "zstd"})
//	layer, err := f.Convert(ctx, dst, stack)
//
// A layer's blob is a tar of one file, which is a ZFile (package zfile) of an LSMT layer (package lsmt) of the blocks that
// the layer changes in an ext4 file system (package ext4). To runtimes without overlaybd's snapshotter such an image is of
// no use: the files are not in its tars.
//
// Device puts the blobs of an image on top of each other and reads them, wherever they are.
package overlaybd

import (
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/overlaybd/zfile"
)

// ArtifactType is what a manifest of layers in this format says it is.
const ArtifactType = "application/vnd.containerd.overlaybd.native.v1+json"

// Annotations of a layer's descriptor, by which a snapshotter knows it.
const (
	AnnotationDigest  = "containerd.io/snapshot/overlaybd/blob-digest"
	AnnotationSize    = "containerd.io/snapshot/overlaybd/blob-size"
	AnnotationVersion = "containerd.io/snapshot/overlaybd/version"
	AnnotationFS      = "containerd.io/snapshot/overlaybd/blob-fs-type"
)

const (
	// formatVersion is that of the format, for the annotation.
	formatVersion = "0.1.0"
	// version is part of the settings: it changes when the same input gives other bytes.
	version = 1
)

// Options say how layers are written. The zero value is good.
type Options struct {
	// Algorithm is "lz4", which is fast to read at any place, or "zstd", which takes a third less. Default: lz4.
	Algorithm string
	// Dir is the folder for the blob that is being written: its beginning is known at its end. Default: that of the system
	// for temporary files.
	Dir string
}

// Format is overlaybd with some options.
type Format struct {
	compression zfile.Options
	dir         string
}

var _ accel.Format = (*Format)(nil)

// New returns the format. An algorithm that it does not have is an error of kind errs.Invalid.
func New(opts Options) (*Format, error) {
	f := &Format{compression: zfile.Options{Algorithm: opts.Algorithm}, dir: opts.Dir}
	if f.compression.Algorithm == "" {
		f.compression.Algorithm = "lz4"
	}
	if err := f.compression.Validate(); err != nil {
		return nil, fmt.Errorf("overlaybd: %w", err)
	}
	return f, nil
}

// Name implements accel.Format.
func (f *Format) Name() string { return "overlaybd" }

// Settings implements accel.Format.
func (f *Format) Settings() string {
	return fmt.Sprintf("version=%d algorithm=%s", version, f.compression.Algorithm)
}

// Stacked implements accel.Format: a layer is blocks on the device that those below make.
func (f *Format) Stacked() bool { return true }

// Is implements accel.Format. How a layer is compressed does not show, and does not matter to who reads it.
func (f *Format) Is(d oci.Descriptor) bool { return d.Annotations[AnnotationDigest] != "" }

// Finish implements accel.Format.
func (f *Format) Finish(m *oci.Manifest) { m.ArtifactType = ArtifactType }

// Has says whether an image is in this format: every layer is, and there are some.
func Has(m *oci.Manifest) bool {
	for _, l := range m.Layers {
		if l.Annotations[AnnotationDigest] == "" {
			return false
		}
	}
	return len(m.Layers) > 0
}

func tooDeep(n int) error {
	return fmt.Errorf("%d layers are more than a device can have: %w", n, errs.Limit)
}
