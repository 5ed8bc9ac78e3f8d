package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"slipway/internal/errs"
)

// longestWait is the longest Retry-After that is waited for; a registry that asks for more is unavailable.
const longestWait = 2 * time.Minute

// retry calls attempt until it succeeds, fails for good, or has been called tries times.
func (c *Client) retry(ctx context.Context, tries int, attempt func() error) error {
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || n >= tries || !retryable(err) {
			return err
		}
		if err := c.pause(ctx, n, err); err != nil {
			return err
		}
	}
}

// pause waits before try n+1. It returns the error to give up with, or nil to go on.
func (c *Client) pause(ctx context.Context, n int, cause error) error {
	d := c.opts.Retry.Min << min(n-1, 20)
	if d <= 0 || d > c.opts.Retry.Max {
		d = c.opts.Retry.Max
	}
	d = d/2 + time.Duration(c.jitter()*float64(d/2))
	if e, ok := errors.AsType[*statusError](cause); ok {
		if e.retryAfter > longestWait {
			return errs.Hint(cause, fmt.Sprintf("the registry asks to come back after %s", e.retryAfter.Round(time.Second)))
		}
		d = max(d, e.retryAfter)
	}
	c.notify(ctx, n, d, cause)
	c.log.Debug("registry request failed, trying again", slog.Int("try", n), slog.Duration("pause", d), slog.Any("error", cause))
	if err := c.opts.Sleep(ctx, d); err != nil {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return nil
}

// tries returns how often to ask an endpoint: a mirror has a stand-in, so it gets one try.
func (c *Client) tries(e endpoint) int {
	if e.mirror {
		return 1
	}
	return c.opts.Retry.Tries
}

// read asks the mirrors of a reference and then its registry. The registry's error is the one to report: what a mirror
// does not have is no news.
func (c *Client) read(ctx context.Context, endpoints []endpoint, ask func(endpoint) error) error {
	for i, e := range endpoints {
		err := c.retry(ctx, c.tries(e), func() error { return ask(e) })
		if err == nil || i == len(endpoints)-1 || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errs.Unavailable) {
			e.setDown()
		}
		c.log.Debug("mirror passed over", slog.String("mirror", e.name), slog.Any("error", err))
	}
	return nil
}
