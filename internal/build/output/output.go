// Package output writes what a build made where registries are not.
//
// An image goes into an OCI image layout: a folder (layout), a tar of one (oci), or a tar that `docker load` reads too
// (docker). Its files alone, the merged tree of all layers, go into a folder (local) or a plain tar (tar).
//
// Everything is streamed. A file gets its name when it is whole, so that whoever looks sees the old one or the new one;
// a layout is valid at every moment: blobs first, the index last.
package output

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
)

// The types of output.
const (
	OCI    = "oci"    // a tar of an OCI image layout
	Docker = "docker" // the same with a manifest.json, for docker load
	Layout = "layout" // an OCI image layout in a folder
	Local  = "local"  // the image's files, in a folder
	Tar    = "tar"    // the image's files, in a tar
)

// Types are the values that Type takes.
func Types() []string { return []string{OCI, Docker, Layout, Local, Tar} }

// Open reads a layer's blob.
type Open func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error)

// Output is one place that a build's result goes to.
type Output struct {
	Type string
	Dest string // a path; "-" is Stdout
	// Stdout takes an output whose Dest is "-".
	Stdout io.Writer
	// Names are the image's references, kept in the index.
	Names []string
}

// HoldsIndex says whether a type of output can hold images for several platforms.
func HoldsIndex(kind string) bool { return kind == OCI || kind == Layout }

// HoldsFiles says whether a type of output takes an image's files (WriteFiles) rather than the image (Write).
func HoldsFiles(kind string) bool { return kind == Local || kind == Tar }

// Write writes an image.
func (o Output) Write(ctx context.Context, im *build.Image, open Open) error {
	var err error
	if o.Type == Docker { // docker load knows of images alone
		bare := *im
		bare.Attached, im = nil, &bare
	}
	if o.Type == Layout {
		err = o.writeLayout(ctx, im, open)
	} else {
		err = o.file(func(w io.Writer) error { return o.writeArchive(ctx, w, im, open) })
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", o.Dest, err)
	}
	return nil
}

// WriteFiles writes the files of an image, each folder before what is in it. No file is younger than epoch, unless that
// is nil.
func (o Output) WriteFiles(ctx context.Context, files iter.Seq2[layer.File, error], epoch *time.Time) error {
	var err error
	if o.Type == Local {
		err = writeFolder(ctx, o.Dest, files, epoch)
	} else {
		err = o.file(func(w io.Writer) error {
			_, err := layer.Write(ctx, w, files, layer.Options{Compression: layer.Compression{Algorithm: "none"}, Epoch: epoch})
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", o.Dest, err)
	}
	return nil
}

// file writes an output that is one stream of bytes.
func (o Output) file(write func(io.Writer) error) error {
	if o.Dest == "-" {
		return write(o.Stdout)
	}
	return replaceFile(o.Dest, write)
}
