package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"slipway/internal/cli/progress"
	"slipway/internal/errs"
)

// Exit codes. They are part of the command line's contract.
const (
	exitFailed      = 1   // network, registry, disk, internal
	exitUsage       = 2   // flags, Dockerfile, pipeline file or s.yaml invalid
	exitStep        = 3   // a RUN, step or task exited non-zero
	exitDenied      = 4   // not authorized
	exitLimit       = 5   // a limit was hit: time, memory, disk
	exitInterrupted = 130 // as a shell has it for SIGINT: 128 + 2
)

var errInterrupted = errs.Mark(errors.New("interrupted"), errs.Canceled)

// exiter is an error of a process that slipway ran for the user: *build.StepError and its like.
type exiter interface {
	error
	ExitCode() int
}

// exitCode derives the status of the process from what failed. A limit that killed a step is told before the step:
// the step could not help it.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errs.Limit):
		return exitLimit
	case stepFailed(err):
		return exitStep
	case errors.Is(err, errs.Denied):
		return exitDenied
	case errors.Is(err, errs.Invalid):
		return exitUsage
	case errors.Is(err, errs.Canceled), errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

// stepFailed says whether a process of the user's failed. One of slipway's own (git, a credential helper) is an
// ordinary failure, and *exec.ExitError has the same method.
func stepFailed(err error) bool {
	step, ok := errors.AsType[exiter](err)
	if !ok {
		return false
	}
	_, own := step.(*exec.ExitError)
	return !own
}

// report tells a person what failed, a line for each of several mistakes, and what to do about it.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		tell(w, "error", line)
	}
	if hint := errs.HintOf(err); hint != "" {
		tell(w, "hint", hint)
	}
}

// tell writes "slipway: kind: text". Nobody is left to tell when that fails.
func tell(w io.Writer, kind, text string) {
	_, _ = fmt.Fprintf(w, "slipway: %s: %s\n", kind, redact(progress.Clean(text, 16<<10)))
}

// redact blanks the password in every URL of text: https://user:secret@host is https://user:***@host.
func redact(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		authority := after[:len(after)-len(strings.TrimLeftFunc(after, inAuthority))]
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			if user, _, secret := strings.Cut(authority[:at], ":"); secret {
				b.WriteString(user + ":***")
				after = after[at:]
			}
		}
		text = after
	}
}

func inAuthority(r rune) bool { return !strings.ContainsRune("/?# \t\"'`", r) }
