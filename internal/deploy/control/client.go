package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"

	"slipway/internal/deploy/function"
	"slipway/internal/deploy/host"
	"slipway/internal/errs"
)

// Client gives orders. Its methods may be called at once; when no process hosts functions, their errors are of kind
// errs.Unavailable.
type Client struct{ http *http.Client }

// Dial returns a client of the process behind a socket. It connects when it is used.
func Dial(socket string) *Client {
	var d net.Dialer
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
	}}}
}

func path(parts ...string) string {
	out := "/functions"
	for _, p := range parts {
		out += "/" + url.PathEscape(p)
	}
	return out
}

// send sends an order. The caller closes the answer's body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	data, raw := body.([]byte)
	if !raw {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode the order: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path+"?"+query.Encode(), bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("give an order: %w", err)
	}
	res, err := c.http.Do(req)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		err = errs.Mark(errors.New("no process hosts functions on this machine"), errs.Unavailable)
		return nil, errs.Hint(err, "start one: slipway functions serve")
	}
	if err != nil {
		return nil, fmt.Errorf("give an order to the process that hosts functions: %w", err)
	}
	return res, nil
}

// call sends an order and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, out any) (err error) {
	res, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	decode := json.NewDecoder(io.LimitReader(res.Body, 2*maxOrder))
	if res.StatusCode != http.StatusOK {
		var f failure
		if err := decode.Decode(&f); err != nil {
			return fmt.Errorf("the process that hosts functions answered %s", res.Status)
		}
		return f.error()
	}
	if out == nil {
		return nil
	}
	if err := decode.Decode(out); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// Deploy is host.Host's Deploy.
func (c *Client) Deploy(ctx context.Context, f function.Function, tell func(string)) (_ function.Deployed, err error) {
	res, err := c.send(ctx, http.MethodPut, path(f.Name), nil, f)
	if err != nil {
		return function.Deployed{}, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	for decode := json.NewDecoder(res.Body); ; {
		var m message
		if err := decode.Decode(&m); err != nil {
			return function.Deployed{}, errs.Mark(fmt.Errorf("deploy %s: the process that hosts functions went away", f.Name), errs.Unavailable)
		}
		switch {
		case m.Failure != nil:
			return function.Deployed{}, m.Failure.error()
		case m.Deployed != nil:
			return *m.Deployed, nil
		default:
			tell(m.Told)
		}
	}
}

// Names is host.Host's Names.
func (c *Client) Names(ctx context.Context) (names []string, err error) {
	return names, c.call(ctx, http.MethodGet, path(), nil, nil, &names)
}

// Info is host.Host's Info.
func (c *Client) Info(ctx context.Context, name string) (d function.Deployed, err error) {
	return d, c.call(ctx, http.MethodGet, path(name), nil, nil, &d)
}

// Remove is host.Host's Remove.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, path(name), nil, nil, nil)
}

// Tail is host.Host's Tail.
func (c *Client) Tail(ctx context.Context, name string, lines int) (out []string, err error) {
	return out, c.call(ctx, http.MethodGet, path(name, "log"), url.Values{"lines": {strconv.Itoa(lines)}}, nil, &out)
}

// Invoke is host.Host's Invoke.
func (c *Client) Invoke(ctx context.Context, name, qualifier string, event []byte) (out host.Invocation, err error) {
	return out, c.call(ctx, http.MethodPost, path(name, "invoke"), url.Values{"qualifier": {qualifier}}, event, &out)
}

// Publish is host.Host's Publish.
func (c *Client) Publish(ctx context.Context, name, description string) (v function.Version, err error) {
	return v, c.call(ctx, http.MethodPost, path(name, "versions"), url.Values{"description": {description}}, nil, &v)
}

// RemoveVersion is host.Host's RemoveVersion.
func (c *Client) RemoveVersion(ctx context.Context, name, id string) error {
	return c.call(ctx, http.MethodDelete, path(name, "versions", id), nil, nil, nil)
}

// SetAlias is host.Host's SetAlias.
func (c *Client) SetAlias(ctx context.Context, name string, a function.Alias) error {
	return c.call(ctx, http.MethodPut, path(name, "aliases"), nil, a, nil)
}

// RemoveAlias is host.Host's RemoveAlias.
func (c *Client) RemoveAlias(ctx context.Context, name, alias string) error {
	return c.call(ctx, http.MethodDelete, path(name, "aliases", alias), nil, nil, nil)
}
