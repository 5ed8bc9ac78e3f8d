package registry

import (
	"context"
	"fmt"
	"time"
)

type noticeKey struct{}

// WithNotice returns a context for requests that tell of every try which failed and will be made again: what went wrong,
// how long the pause is, and how many tries there are. tell may be called from several goroutines.
func WithNotice(ctx context.Context, tell func(text string)) context.Context {
	return context.WithValue(ctx, noticeKey{}, tell)
}

func (c *Client) notify(ctx context.Context, failed int, pause time.Duration, cause error) {
	if tell, ok := ctx.Value(noticeKey{}).(func(string)); ok {
		tell(fmt.Sprintf("%v; trying again in %s (try %d of %d)", cause, pause.Round(time.Millisecond), failed+1, c.opts.Retry.Tries))
	}
}
