package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// upload is one blob on its way into a repository. A session is the registry's side of it; when one is lost another is
// opened.
type upload struct {
	client *Client
	e      endpoint
	src    Source
	scope  scope

	desc     oci.Descriptor // of a complete blob; the zero Descriptor before
	session  *url.URL
	minChunk int64
	offset   int64 // how far the registry has it
	sent     atomic.Int64
}

// upload sends a blob, over the session when there is one.
func (c *Client) upload(ctx context.Context, e endpoint, src Source, session *url.URL) (Pushed, error) {
	select {
	case e.uploads <- struct{}{}:
		defer func() { <-e.uploads }()
	case <-ctx.Done():
		c.cancelUpload(ctx, e, session)
		return Pushed{}, context.Cause(ctx)
	}
	u := &upload{client: c, e: e, src: src, scope: scope{repository: e.repository, push: true}, session: session}
	err := u.run(ctx)
	if err != nil {
		c.cancelUpload(ctx, e, u.session)
		if src.known() { // meanwhile: an error that names the blob tells more
			u.desc, _ = src.Descriptor(ctx) // there is an error to report already
		}
	}
	return Pushed{Descriptor: u.desc, Bytes: u.sent.Load()}, err
}

// run tries until the blob is there. A try that got further than the one before does not count.
func (u *upload) run(ctx context.Context) error {
	if u.src.known() {
		var err error
		if u.desc, err = u.src.Descriptor(ctx); err != nil {
			return sourceError{err}
		}
	}
	failures, reached := 0, int64(0)
	for {
		err := u.try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if u.offset-reached >= progress {
			failures, reached = 0, u.offset
		}
		failures++
		if !u.recoverable(err) || failures >= u.client.opts.Retry.Tries {
			return err
		}
		u.client.log.Debug("upload broke off", slog.String("repository", u.e.repository), slog.Int64("offset", u.offset))
		if err := u.client.pause(ctx, failures, err); err != nil {
			return err
		}
		if done, err := u.recover(ctx, err); done || err != nil {
			return err
		}
	}
}

// recoverable also takes errors that end a session but not the upload: the registry has forgotten it (404), or has
// another idea of how far it got (416).
func (u *upload) recoverable(err error) bool {
	if _, ok := errors.AsType[sourceError](err); ok {
		return false
	}
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		return u.session != nil
	}
	return retryable(err)
}

// recover finds out where to go on after cause. The blob may even be there: the answer to the last request can be what
// was lost.
func (u *upload) recover(ctx context.Context, cause error) (done bool, err error) {
	if u.session != nil && statusOf(cause) != http.StatusNotFound && u.askOffset(ctx) == nil {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if statusOf(cause) != http.StatusNotFound {
		u.client.cancelUpload(ctx, u.e, u.session)
	}
	u.session, u.offset = nil, 0
	if u.desc.Digest == "" {
		return false, nil
	}
	return u.client.headBlob(ctx, u.e, u.desc.Digest, true)
}

// try moves the blob from where it is to its end, once.
func (u *upload) try(ctx context.Context) error {
	if u.session == nil {
		session, minChunk, err := u.client.startUpload(ctx, u.e)
		if err != nil {
			return err
		}
		u.session, u.minChunk, u.offset = session, minChunk, 0
	}
	switch {
	case u.chunkBytes() > 0:
		return u.sendChunks(ctx, max(u.chunkBytes(), min(u.minChunk, maxMinChunk)))
	case u.desc.Digest != "":
		err := u.finish(ctx, u.open(u.offset), u.desc.Size-u.offset)
		return u.refused(err, http.StatusRequestEntityTooLarge)
	}
	err := u.stream(ctx)
	if err != nil {
		return u.refused(err, http.StatusBadRequest, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
			http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented)
	}
	return u.complete(ctx)
}

// maxMinChunk bounds what a registry can make us hold in memory.
const maxMinChunk = 128 << 20

// chunkBytes returns the size of the chunks to send; 0 for a stream.
func (u *upload) chunkBytes() int64 {
	if size := u.e.chunkBytes(); size > 0 {
		return size
	}
	return u.client.opts.ChunkBytes
}

// refused notices by its status a registry, or a proxy before it, that does not take a blob of unknown length or in one
// request; the next try sends chunks.
func (u *upload) refused(err error, statuses ...int) error {
	if !slices.Contains(statuses, statusOf(err)) {
		return err
	}
	u.e.refuseStreams()
	return errs.Mark(err, errs.Unavailable)
}

// startUpload opens a session (distribution-spec §pushing-a-blob-in-chunks).
func (c *Client) startUpload(ctx context.Context, e endpoint) (session *url.URL, minChunk int64, err error) {
	resp, err := c.once(ctx, e, call{
		method: http.MethodPost,
		path:   e.path("blobs", "uploads/"),
		scope:  scope{repository: e.repository, push: true},
	}, http.StatusAccepted)
	if err != nil {
		return nil, 0, err
	}
	discardBody(resp)
	if session, err = location(resp); err != nil {
		return nil, 0, err
	}
	if minChunk, err = strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err != nil {
		minChunk = 0
	}
	return session, minChunk, nil
}

// open returns the body that starts at offset.
func (u *upload) open(offset int64) func() (*sourceReader, error) {
	return func() (*sourceReader, error) {
		content, err := u.src.Open(offset)
		if err != nil {
			return nil, sourceError{err}
		}
		return &sourceReader{content: content, total: &u.sent}, nil
	}
}

// stream sends what there is and what comes, in one request, and leaves offset at the blob's end.
func (u *upload) stream(ctx context.Context) error {
	start := u.offset
	var body *sourceReader // of the last time the request was sent: a challenge makes it two
	open := u.open(start)
	resp, err := u.client.once(ctx, u.e, call{
		method:   http.MethodPatch,
		location: u.session,
		header:   map[string]string{"Content-Type": "application/octet-stream"},
		length:   -1,
		scope:    u.scope,
		body: func() (_ io.ReadCloser, err error) {
			body, err = open()
			return body, err
		},
	}, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)
	if err != nil {
		return err
	}
	discardBody(resp)
	u.offset = start + body.n.Load()
	return u.follow(resp)
}

// follow takes over an answer's Location, and holds its Range against what was sent.
func (u *upload) follow(resp *http.Response) error {
	session, err := location(resp)
	if err != nil {
		return err
	}
	u.session = session
	if got, ok := rangeEnd(resp.Header.Get("Range")); ok && got != u.offset && u.offset > 0 {
		return errs.Mark(fmt.Errorf("registry has %d of %d bytes", got, u.offset), errs.Unavailable)
	}
	return nil
}

// complete waits for the descriptor of a blob that has been sent to its end, and gives the blob its digest.
func (u *upload) complete(ctx context.Context) error {
	desc, err := u.src.Descriptor(ctx)
	if err != nil {
		return sourceError{err}
	}
	u.desc = desc
	if u.offset != desc.Size {
		return sourceError{errs.Mark(fmt.Errorf("blob has %d bytes, its descriptor says %d", u.offset, desc.Size), errs.Corrupt)}
	}
	return u.finish(ctx, nil, 0)
}

// finish sends the rest of the blob and its digest.
func (u *upload) finish(ctx context.Context, body func() (*sourceReader, error), length int64) error {
	q := call{method: http.MethodPut, location: withDigest(u.session, u.desc.Digest), scope: u.scope}
	if length > 0 {
		q.body, q.length = func() (io.ReadCloser, error) { return body() }, length
		q.header = map[string]string{"Content-Type": "application/octet-stream"}
		if u.offset > 0 {
			q.header["Content-Range"] = contentRange(u.offset, length)
		}
	}
	resp, err := u.client.once(ctx, u.e, q, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		return err
	}
	discardBody(resp)
	said := oci.Digest(resp.Header.Get("Docker-Content-Digest"))
	if said != "" && said.Algorithm() == u.desc.Digest.Algorithm() && said != u.desc.Digest {
		return lie("it has stored blob %s, not %s", clean(said.String(), nil), u.desc.Digest)
	}
	return nil
}

func withDigest(session *url.URL, d oci.Digest) *url.URL {
	u := *session
	query := u.Query()
	query.Set("digest", d.String())
	u.RawQuery = query.Encode()
	return &u
}

// contentRange is written as the distribution-spec has it, without unit and total.
func contentRange(offset, length int64) string {
	return fmt.Sprintf("%d-%d", offset, offset+length-1)
}

// sendChunks sends the blob in requests of known length; each is held in memory, since a growing blob's end is not known.
func (u *upload) sendChunks(ctx context.Context, size int64) (err error) {
	content, err := u.open(u.offset)()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	chunk := make([]byte, size)
	for {
		n, err := io.ReadFull(content, chunk)
		if n > 0 {
			if err := u.sendChunk(ctx, chunk[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF: // ReadFull's own, which say that all is sent; not a source's
			return u.complete(ctx)
		case err != nil:
			return err
		}
	}
}

func (u *upload) sendChunk(ctx context.Context, chunk []byte) error {
	resp, err := u.client.once(ctx, u.e, call{
		method:   http.MethodPatch,
		location: u.session,
		header: map[string]string{
			"Content-Type":  "application/octet-stream",
			"Content-Range": contentRange(u.offset, int64(len(chunk))),
		},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(chunk)), nil },
		length: int64(len(chunk)),
		scope:  u.scope,
	}, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)
	if statusOf(err) == http.StatusRequestEntityTooLarge && u.e.shrinkChunks(int64(len(chunk))) {
		return errs.Mark(err, errs.Unavailable)
	}
	if err != nil {
		return err
	}
	discardBody(resp)
	u.offset += int64(len(chunk))
	return u.follow(resp)
}

// askOffset asks how far the registry got (distribution-spec §pushing-a-blob-in-chunks).
func (u *upload) askOffset(ctx context.Context) error {
	resp, err := u.client.once(ctx, u.e, call{method: http.MethodGet, location: u.session, scope: u.scope},
		http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	discardBody(resp)
	offset, ok := rangeEnd(resp.Header.Get("Range"))
	if !ok || u.desc.Digest != "" && offset > u.desc.Size {
		return errors.New("registry does not say how far the upload got")
	}
	if resp.Header.Get("Location") != "" {
		if u.session, err = location(resp); err != nil {
			return err
		}
	}
	u.offset = offset
	return nil
}

// rangeEnd reads the Range header of an upload, "0-LAST". "0-0" may mean one byte or none: then nobody knows.
func rangeEnd(header string) (int64, bool) {
	last, ok := strings.CutPrefix(strings.TrimPrefix(header, "bytes="), "0-")
	if !ok || last == "0" {
		return 0, false
	}
	n, err := strconv.ParseInt(last, 10, 64)
	return n + 1, err == nil && n >= 0
}

// sourceError is a failure to read what is to be pushed. Trying the registry again does not mend it.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// sourceReader counts what is sent, and tells the source's failures from the network's.
type sourceReader struct {
	content io.ReadCloser
	n       atomic.Int64
	total   *atomic.Int64
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.content.Read(p)
	r.n.Add(int64(n))
	r.total.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = sourceError{err}
	}
	return n, err
}

func (r *sourceReader) Close() error { return r.content.Close() }
