package cli

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/isolation"
)

// isolateFlag is --isolation.
type isolateFlag struct{ mode isolation.Mode }

func (f *isolateFlag) register(flags *pflag.FlagSet) {
	f.mode = isolation.Auto
	flags.Var(choice[isolation.Mode]{&f.mode, isolation.Modes()}, "isolation",
		"keep commands apart from the machine by `MODE`: auto, namespaces or chroot")
}

// place is where a command runs what it was given.
type place struct{ isolation.Place }

// enter goes where things can be run as the flag says. An *isolation.Exited says that all has been done there.
func (f *isolateFlag) enter(ctx context.Context, e env) (place, error) {
	home, err := e.home()
	if err != nil {
		return place{}, err
	}
	p, err := isolation.Enter(ctx, isolation.Options{
		Mode: f.mode, Home: home, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr,
	})
	return place{p}, err
}

// apply tells the app.
func (p place) apply(o *app.Options) { o.Isolation = p.Place }

// tell says when isolation is not the usual; a warning when it is less.
func (p place) tell(events build.Sink, now time.Time) {
	if p.Note == "" {
		return
	}
	kind := build.Note
	if p.Kind != isolation.UserNamespace {
		kind = build.Warning
	}
	events(build.Event{Kind: kind, Time: now, Text: p.Note})
}
