package solver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/layer"
)

// write writes a layer as the request wants it.
func (b *builder) write(ctx context.Context, w io.Writer, files iter.Seq2[layer.File, error], epoch *time.Time) (oci.Descriptor, oci.Digest, error) {
	if b.req.Format != nil {
		return accelerated(ctx, b.req.Format, w, files, epoch)
	}
	res, err := layer.Write(ctx, w, files, layer.Options{Compression: b.req.Compression, Epoch: epoch})
	return res.Descriptor, res.DiffID, err
}

// pipeBuffer is how much of a tar is read ahead of a conversion: headers come in small pieces.
const pipeBuffer = 256 << 10

// accelerated writes a layer in an accelerated format. Its tar goes from the one that lays it out to the one that
// converts it, and is nowhere as a whole.
func accelerated(ctx context.Context, f accel.Format, w io.Writer, files iter.Seq2[layer.File, error], epoch *time.Time) (oci.Descriptor, oci.Digest, error) {
	r, pipe := io.Pipe()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	ended := func(err error) error {
		if err != nil {
			fail(err) // before the other end of the pipe can fail of it
		}
		return err
	}
	var group errgroup.Group
	group.Go(func() error {
		_, err := layer.Write(ctx, unsummed{pipe}, files, layer.Options{Compression: layer.Compression{Algorithm: "none"}, Epoch: epoch})
		return errors.Join(ended(err), pipe.CloseWithError(err))
	})
	var made accel.Layer
	group.Go(func() (err error) {
		tar := func(context.Context) (io.ReadCloser, error) { return buffered{bufio.NewReaderSize(r, pipeBuffer)}, nil }
		if made, err = f.Convert(ctx, w, accel.Stack{Tars: []accel.Tar{tar}}); err == nil {
			_, err = io.Copy(io.Discard, r) // the end of the tar, which is no file
		}
		return errors.Join(ended(err), r.CloseWithError(err))
	})
	if err := group.Wait(); err != nil {
		return oci.Descriptor{}, "", cmp.Or(context.Cause(ctx), err)
	}
	return made.Descriptor, made.DiffID, nil
}

// unsummed is a writer to which nobody needs the digest of what was written (blob.Summer).
type unsummed struct{ io.Writer }

func (unsummed) Sum() oci.Digest { return "" }

// buffered reads a pipe, which who made it closes.
type buffered struct{ *bufio.Reader }

// Close implements io.Closer.
func (b buffered) Close() error { return nil }

// formatKey is what the format of layers adds to the keys of operations.
func formatKey(f accel.Format) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%s %s", f.Name(), f.Settings())
}
