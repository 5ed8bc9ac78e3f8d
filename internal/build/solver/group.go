package solver

import (
	"context"
	"sync"
)

// group runs the goroutines of one build. The first failure cancels the others with itself as the cause; errors that
// they then return, which only echo it, are dropped.
type group struct {
	ctx    context.Context //nolint:containedctx // the group's own, as in errgroup
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// Go starts work. It may be called by work that is running.
func (g *group) Go(work func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		if err := work(); err != nil {
			g.fail(err)
		}
	}()
}

func (g *group) fail(err error) {
	g.once.Do(func() {
		if cause := context.Cause(g.ctx); cause != nil {
			err = cause // the build was stopped from outside: whatever failed, failed of that
		}
		g.err = err
		g.cancel(err)
	})
}

// Wait returns the first failure when all work has ended.
func (g *group) Wait() error {
	g.wg.Wait()
	g.cancel(nil)
	return g.err
}
