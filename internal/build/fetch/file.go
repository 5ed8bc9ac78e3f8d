package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"slipway/internal/build/address"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/tempfile"
)

// FileRequest asks for a file.
type FileRequest struct {
	URL string
	// Checksum is the digest that the file must have. Default: any will do.
	Checksum oci.Digest
	// Secrets may hold HTTP_AUTH_TOKEN_HOST or HTTP_AUTH_HEADER_HOST for the URL's host.
	Secrets map[string][]byte
	// Sign adds to a request what proves who asks, after all else of it is there. A redirect is
	// not followed then. Default: what Secrets say.
	Sign func(*http.Request) error
	// MaxBytes is how large the file may be; beyond it the error is of kind errs.Limit. Default: any size.
	MaxBytes int64
	// Progress hears how much has arrived, of how much (-1 when the server does not say). Default: nobody does.
	Progress func(done, total int64)
}

// File is what a URL gave.
type File struct {
	// Digest names the content in the blob store.
	Digest oci.Digest
	Size   int64
	// ModTime is when the server says that the file changed; 1970 when it does not say.
	ModTime time.Time
}

// known is what is remembered of a URL.
type known struct {
	ETag         string       `json:"etag,omitempty"`
	LastModified string       `json:"lastModified,omitempty"`
	Digest       oci.Digest   `json:"digest"`
	Size         int64        `json:"size"`
	Checksums    []oci.Digest `json:"checksums,omitempty"` // others that the content was found to have
}

func (k *known) file() File {
	f := File{Digest: k.Digest, Size: k.Size, ModTime: time.Unix(0, 0)}
	if t, err := http.ParseTime(k.LastModified); err == nil {
		f.ModTime = t
	}
	return f
}

// has says whether the content is known to have a checksum.
func (k *known) has(sum oci.Digest) bool { return k.Digest == sum || slices.Contains(k.Checksums, sum) }

// File fetches a file, unless the server says that the one known from last time is still right, or a checksum does. An
// error is of kind errs.NotFound, errs.Denied, errs.Unavailable or, when the checksum is another, errs.Corrupt.
func (c *Client) File(ctx context.Context, r FileRequest) (File, error) {
	k := c.recall(ctx, r.URL)
	if k != nil && r.Checksum != "" && k.has(r.Checksum) {
		return k.file(), nil
	}
	var got *known
	err := c.retry(ctx, func() (err error) {
		got, err = c.fetch(ctx, r, k)
		return err
	})
	if err != nil {
		return File{}, fmt.Errorf("fetch %s: %w", address.Redact(r.URL), err)
	}
	return got.file(), c.remember(r.URL, got)
}

// fetch asks the server once.
func (c *Client) fetch(ctx context.Context, r FileRequest, k *known) (_ *known, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("the server said nothing for %s: %w", c.Idle, errs.Unavailable)
	timer := time.AfterFunc(c.Idle, func() { cancel(silent) })
	defer timer.Stop()
	resp, err := c.ask(ctx, r, k) //nolint:bodyclose // it is closed as watched's
	if err != nil {
		return nil, failure(ctx, err)
	}
	body := &watched{ReadCloser: resp.Body, idle: c.Idle, timer: timer}
	defer body.Close() // read to its end, or given up
	etag := resp.Header.Get("ETag")
	if k != nil && (resp.StatusCode == http.StatusNotModified || etag != "" && etag == k.ETag) {
		return k, k.verify(ctx, c, r.Checksum)
	}
	if err := status(resp); err != nil {
		return nil, err
	}
	if r.MaxBytes > 0 && resp.ContentLength > r.MaxBytes {
		return nil, tooLarge(r.MaxBytes)
	}
	got, err := c.store(ctx, r, body, resp.ContentLength)
	if err != nil {
		return nil, failure(ctx, err)
	}
	got.ETag, got.LastModified = etag, resp.Header.Get("Last-Modified")
	return got, nil
}

// ask sends the request, with what is known from last time.
func (c *Client) ask(ctx context.Context, r FileRequest, k *known) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, errs.Mark(err, errs.Invalid)
	}
	req.Header.Set("User-Agent", "slipway")
	if header := r.Secrets["HTTP_AUTH_HEADER_"+req.URL.Host]; len(header) > 0 {
		req.Header.Set("Authorization", string(header))
	} else if token := r.Secrets["HTTP_AUTH_TOKEN_"+req.URL.Host]; len(token) > 0 {
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	switch {
	case k == nil:
	case k.ETag != "":
		req.Header.Set("If-None-Match", k.ETag)
	case k.LastModified != "":
		req.Header.Set("If-Modified-Since", k.LastModified)
	}
	client := c.http
	if r.Sign != nil {
		if err := r.Sign(req); err != nil {
			return nil, err
		}
		// A signature is for one request, and what it was made of is not for another server.
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client.Do(req)
}

// failure gives an error of the network its kind, and leaves out the address, which may hold a password.
func failure(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if bare, ok := errors.AsType[*url.Error](err); ok {
		err = bare.Err
	}
	for _, kind := range []error{errs.Corrupt, errs.Denied, errs.Invalid, errs.Limit} {
		if errors.Is(err, kind) {
			return err
		}
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok { // our own disk
		return err
	}
	return errs.Mark(err, errs.Unavailable)
}

// status is the error that an answer means.
func status(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	err := fmt.Errorf("the server answers %s", resp.Status)
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return errs.Mark(err, errs.NotFound)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return errs.Hint(errs.Mark(err, errs.Denied), "give a token with --secret id=HTTP_AUTH_TOKEN_"+resp.Request.URL.Host)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return errs.Mark(err, errs.Unavailable)
	}
	return err
}

// store keeps what arrives as a blob.
func (c *Client) store(ctx context.Context, r FileRequest, body io.Reader, total int64) (_ *known, err error) {
	w, err := c.Blobs.Create(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	out := io.Writer(w)
	if r.Progress != nil {
		out = io.MultiWriter(w, &counter{total: total, tell: r.Progress})
	}
	check := io.Discard
	if r.Checksum != "" {
		v := r.Checksum.Verifier()
		check = v
		defer func() {
			if err == nil && !v.Verified() {
				err = mismatch(r.Checksum)
			}
		}()
	}
	if r.MaxBytes > 0 { // a byte more, to notice
		body = io.LimitReader(body, r.MaxBytes+1)
	}
	n, err := io.Copy(io.MultiWriter(out, check), body)
	if err != nil {
		return nil, err
	}
	if r.MaxBytes > 0 && n > r.MaxBytes {
		return nil, tooLarge(r.MaxBytes)
	}
	desc, err := w.Commit(ctx, "")
	if err != nil {
		return nil, err
	}
	got := &known{Digest: desc.Digest, Size: n}
	if r.Checksum != "" {
		got.Checksums = []oci.Digest{r.Checksum}
	}
	return got, nil
}

func tooLarge(most int64) error {
	return fmt.Errorf("the file has more than %d bytes: %w", most, errs.Limit)
}

func mismatch(want oci.Digest) error {
	return fmt.Errorf("the file has another checksum than %s: %w", want, errs.Corrupt)
}

// verify compares content that is there already.
func (k *known) verify(ctx context.Context, c *Client, want oci.Digest) (err error) {
	if want == "" || k.has(want) {
		return nil
	}
	f, err := c.Blobs.Open(ctx, k.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	v := want.Verifier()
	if _, err := io.Copy(v, f); err != nil {
		return err
	}
	if !v.Verified() {
		return mismatch(want)
	}
	k.Checksums = append(k.Checksums, want)
	return nil
}

// counter tells how much has been written, not more often than a person can see.
type counter struct {
	n, told, total int64
	tell           func(done, total int64)
}

const tellEvery = 1 << 20

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.n-c.told >= tellEvery {
		c.told = c.n
		c.tell(c.n, c.total)
	}
	return len(p), nil
}

// memory is the file with what is known of a URL. Its name says nothing of the URL, which may hold a password.
func (c *Client) memory(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(c.Dir, hex.EncodeToString(sum[:]))
}

// recall returns nil when nothing is known or the content is gone. Whatever cannot be read is not known. The file's
// modification time is when it was last asked for.
func (c *Client) recall(ctx context.Context, url string) *known {
	data, err := os.ReadFile(c.memory(url))
	if err != nil {
		return nil
	}
	var k known
	if json.Unmarshal(data, &k) != nil {
		return nil
	}
	if size, err := c.Blobs.Stat(ctx, k.Digest); err != nil || size != k.Size {
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(c.memory(url), now, now) // it is only removed earlier for that
	return &k
}

// newPrefix begins the name of a memory that is being written.
const newPrefix = ".new-"

// Recover removes the memories in dir that processes which died left half written. It may run at any time.
func Recover(dir string) error {
	if _, err := tempfile.Recover(dir, newPrefix); err != nil {
		return fmt.Errorf("fetched files: %w", err)
	}
	return nil
}

func (c *Client) remember(url string, k *known) (err error) {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	f, err := tempfile.Create(c.Dir, newPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), c.memory(url))
}
