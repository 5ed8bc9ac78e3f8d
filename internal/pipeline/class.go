package pipeline

import (
	"errors"

	"slipway/internal/errs"
)

// Class says whose failure a failure is: who has to do something about it, and whether trying again may help.
type Class string

// The classes. Infrastructure alone is tried again.
const (
	// ClassUser: what the user runs ended badly, or a person said no.
	ClassUser Class = "user"
	// ClassInfrastructure: a machine, a network or a registry failed, or something in slipway did.
	ClassInfrastructure Class = "infrastructure"
	// ClassTimeout: the time limit was hit. ClassLimit: another one was.
	ClassTimeout Class = "timeout"
	ClassLimit   Class = "limit"
	// ClassCanceled: somebody asked to stop.
	ClassCanceled Class = "canceled"
	// ClassSuperseded: a newer run of the same branch took its place.
	ClassSuperseded Class = "superseded"
	// ClassConfiguration: what was written cannot work: a file, a name, a right that is missing.
	ClassConfiguration Class = "configuration"
)

// classified is an error whose class cannot be told from its kind.
type classified struct {
	error
	class Class
}

func (c classified) Unwrap() error { return c.error }

// Classify gives err a class without changing its text. A nil err stays nil.
func Classify(err error, class Class) error {
	if err == nil {
		return nil
	}
	return classified{err, class}
}

// ClassOf returns the class of a failure, "" for none. A limit that killed a command beats the command, which could not
// help it. What nobody has foreseen counts as infrastructure's.
func ClassOf(err error) Class {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errs.Limit):
		if limit, ok := errors.AsType[*LimitError](err); ok && limit.Resource == "time" {
			return ClassTimeout
		}
		return ClassLimit
	case errors.Is(err, errs.Canceled):
		return ClassCanceled
	}
	if c, ok := errors.AsType[classified](err); ok {
		return c.class
	}
	if _, failed := ExitCode(err); failed {
		return ClassUser
	}
	for _, kind := range []error{errs.Invalid, errs.Denied, errs.NotFound, errs.Exists} {
		if errors.Is(err, kind) {
			return ClassConfiguration
		}
	}
	return ClassInfrastructure
}

// ExitCode returns the code that a command of the user's ended with, if err tells of one. The programs that slipway
// runs for itself, such as git, are not the user's.
func ExitCode(err error) (code int, ok bool) {
	exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err)
	if !ok {
		return 0, false
	}
	if _, own := exit.(interface{ Pid() int }); own { // an *exec.ExitError, which this package must not know
		return 0, false
	}
	return exit.ExitCode(), true
}
