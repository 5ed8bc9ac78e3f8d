// Package isolation decides how slipway keeps the commands that it runs apart from the machine, and brings the process
// to where it can.
//
// There are three ways, from the best to the most modest:
//
//   - namespaces: the process has CAP_SYS_ADMIN and makes namespaces and overlay mounts itself;
//   - a user namespace: the process starts itself once more where it is root, and has all other users too when the
//     machine gives it subordinate ids; everything else is as above;
//   - chroot: no namespace and no mount, for root in a container that may make neither.
//
// Whoever is about to run something calls Enter first, and every program that does calls Init first thing in main.
// See docs/isolation.md for what each way offers.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"

	"slipway/internal/errs"
)

// Mode is what a user asks for.
type Mode string

// Modes.
const (
	Auto       Mode = "auto"       // the best that the machine allows
	Namespaces Mode = "namespaces" // in a user namespace when need be
	Chroot     Mode = "chroot"
)

// Modes lists them for flags.
func Modes() []string { return []string{string(Auto), string(Namespaces), string(Chroot)} }

// Kind is the way that was found.
type Kind string

// Kinds.
const (
	Privileged    Kind = "namespaces"
	UserNamespace Kind = "user namespace"
	SingleID      Kind = "user namespace of one id"
	PrivateRoot   Kind = "chroot"
)

// Place is where this process is and how it isolates.
type Place struct {
	Kind Kind
	// Note says, for people, that it is not the usual way and what that costs. "" when it is.
	Note string
	// Hint is what to do for a better one. "" when there is none.
	Hint string
	// State is part of the names of folders that only places like this one can share: owners and the marks of overlays
	// are written differently elsewhere. "" for the usual way.
	State string
}

// Options say what is wanted.
type Options struct {
	// Mode is what was asked for. Default: Auto.
	Mode Mode
	// Home is where snapshots will be. It need not exist. A process in a user namespace finds it as
	// SLIPWAY_HOME in its environment.
	Home string
	// Stdin, Stdout and Stderr go to the process in the user namespace: files are handed over as they are.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exited says that another process, in a user namespace, has done all there was to do, and told the user.
type Exited struct{ Code int }

func (e *Exited) Error() string {
	return fmt.Sprintf("the process in the user namespace: exit status %d", e.Code)
}

// Enter brings the process to where it can isolate as asked, and says where that is.
//
// That may be a user namespace, which a running program cannot enter. Then the program is started there once more, with
// the same arguments, and Enter returns *Exited when it has ended. It ends when this process does; when ctx is done it is
// asked to. Any other error says why nothing will do, with a hint about what to change.
func Enter(ctx context.Context, o Options) (Place, error) {
	if link := inherited(); link != nil {
		return arrive(o, link)
	}
	if o.Mode == Chroot {
		return privateRoot("it was asked for", "")
	}
	if privileged() {
		return Place{Kind: Privileged}, nil
	}
	err := leave(ctx, o)
	if _, done := errors.AsType[*Exited](err); done || ctx.Err() != nil {
		return Place{}, err
	}
	if o.Mode != Namespaces && canChroot() {
		return privateRoot(err.Error(), hint(err))
	}
	return Place{}, errs.Hint(errs.Mark(fmt.Errorf("isolation: %w", err), errs.Unavailable), hint(err))
}

// privateRoot is the most modest way.
func privateRoot(why, better string) (Place, error) {
	if !canChroot() {
		err := fmt.Errorf("isolation chroot: needs root with CAP_SYS_CHROOT: %w", errs.Invalid)
		return Place{}, errs.Hint(err, "use --isolation namespaces, which needs no root; see slipway doctor")
	}
	return Place{
		Kind: PrivateRoot, State: "-chroot", Hint: better,
		Note: "isolation chroot (" + why + "): commands have no /proc and /sys, see the machine's network and can signal its processes; " +
			"secrets are on disk while a command runs",
	}, nil
}

// hint says what to do about an error of leave.
func hint(err error) string {
	if h := errs.HintOf(err); h != "" {
		return h
	}
	return "see slipway doctor"
}
