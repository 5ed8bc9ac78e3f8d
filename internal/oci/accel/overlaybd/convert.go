package overlaybd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/overlaybd/ext4"
	"slipway/internal/oci/accel/overlaybd/lsmt"
	"slipway/internal/oci/accel/overlaybd/zfile"
)

// Convert implements accel.Format. Of the layers below it reads metadata, out of their conversions, and the content of
// files that the layer has again; their tars are not opened. The blob is kept in a temporary file until it is complete.
func (f *Format) Convert(ctx context.Context, dst io.Writer, in accel.Stack) (accel.Layer, error) {
	l, err := f.convert(ctx, dst, in)
	if err != nil {
		return accel.Layer{}, fmt.Errorf("write overlaybd: %w", err)
	}
	return l, nil
}

func (f *Format) convert(ctx context.Context, dst io.Writer, in accel.Stack) (_ accel.Layer, err error) {
	if len(in.Tars) > lsmt.MaxLayers {
		return accel.Layer{}, tooDeep(len(in.Tars))
	}
	tmp, err := os.CreateTemp(f.dir, "overlaybd-*")
	if err != nil {
		return accel.Layer{}, err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }()
	if err := os.Remove(tmp.Name()); err != nil { // it has no name, and is gone whatever happens
		return accel.Layer{}, err
	}
	size, err := f.blob(ctx, tmp, in)
	if err != nil {
		return accel.Layer{}, err
	}
	sum, length, err := wrap(ctx, dst, tmp, size)
	if err != nil {
		return accel.Layer{}, err
	}
	return accel.Layer{
		Descriptor: oci.Descriptor{
			MediaType: oci.MediaTypeLayer, Digest: sum, Size: length,
			Annotations: map[string]string{
				AnnotationDigest: sum.String(), AnnotationSize: strconv.FormatInt(length, 10), AnnotationVersion: formatVersion,
				AnnotationFS: "ext4",
			},
		},
		DiffID: sum, // the blob is the tar
	}, nil
}

// blob writes the file in the blob to tmp, behind the room for the tar's headers, and returns its size.
func (f *Format) blob(ctx context.Context, tmp *os.File, in accel.Stack) (_ int64, err error) {
	fs, done, err := below(ctx, in.Below)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	z, err := zfile.NewWriter(io.NewOffsetWriter(tmp, bodyOffset), f.compression)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	opts := lsmt.Options{Size: ext4.MaxSize, UUID: name(in.Below)}
	if n := len(in.Below); n > 0 {
		opts.Parent = name(in.Below[:n-1])
	}
	dev, err := lsmt.NewWriter(z, opts)
	if err != nil {
		return 0, err
	}
	if err := apply(ctx, fs, in.Top(), dev); err != nil {
		return 0, err
	}
	if err := fs.Flush(dev); err != nil {
		return 0, err
	}
	if err := dev.Finish(); err != nil {
		return 0, err
	}
	return z.Finish()
}

// apply applies the layer to the file system.
func apply(ctx context.Context, fs *ext4.FS, t accel.Tar, dev io.WriterAt) (err error) {
	r, err := t(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return fs.Apply(ctx, r, dev)
}

// below opens the file system that the layers below make. done closes their blobs.
func below(ctx context.Context, layers []accel.Converted) (_ *ext4.FS, done func() error, err error) {
	var open []accel.Blob
	done = func() (err error) {
		for _, b := range open {
			err = errors.Join(err, b.Close())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, done())
		}
	}()
	if len(layers) == 0 {
		return ext4.New(name(nil)), done, nil
	}
	blobs := make([]Source, len(layers))
	for i, l := range layers {
		b, err := l.Open(ctx)
		if err != nil {
			return nil, done, fmt.Errorf("layer below %s: %w", l.Descriptor.Digest, err)
		}
		open = append(open, b)
		blobs[i] = b
	}
	dev, err := Device(blobs...)
	if err != nil {
		return nil, done, err
	}
	fs, err := ext4.Open(dev)
	return fs, done, err
}

// name returns a UUID for the layer on others. It is written before anything is known of the layer itself, so that it
// can only tell the place: which is what those above name as their parent's.
func name(below []accel.Converted) lsmt.UUID {
	h := sha256.New()
	h.Write([]byte("slipway overlaybd"))
	for _, l := range below {
		h.Write([]byte(" " + l.Descriptor.Digest.String()))
	}
	u := lsmt.UUID(h.Sum(nil))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8: anybody's own (RFC 9562)
	return u
}

// summer is blob.Summer.
type summer interface{ Sum() oci.Digest }

// wrap writes a tar of the file in tmp to dst, and returns its digest and length.
func wrap(ctx context.Context, dst io.Writer, tmp *os.File, size int64) (oci.Digest, int64, error) {
	head, tail := wrapping(size)
	if _, err := tmp.WriteAt(head, 0); err != nil {
		return "", 0, err
	}
	if _, err := tmp.WriteAt(tail, bodyOffset+size); err != nil {
		return "", 0, err
	}
	var h hash.Hash
	s, sums := dst.(summer)
	if !sums {
		h = sha256.New()
	}
	length := bodyOffset + size + int64(len(tail))
	buf := make([]byte, 1<<20)
	for off := int64(0); off < length; {
		if ctx.Err() != nil {
			return "", 0, context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), length-off)]
		if _, err := tmp.ReadAt(b, off); err != nil {
			return "", 0, err
		}
		if h != nil {
			h.Write(b)
		}
		if _, err := dst.Write(b); err != nil {
			return "", 0, err
		}
		off += int64(len(b))
	}
	if sums {
		return s.Sum(), length, nil
	}
	return digest.NewDigest(digest.SHA256, h), length, nil
}
