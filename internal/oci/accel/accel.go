// Package accel states images so that a runtime can start them before it has all of their bytes, or fetches only those
// that it lacks. Such images are called accelerated.
//
// A [Format] converts one layer at a time: plain tars in, a blob out. Formats are in rooms of their own (estargz,
// zstdchunked, overlaybd), and package acceltest is the suite that each of them passes. A [Cache] remembers
// conversions, so that an image which shares layers with one before costs only the others.
//
// Package accel knows no registry and mounts nothing.
package accel

import (
	"context"
	"errors"
	"io"

	"slipway/internal/oci"
)

// ErrUnfit marks the error of a layer that is in order and that the format cannot state: in an image it stays as it is.
var ErrUnfit = errors.New("layer does not fit the format")

// Format is one way to state layers. Its methods may be called by several goroutines at once.
type Format interface {
	// Name is the word for the format on the command line.
	Name() string
	// Settings name everything but the input that the bytes of a conversion depend on: level, sizes, and a version that
	// changes with the code. Equal settings give equal bytes for equal input, on every machine and in every process.
	Settings() string
	// Stacked says that a layer's conversion depends on the layers below it, in its bytes or in what they mean.
	Stacked() bool
	// Convert writes the topmost layer of a stack to dst in this format. Memory is bounded, whatever the size of the
	// layer. What is wrong with the tar is an error of kind errs.Corrupt that names the entry; so is a tar that ends
	// before it is over. dst is written by one goroutine at a time; if it is a blob.Summer it is new, and its bytes
	// need not be hashed again. When Convert returns, nothing it started is running, and every tar is closed.
	Convert(ctx context.Context, dst io.Writer, in Stack) (Layer, error)
	// Is says whether a layer is in this format with these settings already, as far as its descriptor tells; then it
	// stays as it is.
	Is(d oci.Descriptor) bool
	// Finish changes the manifest of an image whose layers are converted, where the format asks for more than that.
	Finish(m *oci.Manifest)
}

// Rereader is what a Format is that opens tars more than once, so that they should be on this machine as a whole.
type Rereader interface {
	// Rereads says whether it does with its settings.
	Rereads() bool
}

// Stack is a layer and what is below it.
type Stack struct {
	// Tars are the layers as plain tars, the lowest first. The last is the one to convert, and the only one for formats
	// that are not stacked.
	Tars []Tar
	// Below are the conversions of all but the last of Tars. Formats that are not stacked get none.
	Below []Converted
}

// Top is the layer to convert.
func (s Stack) Top() Tar { return s.Tars[len(s.Tars)-1] }

// Tar opens the plain tar of a layer from its beginning. It may be called any number of times.
type Tar func(ctx context.Context) (io.ReadCloser, error)

// Layer is what came of converting a layer.
type Layer struct {
	// Descriptor of the blob, with the media type and annotations that it has in a manifest.
	Descriptor oci.Descriptor `json:"descriptor"`
	// DiffID stands for the layer in the image's config.
	DiffID oci.Digest `json:"diffID"`
}

// Converted is a converted layer whose blob can be read.
type Converted struct {
	Layer
	// Open reads the blob. The caller closes it.
	Open func(ctx context.Context) (Blob, error)
}

// Blob is the content of a converted layer.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
