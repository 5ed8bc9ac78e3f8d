package solver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
)

// basePatience is how long Check waits for a registry: a check is for editors and hooks, too.
const basePatience = 10 * time.Second

// Check says what the linter's rules find in a request's Dockerfile, without building anything. A base image that
// cannot be had is told to the request's Events and leaves the rules unchecked that need its config.
func (s *Solver) Check(ctx context.Context, req Request) ([]dockerfile.Warning, error) {
	b := s.builder(ctx, req)
	b.req.Plan.Supports = Features()
	images := map[plan.Need]plan.Image{}
	for {
		found, err := plan.Lint(b.req.File, b.req.Plan, images)
		needs, ok := asNeedImages(err)
		if !ok {
			return found, err
		}
		if err := b.resolveKnown(ctx, needs, images); err != nil {
			return nil, err
		}
	}
}

// resolveKnown looks images up side by side and adds them to have, as unknown those that nobody gives.
func (b *builder) resolveKnown(ctx context.Context, needs []plan.Need, have map[plan.Need]plan.Image) error {
	g, ctx := errgroup.WithContext(ctx)
	found := make([]plan.Image, len(needs))
	for i, n := range needs {
		g.Go(func() error {
			patient, cancel := context.WithTimeoutCause(ctx, basePatience, errors.New("no answer in "+basePatience.String()))
			defer cancel()
			im, err := b.lookUp(patient, n)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				found[i] = plan.Image{Ref: n.Ref, Unknown: true}
				b.events.note(fmt.Sprintf("rules that need the config of %s are not checked: %v", n.Ref, err))
				return nil
			}
			found[i] = plan.Image{Ref: n.Ref, Digest: im.digest, Config: im.config}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, n := range needs {
		have[n] = found[i]
	}
	return nil
}
