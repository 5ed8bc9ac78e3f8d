// Package estargz writes and reads eStargz: gzip layers that begin a gzip member with the content of each file, and end
// with a table of contents. A snapshotter that knows the format mounts such a layer after reading the table and fetches
// content when it is read; to everybody else it is an ordinary gzip layer, with two small files more in its root.
//
//	f, err := estargz.New(estargz.Options{Level: 6})
//	layer, err := f.Convert(ctx, dst, accel.Stack{Tars: []accel.Tar{tar}})
//
// The format is that of stargz-snapshotter's docs/estargz.md. The tar's headers stay as they are, byte by byte; in front
// of them comes a landmark, which says up to where a snapshotter should fetch at once, and after them the table.
package estargz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
)

// Names of files that the format adds to a layer. A layer that has them already loses its own.
const (
	tocName          = "stargz.index.json"
	prefetchLandmark = ".prefetch.landmark"
	noPrefetch       = ".no.prefetch.landmark"
)

// Annotations of a layer's descriptor.
const (
	// AnnotationTOC is the digest of the table, which the whole layer is verified by.
	AnnotationTOC = "containerd.io/snapshot/stargz/toc.digest"
	// AnnotationSize is the length of the plain tar.
	AnnotationSize = "io.containers.estargz.uncompressed-size"
)

// version is part of the settings: it changes when the same input gives other bytes.
const version = 1

// DefaultLevel is what conversions are worth that are kept and fetched many times.
const DefaultLevel = 6

// Options say how layers are written.
type Options struct {
	// Level is the effort of gzip, 1 to 9. Default: DefaultLevel.
	Level int
	// First are paths of files that a container reads when it starts. They come first in their layers, and snapshotters
	// fetch them at once. Default: none, and snapshotters fetch nothing before it is read.
	First []string
}

// Format is eStargz with some options.
type Format struct {
	level int
	first map[string]bool
	list  []string // sorted, for Settings
}

var (
	_ accel.Format   = (*Format)(nil)
	_ accel.Rereader = (*Format)(nil)
)

// New returns the format. A level that does not exist is an error of kind errs.Invalid.
func New(opts Options) (*Format, error) {
	if opts.Level == 0 {
		opts.Level = DefaultLevel
	}
	if opts.Level < flate.BestSpeed || opts.Level > flate.BestCompression {
		return nil, fmt.Errorf("estargz: level %d is not between 1 and 9: %w", opts.Level, errs.Invalid)
	}
	f := &Format{level: opts.Level, first: map[string]bool{}}
	for _, p := range opts.First {
		if p = clean(p); p != "" && !f.first[p] {
			f.first[p] = true
			f.list = append(f.list, p)
		}
	}
	slices.Sort(f.list)
	return f, nil
}

// Name implements accel.Format.
func (f *Format) Name() string { return "estargz" }

// Settings implements accel.Format.
func (f *Format) Settings() string {
	s := fmt.Sprintf("version=%d level=%d", version, f.level)
	if len(f.list) > 0 {
		s += fmt.Sprintf(" first=%q", strings.Join(f.list, "\x00"))
	}
	return s
}

// Stacked implements accel.Format: each layer stands for itself.
func (f *Format) Stacked() bool { return false }

// Finish implements accel.Format: layers and their annotations say everything.
func (f *Format) Finish(*oci.Manifest) {}

// Is implements accel.Format. Which level a layer has does not matter; which files come first does.
func (f *Format) Is(d oci.Descriptor) bool {
	return d.Annotations[AnnotationTOC] != "" && len(f.list) == 0
}

// Rereads implements accel.Rereader.
func (f *Format) Rereads() bool { return len(f.list) > 0 }
