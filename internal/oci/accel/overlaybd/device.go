package overlaybd

import (
	"fmt"
	"io"

	"slipway/internal/oci/accel/overlaybd/lsmt"
	"slipway/internal/oci/accel/overlaybd/zfile"
)

// Source is where a blob is.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Device returns the block device that the blobs of an image make, the lowest first. It reads their headers and indexes,
// and everything else when it is read. What is wrong with them is an error of kind errs.Corrupt. It verifies checksums,
// which tell damage; only a digest tells a forgery, and that is one over a whole blob.
func Device(blobs ...Source) (*lsmt.Device, error) {
	layers := make([]*lsmt.Layer, len(blobs))
	for i, b := range blobs {
		var err error
		if layers[i], err = layer(b); err != nil {
			return nil, fmt.Errorf("overlaybd layer %d: %w", i+1, err)
		}
	}
	return lsmt.Stack(layers...)
}

func layer(blob Source) (*lsmt.Layer, error) {
	file, err := unwrap(blob, blob.Size())
	if err != nil {
		return nil, err
	}
	z, err := zfile.NewReader(file, file.Size())
	if err != nil {
		return nil, err
	}
	return lsmt.Open(z, z.Size())
}
