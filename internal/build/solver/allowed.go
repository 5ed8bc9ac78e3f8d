package solver

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
)

// checkPush asks every repository, while the build is planned and begins, whether it may be pushed to. A no ends the
// build: nobody waits twenty minutes for that. What is not a no, as a registry that does not answer just now, is only
// told; the push itself will try again.
func (b *builder) checkPush() {
	if !b.req.Push || b.req.SkipPushCheck {
		return
	}
	for _, repo := range newPusher(b, b.req.Tags).repos {
		b.group.Go(func() error { return b.mayPush(b.group.ctx, repo) })
	}
}

func (b *builder) mayPush(ctx context.Context, repo ref.Ref) error {
	err := b.Registry.CanPush(ctx, repo)
	if err == nil {
		return nil
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errs.Denied):
		return fmt.Errorf("before building: %w", err)
	case errors.Is(err, errs.NotFound):
		hint := "this registry does not make repositories by itself: create " + repo.Name() + " first"
		return errs.Hint(fmt.Errorf("before building: %w", err), hint)
	}
	b.events.warn(err.Error())
	return nil
}
