// Package fetch gets what a build names elsewhere: files by HTTP, commits of git repositories. ADD, contexts and named
// contexts live on it.
//
// A file's content is kept as a blob, and what the server said of it (ETag, Last-Modified) is remembered, so that the
// next build only asks whether it changed. A commit is fetched without its history, by the git program.
//
//	f, err := client.File(ctx, fetch.FileRequest{URL: "https://host/x.tar.gz"})
//	at, err := client.Resolve(ctx, git, secrets)        // which commit the address means now
//	err = client.Checkout(ctx, git, at, opts)           // its files
//
// Servers are strangers: nothing is followed from https to http, no answer is waited for without end, and passwords in
// addresses are in no error.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci/blob"
)

// Options say what a Client works with.
type Options struct {
	// Dir is where it is remembered what servers said. It is made when it is needed.
	Dir string
	// Blobs keeps the content of files.
	Blobs blob.Store
	// Transport asks servers. Default: http.DefaultTransport.
	Transport http.RoundTripper
	// Idle is how long a server may say nothing. Default: a minute.
	Idle time.Duration
	// Pause is how long to wait before asking again a server that could not answer; twice as long the next time.
	// Default: half a second.
	Pause time.Duration
	// Env is the environment of git, as KEY=VALUE. Default: that of this process.
	Env []string
}

// Client fetches. It may be used by several goroutines, and on one folder by several processes, at once.
type Client struct {
	Options
	http http.Client
}

// New returns a client.
func New(opts Options) *Client {
	if opts.Transport == nil {
		opts.Transport = http.DefaultTransport
	}
	if opts.Idle == 0 {
		opts.Idle = time.Minute
	}
	if opts.Pause == 0 {
		opts.Pause = time.Second / 2
	}
	return &Client{Options: opts, http: http.Client{Transport: opts.Transport, CheckRedirect: checkRedirect}}
}

const maxRedirects = 10

// checkRedirect keeps what began encrypted encrypted. Passwords are not passed on to another host by net/http itself.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects: %w", maxRedirects, errs.Invalid)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s://%s: %w", req.URL.Scheme, req.URL.Host, errs.Denied)
	}
	return nil
}

// attempts is how often something is tried that may work the next time.
const attempts = 3

// retry calls f until it succeeds or fails for good.
func (c *Client) retry(ctx context.Context, f func() error) error {
	pause := c.Pause
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == attempts || !errors.Is(err, errs.Unavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// watched is a body that ends when its server says nothing for too long.
type watched struct {
	io.ReadCloser
	idle  time.Duration
	timer *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.timer.Reset(w.idle)
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.ReadCloser.Close()
}
