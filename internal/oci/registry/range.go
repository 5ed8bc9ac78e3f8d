package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// ReadBlobAt fills p with a part of the blob that desc describes, from off on, in one request. There is no digest of a
// part: what comes is a stranger's word, for the caller to verify in a way of the blob's format. A registry that sends
// whole blobs only is an error of kind errs.Unavailable.
func (c *Client) ReadBlobAt(ctx context.Context, r ref.Ref, desc oci.Descriptor, p []byte, off int64) error {
	if err := c.readBlobAt(ctx, r, desc, p, off); err != nil {
		return fmt.Errorf("read %d bytes at %d of %s of %s: %w", len(p), off, desc.Digest, r.Name(), c.loginHint(err, r.Registry()))
	}
	return nil
}

func (c *Client) readBlobAt(ctx context.Context, r ref.Ref, desc oci.Descriptor, p []byte, off int64) error {
	if err := desc.Digest.Validate(); err != nil {
		return errs.Mark(err, errs.Invalid)
	}
	if len(p) == 0 || off < 0 || int64(len(p)) > desc.Size-off {
		return fmt.Errorf("blob has %d bytes: %w", desc.Size, errs.Invalid)
	}
	return c.read(ctx, c.readers(r), func(e endpoint) error { return c.readRange(ctx, e, desc, p, off) })
}

func (c *Client) readRange(ctx context.Context, e endpoint, desc oci.Descriptor, p []byte, off int64) error {
	want := strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(p))-1, 10)
	resp, err := c.once(ctx, e, call{
		method: http.MethodGet, path: e.path("blobs", desc.Digest.String()), scope: scope{repository: e.repository},
		header: map[string]string{"Range": "bytes=" + want},
	}, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // only read from; after all of p nothing is left in it
	switch got := resp.Header.Get("Content-Range"); {
	case resp.StatusCode == http.StatusOK && int64(len(p)) == desc.Size: // all of it is a part, too
	case resp.StatusCode == http.StatusOK:
		err := final{fmt.Errorf("the registry sends whole blobs only: %w", errs.Unavailable)}
		return errs.Hint(err, "lazy loading needs a registry that answers requests for ranges")
	case got != "bytes "+want+"/"+strconv.FormatInt(desc.Size, 10) && got != "bytes "+want+"/*":
		return lie("asked for bytes %s, it answers with %q", want, clean(got, nil))
	}
	if _, err := io.ReadFull(resp.Body, p); err != nil {
		return networkError(ctx, err)
	}
	return nil
}
