package app

import (
	"context"
	"errors"
	"io"

	"slipway/internal/build"
	"slipway/internal/build/solver"
)

// StartImage says how to run an image's command.
type StartImage struct {
	Image   string // a reference, or local:NAME
	Args    []string
	Env     []string
	Network string
	Limits  solver.Limits
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Events  build.Sink
}

// StartImage runs an image's command in the sandbox and returns its exit status.
func (a *App) StartImage(ctx context.Context, s StartImage) (_ int, err error) {
	w, err := a.begin(ctx, s.Events)
	if err != nil {
		return 0, err
	}
	defer func() { err = a.hintFull(errors.Join(err, w.end(err != nil))) }()
	image, err := w.localImage(s.Image)
	if err != nil {
		return 0, err
	}
	return w.solver.Start(ctx, solver.Start{
		Image: image, Platform: machine(), Args: s.Args, Env: s.Env, Network: s.Network, Limits: s.Limits,
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Events: s.Events,
	})
}

// joinErrors is errors.Join of those that are not nil; a single one stays itself.
func joinErrors(list []error) error {
	var some []error
	for _, err := range list {
		if err != nil {
			some = append(some, err)
		}
	}
	if len(some) == 1 {
		return some[0]
	}
	return errors.Join(some...)
}
