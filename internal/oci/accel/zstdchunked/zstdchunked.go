// Package zstdchunked writes zstd:chunked: zstd layers in which each file, and each piece of a long one, is a frame of
// its own, with a table of contents at the end. A client that knows the format fetches only the pieces that it has in no
// other layer; to everybody else it is an ordinary zstd layer.
//
//	f, err := zstdchunked.New(zstdchunked.Options{})
//	layer, err := f.Convert(ctx, dst, accel.Stack{Tars: []accel.Tar{tar}})
//
// This is the dialect of podman, buildah and CRI-O (go.podman.io/storage, pkg/chunked). The stargz snapshotter speaks
// another one, and takes such a layer for an ordinary one. Behind the frames of the tar come three that decoders skip:
// the table, the tar-split data that the tar is put together from again, and a footer that says where they are; the
// client takes that from annotations. The tar itself is not changed, and so the layer's diffID is not either.
package zstdchunked

import (
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
)

// Annotations of a layer's descriptor. Never may a layer have them beside the table of another format: clients refuse
// an image that does.
const (
	annotationTable    = "io.github.containers.zstd-chunked.manifest-checksum"
	annotationPosition = "io.github.containers.zstd-chunked.manifest-position"
	annotationTarSplit = "io.github.containers.zstd-chunked.tarsplit-position"
	// What clients of 2022, those of Debian 12, look for instead.
	annotationOldTable    = "io.containers.zstd-chunked.manifest-checksum"
	annotationOldPosition = "io.containers.zstd-chunked.manifest-position"
)

// version is part of the settings: it changes when the same input gives other bytes.
const version = 1

const (
	// DefaultLevel is what plain zstd layers have.
	DefaultLevel = 3
	maxLevel     = 22
)

// Options say how layers are written.
type Options struct {
	// Level is the effort of zstd, 1 to 22. Default: DefaultLevel.
	Level int
}

// Format is zstd:chunked with some options.
type Format struct{ level int }

var _ accel.Format = (*Format)(nil)

// New returns the format. A level that does not exist is an error of kind errs.Invalid.
func New(opts Options) (*Format, error) {
	if opts.Level == 0 {
		opts.Level = DefaultLevel
	}
	if opts.Level < 1 || opts.Level > maxLevel {
		return nil, fmt.Errorf("zstdchunked: level %d is not between 1 and %d: %w", opts.Level, maxLevel, errs.Invalid)
	}
	return &Format{opts.Level}, nil
}

// Name implements accel.Format.
func (f *Format) Name() string { return "zstdchunked" }

// Settings implements accel.Format.
func (f *Format) Settings() string { return fmt.Sprintf("version=%d level=%d", version, f.level) }

// Stacked implements accel.Format: each layer stands for itself.
func (f *Format) Stacked() bool { return false }

// Is implements accel.Format.
func (f *Format) Is(d oci.Descriptor) bool { return d.Annotations[annotationTable] != "" }

// Finish implements accel.Format: layers and their annotations say everything.
func (f *Format) Finish(*oci.Manifest) {}
