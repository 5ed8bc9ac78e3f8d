package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
)

// call is one request, before it is known how to authenticate it and over which scheme. It can be sent again.
type call struct {
	method string
	path   string
	query  url.Values
	// location, when set, is the absolute URL to use in the place of the host's, path and query: an upload's.
	location *url.URL
	header   map[string]string
	// body opens the request's body; nil for none. length is its size, -1 when it is not known before its end.
	body   func() (io.ReadCloser, error)
	length int64
	scope  scope
}

// do sends a call until it is answered with one of the statuses in ok, with retries. The answer's body is the caller's
// to close.
func (c *Client) do(ctx context.Context, e endpoint, q call, ok ...int) (*http.Response, error) {
	var resp *http.Response
	err := c.retry(ctx, c.tries(e), func() (err error) {
		resp, err = c.once(ctx, e, q, ok...) //nolint:bodyclose // it is the caller's to close
		return err
	})
	return resp, err
}

// discardBody finishes an answer whose body nobody wants, so that its connection can be used again.
func discardBody(resp *http.Response) {
	// What cannot be read is not worth a connection.
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	_ = resp.Body.Close()
}

// once sends a call and makes an error of any other status than those in ok.
func (c *Client) once(ctx context.Context, e endpoint, q call, ok ...int) (*http.Response, error) {
	resp, err := c.send(ctx, e, q)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(ok, resp.StatusCode) {
		return nil, newStatusError(resp, e.secrets()...)
	}
	return resp, nil
}

// send sends a call with what is known of the host, and a second time when the host teaches how to authenticate.
func (c *Client) send(ctx context.Context, e endpoint, q call) (*http.Response, error) {
	if q.location != nil && !strings.EqualFold(q.location.Host, e.name) {
		// The registry has sent us to another host. Our credentials are not for it.
		return c.exchange(ctx, e, q, "")
	}
	authorization, err := c.authorization(ctx, e, q.scope)
	if err != nil {
		return nil, err
	}
	resp, err := c.exchange(ctx, e, q, authorization)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	chosen := choose(parseChallenges(resp.Header.Values("WWW-Authenticate")))
	if chosen == nil {
		return resp, nil
	}
	e.learn(chosen, q.scope)
	again, err := c.authorization(ctx, e, q.scope)
	if err != nil {
		discardBody(resp)
		return nil, err
	}
	if again == "" || again == authorization {
		return resp, nil
	}
	discardBody(resp)
	return c.exchange(ctx, e, q, again)
}

// exchange makes one request, over the scheme that the host speaks. The first answer of a host settles which that is.
func (c *Client) exchange(ctx context.Context, e endpoint, q call, authorization string) (*http.Response, error) {
	if q.location != nil {
		return c.roundTrip(ctx, e, q, q.location, authorization)
	}
	schemes := e.schemesToTry()
	var first error
	for i, scheme := range schemes {
		u := &url.URL{Scheme: scheme, Host: e.name, Path: q.path, RawQuery: q.query.Encode()}
		resp, err := c.roundTrip(ctx, e, q, u, authorization)
		if i < len(schemes)-1 && ctx.Err() == nil && speaksTLS(resp, err) {
			if first = err; err == nil {
				first = newStatusError(resp)
			}
			continue
		}
		if err == nil && len(schemes) > 1 {
			e.settle(scheme)
		}
		if err != nil && first != nil && errors.Is(err, errs.Unavailable) {
			// It was no TLS server after all: what went wrong at first is what went wrong.
			err = first
		}
		return resp, err
	}
	return nil, errors.New("[bug] host without a scheme")
}

// speaksTLS recognizes a TLS server's reaction to plain HTTP: servers answer 400 and say so, or what they send is not
// HTTP at all.
func speaksTLS(resp *http.Response, err error) bool {
	if err != nil {
		text := err.Error()
		return strings.Contains(text, "malformed HTTP") || strings.Contains(text, "EOF") ||
			strings.Contains(text, "connection reset")
	}
	if resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Docker-Distribution-Api-Version") != "" {
		return false
	}
	if resp.Request.Method == http.MethodHead {
		// The words that would tell are in the body, and there is none.
		return true
	}
	// What cannot be read does not say HTTPS.
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(string(head)), resp.Body), resp.Body}
	return strings.Contains(string(head), "HTTPS")
}

func (c *Client) roundTrip(ctx context.Context, e endpoint, q call, u *url.URL, authorization string) (*http.Response, error) {
	var body io.ReadCloser
	if q.body != nil {
		var err error
		if body, err = q.body(); err != nil {
			return nil, err
		}
	}
	requestCtx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(requestCtx, q.method, u.String(), body)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("make request: %w", errors.Join(err, closeBody(body)))
	}
	if body != nil {
		req.ContentLength = q.length
		if q.length == 0 {
			req.Body = http.NoBody
			if err := body.Close(); err != nil {
				cancel(nil)
				return nil, fmt.Errorf("close content: %w", err)
			}
		}
	}
	for name, value := range q.header {
		req.Header.Set(name, value)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, networkError(ctx, err)
	}
	resp.Body = &patientBody{ReadCloser: resp.Body, ctx: requestCtx, cancel: cancel, patience: c.opts.Stall}
	return resp, nil
}

// patientBody is an answer's body that gives up when nothing comes for a while. TCP alone can wait for hours.
type patientBody struct {
	io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	patience time.Duration
	timer    *time.Timer
}

// stalled is why a request that made no progress was canceled.
type stalled time.Duration

func (s stalled) Error() string { return "nothing came for " + time.Duration(s).String() }
func (s stalled) Unwrap() error { return errs.Unavailable }

func (b *patientBody) Read(p []byte) (int, error) {
	if b.timer == nil {
		b.timer = time.AfterFunc(b.patience, func() { b.cancel(stalled(b.patience)) })
	} else {
		b.timer.Reset(b.patience)
	}
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if s, ok := errors.AsType[stalled](context.Cause(b.ctx)); ok {
			err = s
		}
	}
	return n, err
}

func (b *patientBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}

func closeBody(body io.Closer) error {
	if body == nil {
		return nil
	}
	return body.Close()
}

const maxRedirects = 10

// httpClient follows redirects as registries use them: blobs are often somewhere else. net/http drops Authorization
// when the domain changes; we drop it for another port or scheme of the same domain too.
func httpClient(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		switch {
		case len(via) >= maxRedirects:
			return final{errors.New("more than 10 redirects")}
		case first.Scheme == "https" && req.URL.Scheme != "https":
			return final{errors.New("redirected from https to " + req.URL.Scheme)}
		case req.URL.Host != first.Host:
			req.Header.Del("Authorization")
		}
		return nil
	}}
}
