package sandbox

import (
	"errors"
	"time"

	"slipway/internal/errs"
)

// What the parent and init say to each other over their socket: the parent sends one request, together with the three
// standard descriptors, and init answers with one report.

// request is a spec and what the parent knows about the machine.
type request struct {
	Spec *Spec
	// Cgroups are the cgroup hierarchies to show below /sys/fs/cgroup, see cgroup.View.
	Cgroups []string
	// Forward asks init to pass signals on to the command.
	Forward bool
}

// report is what became of a request, sent when no process but init is left. It has a Failure, which says why there was
// no command, or an Exit, which says how it ended.
type report struct {
	Failure *failure `json:",omitempty"`
	Exit    *exit    `json:",omitempty"`
	// Points are changes to the upper folder that the command did not make.
	Points []point `json:",omitempty"`
}

// exit is a wait status and what was used.
type exit struct {
	Code, Signal int
	User, System time.Duration
	MaxRSS       int64
}

// failure is an error that crossed from init to its parent.
type failure struct {
	Text, Kind, Hint string
	// ExitCode is 126 or 127 when the command itself was at fault.
	ExitCode int
}

// execError says that the command could not be started, with the exit code a shell has for it.
type execError struct {
	err  error
	code int
}

func (e *execError) Error() string { return e.err.Error() }
func (e *execError) Unwrap() error { return e.err }

func newFailure(err error) *failure {
	f := &failure{Text: err.Error(), Hint: errs.HintOf(err)}
	for _, kind := range kinds() {
		if errors.Is(err, kind) {
			f.Kind = kind.Error()
		}
	}
	if e, ok := errors.AsType[*execError](err); ok {
		f.ExitCode = e.code
	}
	return f
}

func (f *failure) err() error {
	err := errors.New(f.Text)
	for _, kind := range kinds() {
		if f.Kind == kind.Error() {
			err = errs.Mark(err, kind)
		}
	}
	return errs.Hint(err, f.Hint)
}

// kinds are those that init can tell its parent.
func kinds() []error {
	return []error{errs.NotFound, errs.Invalid, errs.Denied, errs.Unavailable, errs.Limit}
}
