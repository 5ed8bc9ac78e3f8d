package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// Source is a blob to push. It may still be growing: then Known is false, and Descriptor returns once it is complete.
type Source struct {
	// Descriptor returns the blob's digest and size, and blocks until they are known.
	Descriptor func(ctx context.Context) (oci.Descriptor, error)
	// Known says whether Descriptor returns at once. Default: it does.
	Known func() bool
	// Open reads the blob from an offset to its end, and blocks for more while the blob grows; then Close must end a
	// Read that waits. It is called again after a connection broke, while the reader before may not be closed yet.
	Open func(offset int64) (io.ReadCloser, error)
	// MountFrom are references whose repositories may have the blob; those in the same registry are asked to share it
	// before a byte is sent. Default: none.
	MountFrom []ref.Ref
}

func (s Source) known() bool { return s.Known == nil || s.Known() }

// Pushed says how a blob got to the registry.
type Pushed struct {
	// Descriptor is the blob's.
	Descriptor oci.Descriptor
	// Bytes is what was sent, with what had to be sent again.
	Bytes int64
	// Existed is set when the repository had the blob, or another push of this Client has just brought it there.
	Existed bool
	// Mounted is set when the registry took the blob from another of its repositories.
	Mounted bool
}

type pushKey struct {
	repository string
	digest     oci.Digest
}

// push is a push under way that others of the same blob to the same repository wait for.
type push struct {
	done chan struct{}
	err  error
}

// PushBlob brings a blob to the reference's repository by the cheapest way there is: none when it is there, a mount,
// else an upload, which starts before the blob is complete and goes on where it broke. Pushes of the same known blob to
// the same repository wait for the first of them. At most Options.Uploads blobs are on their way to a host at a time.
func (c *Client) PushBlob(ctx context.Context, r ref.Ref, src Source) (Pushed, error) {
	e := c.origin(r)
	if !src.known() {
		pushed, err := c.upload(ctx, e, src, nil)
		what := "blob"
		if desc := pushed.Descriptor; desc.Digest != "" {
			what = desc.Digest.String()
		}
		return pushed, c.pushError(err, r, what)
	}
	desc, err := src.Descriptor(ctx)
	if err == nil {
		err = desc.Digest.Validate()
	}
	if err != nil {
		return Pushed{}, c.pushError(err, r, "blob")
	}
	pushed, err := c.pushOnce(ctx, pushKey{r.Name(), desc.Digest}, func() (Pushed, error) {
		return c.pushKnown(ctx, e, r, desc, src)
	})
	pushed.Descriptor = desc
	return pushed, c.pushError(err, r, desc.Digest.String())
}

func (c *Client) pushError(err error, r ref.Ref, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("upload %s to %s: %w", what, r.Name(), c.loginHint(err, r.Registry()))
}

// pushOnce runs do, unless the same push is under way; then its success is ours too. Its failure is not: it may have
// been canceled for reasons of its own.
func (c *Client) pushOnce(ctx context.Context, key pushKey, do func() (Pushed, error)) (Pushed, error) {
	for {
		c.mu.Lock()
		p := c.pushes[key]
		if p == nil {
			p = &push{done: make(chan struct{})}
			c.pushes[key] = p
			c.mu.Unlock()
			pushed, err := do()
			p.err = err
			c.mu.Lock()
			delete(c.pushes, key)
			c.mu.Unlock()
			close(p.done)
			return pushed, err
		}
		c.mu.Unlock()
		select {
		case <-p.done:
			if p.err == nil {
				return Pushed{Existed: true}, nil
			}
		case <-ctx.Done():
			return Pushed{}, context.Cause(ctx)
		}
	}
}

func (c *Client) pushKnown(ctx context.Context, e endpoint, r ref.Ref, desc oci.Descriptor, src Source) (Pushed, error) {
	ok, err := c.headBlob(ctx, e, desc.Digest, true)
	if err != nil || ok {
		return Pushed{Existed: ok}, err
	}
	session, err := c.mount(ctx, e, r, desc.Digest, src.MountFrom)
	if err != nil {
		return Pushed{}, err
	}
	if session == mounted {
		return Pushed{Mounted: true}, nil
	}
	return c.upload(ctx, e, src, session)
}

// mounted stands for the session that a successful mount does not open.
var mounted = &url.URL{}

// mount asks the registry to share the blob with each candidate's repository in turn. A registry that does not opens an
// upload session in its place, which is returned; nil when there is none. No refusal is an error: the upload will tell.
func (c *Client) mount(ctx context.Context, e endpoint, r ref.Ref, d oci.Digest, from []ref.Ref) (*url.URL, error) {
	var session *url.URL
	tried := make(map[string]bool)
	for _, candidate := range from {
		repository := candidate.Repository()
		if candidate.Registry() != r.Registry() || repository == r.Repository() || tried[repository] {
			continue
		}
		tried[repository] = true
		c.cancelUpload(ctx, e, session)
		session = nil
		resp, err := c.once(ctx, e, call{
			method: http.MethodPost,
			path:   e.path("blobs", "uploads/"),
			query:  url.Values{"mount": {d.String()}, "from": {repository}},
			scope:  scope{repository: e.repository, push: true, mountFrom: repository},
		}, http.StatusCreated, http.StatusAccepted)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			continue
		}
		discardBody(resp)
		if resp.StatusCode == http.StatusCreated {
			return mounted, nil
		}
		if session, err = location(resp); err != nil {
			return nil, err
		}
	}
	return session, nil
}

// cleanupTime bounds a request that is made only to be tidy.
const cleanupTime = 2 * time.Second

// cancelUpload tells the registry to forget an upload, also when ctx is done. A registry that cannot, or that does not
// answer, purges it in time.
func (c *Client) cancelUpload(ctx context.Context, e endpoint, session *url.URL) {
	if session == nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), cleanupTime, errs.Unavailable)
	defer cancel()
	resp, err := c.send(ctx, e, call{
		method:   http.MethodDelete,
		location: session,
		scope:    scope{repository: e.repository, push: true},
	})
	if err == nil {
		discardBody(resp)
	}
}

// CanPush asks the registry whether the reference's repository may be pushed to, by opening an upload and dropping it.
// The error is an errs.Denied when it may not.
func (c *Client) CanPush(ctx context.Context, r ref.Ref) error {
	e := c.origin(r)
	var session *url.URL
	err := c.retry(ctx, c.tries(e), func() (err error) {
		session, _, err = c.startUpload(ctx, e)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask to push to %s: %w", r.Name(), c.loginHint(err, r.Registry()))
	}
	c.cancelUpload(ctx, e, session)
	return nil
}

// location reads where an upload goes on. A registry behind a proxy that ends TLS may not know that it is reached over
// https; nothing is sent in the clear for that.
func location(resp *http.Response) (*url.URL, error) {
	header := resp.Header.Get("Location")
	if header == "" {
		return nil, errors.New("registry does not say where to upload to")
	}
	u, err := resp.Request.URL.Parse(header)
	if err != nil {
		return nil, errors.New("registry says to upload to what is not a URL")
	}
	from := resp.Request.URL
	if from.Scheme == "https" && u.Scheme == "http" && u.Host == from.Host {
		u.Scheme = "https"
	}
	if u.Scheme != from.Scheme && u.Scheme != "https" || u.Host == "" {
		return nil, errs.Mark(fmt.Errorf("registry sends the upload to %s over %s", u.Host, clean(u.Scheme, nil)), errs.Denied)
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}
