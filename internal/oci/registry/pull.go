package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// HasBlob asks whether the reference's repository has a blob, at the registry itself and not at a mirror.
func (c *Client) HasBlob(ctx context.Context, r ref.Ref, d oci.Digest) (bool, error) {
	ok, err := c.headBlob(ctx, c.origin(r), d, false)
	if err != nil {
		return false, fmt.Errorf("look up %s in %s: %w", d, r.Name(), c.loginHint(err, r.Registry()))
	}
	return ok, nil
}

func (c *Client) headBlob(ctx context.Context, e endpoint, d oci.Digest, push bool) (bool, error) {
	resp, err := c.do(ctx, e, call{
		method: http.MethodHead,
		path:   e.path("blobs", d.String()),
		scope:  scope{repository: e.repository, push: push},
	}, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	discardBody(resp)
	return resp.StatusCode == http.StatusOK, nil
}

// Blob reads the blob that desc describes from the reference's repository. The reader goes on where it was when a
// connection breaks, and returns io.EOF only after exactly desc.Size bytes with desc.Digest; anything else is an
// errs.Corrupt. What was read before EOF is a stranger's word. Closing early is fine.
func (c *Client) Blob(ctx context.Context, r ref.Ref, desc oci.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("read blob of %s: %w", r.Name(), errs.Mark(err, errs.Invalid))
	}
	if int64(len(desc.Data)) == desc.Size && desc.Digest == desc.Digest.Algorithm().FromBytes(desc.Data) {
		return io.NopCloser(bytes.NewReader(desc.Data)), nil
	}
	b := &blobReader{
		ctx: ctx, client: c, name: r.Name(), registry: r.Registry(), desc: desc,
		endpoints: c.readers(r), verifier: desc.Digest.Verifier(),
	}
	if err := b.open(); err != nil {
		return nil, b.fail(err)
	}
	return b, nil
}

// blobReader reads a blob over as many connections as it takes. A context is part of it because io.Reader has none.
type blobReader struct {
	ctx       context.Context
	client    *Client
	name      string
	registry  string
	desc      oci.Descriptor
	endpoints []endpoint
	verifier  digest.Verifier

	body     io.ReadCloser
	offset   int64 // bytes handed out
	mark     int64 // offset when the last failure was counted
	failures int
	err      error // what every Read returns from now on
}

// progress is how much must arrive for earlier failures to be forgotten.
const progress = 64 << 10

func (b *blobReader) fail(err error) error {
	b.err = fmt.Errorf("read %s of %s: %w", b.desc.Digest, b.name, b.client.loginHint(err, b.registry))
	return b.err
}

// open asks for the rest of the blob, at the first of the places that has it.
func (b *blobReader) open() error {
	return b.client.read(b.ctx, b.endpoints, func(e endpoint) error {
		body, err := b.client.openBlob(b.ctx, e, b.desc, b.offset)
		if err == nil {
			b.body = body
		}
		return err
	})
}

func (c *Client) openBlob(ctx context.Context, e endpoint, desc oci.Descriptor, offset int64) (io.ReadCloser, error) {
	q := call{method: http.MethodGet, path: e.path("blobs", desc.Digest.String()), scope: scope{repository: e.repository}}
	if offset > 0 {
		q.header = map[string]string{"Range": "bytes=" + strconv.FormatInt(offset, 10) + "-"}
	}
	resp, err := c.once(ctx, e, q, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, err
	}
	if err := position(resp, desc, offset); err != nil {
		return nil, errors.Join(networkOrLie(ctx, err), resp.Body.Close())
	}
	return resp.Body, nil
}

func networkOrLie(ctx context.Context, err error) error {
	if errors.Is(err, errs.Corrupt) {
		return err
	}
	return networkError(ctx, err)
}

// position moves an answer's body to offset: the server has done it, or it ignores Range and sends all from the start.
func position(resp *http.Response, desc oci.Descriptor, offset int64) error {
	if resp.StatusCode == http.StatusOK {
		if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
			return lie("blob has %d bytes, not %d", resp.ContentLength, desc.Size)
		}
		_, err := io.CopyN(io.Discard, resp.Body, offset)
		return err
	}
	start, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
	if start != strconv.FormatInt(offset, 10) {
		return lie("asked for bytes from %d on, it answers with %q", offset, clean(resp.Header.Get("Content-Range"), nil))
	}
	if resp.ContentLength >= 0 && resp.ContentLength > desc.Size-offset {
		return lie("blob has %d bytes, not %d", offset+resp.ContentLength, desc.Size)
	}
	return nil
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := b.read(p)
		b.offset += int64(n)
		if b.offset > b.desc.Size {
			return 0, b.fail(lie("blob is longer than %d bytes", b.desc.Size))
		}
		// A hash cannot fail to be written to.
		_, _ = b.verifier.Write(p[:n])
		switch {
		case n > 0:
			// An error comes up again with the next read, and is dealt with then.
			return n, nil
		case err != nil && b.offset == b.desc.Size:
			// All has arrived. How the connection ended says nothing that the digest does not.
			return 0, b.finish()
		case err != nil:
			if err := b.resume(err); err != nil {
				return 0, b.fail(err)
			}
		}
	}
}

func (b *blobReader) read(p []byte) (int, error) {
	if b.body == nil {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.body.Read(p)
	if n > 0 && err != nil && !errors.Is(err, io.EOF) {
		// Not every body repeats its error.
		b.closeBody()
	}
	return n, err
}

func (b *blobReader) finish() error {
	if !b.verifier.Verified() {
		return b.fail(lie("blob does not have its digest"))
	}
	b.err = io.EOF
	return io.EOF
}

// resume opens the rest of the blob after its connection broke with cause.
func (b *blobReader) resume(cause error) error {
	b.closeBody()
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if errors.Is(cause, io.EOF) {
		cause = fmt.Errorf("ended after %d of %d bytes: %w", b.offset, b.desc.Size, io.ErrUnexpectedEOF)
	}
	if b.offset-b.mark >= progress {
		b.failures = 0
	}
	b.mark = b.offset
	b.failures++
	cause = errs.Mark(cause, errs.Unavailable)
	if b.failures >= b.client.opts.Retry.Tries {
		return cause
	}
	b.client.log.Debug("blob broke off", slog.String("digest", b.desc.Digest.String()), slog.Int64("offset", b.offset))
	if err := b.client.pause(b.ctx, b.failures, cause); err != nil {
		return err
	}
	return b.open()
}

func (b *blobReader) closeBody() {
	if b.body != nil {
		// What there was to read has been read; the connection is given up.
		_ = b.body.Close()
		b.body = nil
	}
}

// Close implements io.Closer.
func (b *blobReader) Close() error {
	b.closeBody()
	if b.err == nil {
		b.err = fmt.Errorf("read %s of %s: %w", b.desc.Digest, b.name, errClosed)
	}
	return nil
}

var errClosed = errors.New("blob reader is closed")
