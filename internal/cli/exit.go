package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"slipway/internal/build"
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

// report tells a person what failed, a line for each of several mistakes with what it is about in the file, and what to
// do about it.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	list := locatedIn(err)
	for line := range strings.Lines(err.Error()) {
		tell(w, "error", line)
		i := slices.IndexFunc(list, func(e located) bool { return strings.HasSuffix(strings.TrimRight(line, "\n"), e.Error()) })
		if i < 0 {
			continue
		}
		var b strings.Builder
		writeExcerpt(&b, list[i].Excerpt())
		_, _ = io.WriteString(w, b.String()) // as tell
		list = slices.Delete(list, i, i+1)
	}
	if hint := errs.HintOf(err); hint != "" {
		tell(w, "hint", hint)
	}
}

// located is an error that knows what to show of a file.
type located interface {
	error
	Excerpt() build.Excerpt
}

// locatedIn returns the located errors that an error consists of, in the order of its text.
func locatedIn(err error) []located {
	if e, ok := err.(located); ok { //nolint:errorlint // the tree is walked here, node by node
		return []located{e}
	}
	switch e := err.(type) { //nolint:errorlint // likewise
	case interface{ Unwrap() error }:
		return locatedIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		var list []located
		for _, part := range e.Unwrap() {
			list = append(list, locatedIn(part)...)
		}
		return list
	}
	return nil
}

// writeExcerpt shows lines of a stranger's file.
func writeExcerpt(b *strings.Builder, e build.Excerpt) {
	for line := range strings.Lines(e.String()) {
		b.WriteString(redact(progress.Clean(line, maxMessage)) + "\n")
	}
}

// maxMessage is how much of a stranger's text is shown on a line.
const maxMessage = 16 << 10

// tell writes "slipway: kind: text". Nobody is left to tell when that fails.
func tell(w io.Writer, kind, text string) {
	_, _ = fmt.Fprintf(w, "slipway: %s: %s\n", kind, redact(progress.Clean(text, maxMessage)))
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
