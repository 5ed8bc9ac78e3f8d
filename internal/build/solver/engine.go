package solver

import (
	"context"

	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// Engine runs the processes of a build: each on a stack of layers, leaving what it changed in the spec's upper folder.
// Its methods may be called at once. sandbox.Launcher says what Run promises.
type Engine interface {
	// Warm says that a run is about to come.
	Warm()
	Run(ctx context.Context, spec *sandbox.Spec) (sandbox.Result, error)
	// Close waits for runs under way; none may follow.
	Close() error
}

var _ Engine = (*sandbox.Launcher)(nil)

func (s *Solver) newEngine(begin func(context.Context) (snapshot.Draft, error)) Engine {
	if s.Engine == nil {
		return &sandbox.Launcher{}
	}
	return s.Engine(begin)
}
