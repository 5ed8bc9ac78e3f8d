// Package errs names the kinds of failure that callers branch on, and carries hints for people.
//
// A kind is a sentinel to test with errors.Is; wrap it, or mark a foreign error with it:
//
//	return fmt.Errorf("open blob %s: %w", dgst, errs.NotFound)
//	return errs.Mark(err, errs.Denied)
//
// A hint is the one sentence that tells a person what to do next. It never changes what Error returns; only the
// command line prints it. Package errs knows nothing of exit codes.
package errs

import "errors"

// Kinds of failure. Each is worth a branch somewhere; an error without a kind is simply a failure.
var (
	// NotFound: the thing asked for does not exist.
	NotFound = errors.New("not found")
	// Invalid: what the user wrote (a flag, a Dockerfile, a pipeline) cannot mean anything.
	Invalid = errors.New("invalid")
	// Exists: it is there already and must not be.
	Exists = errors.New("already exists")
	// Conflict: somebody else changed it first.
	Conflict = errors.New("conflict")
	// Denied: credentials are missing or do not allow it.
	Denied = errors.New("denied")
	// Unavailable: a peer or a resource cannot be used now; the same call may succeed later.
	Unavailable = errors.New("unavailable")
	// Corrupt: bytes are not what their digest, or their format, says.
	Corrupt = errors.New("corrupt")
	// Limit: a limit that the user or the environment set was hit: time, memory, disk.
	Limit = errors.New("limit exceeded")
	// Canceled: a person or a caller asked to stop.
	Canceled = errors.New("canceled")
)

type marked struct {
	err  error
	kind error
}

func (m *marked) Error() string   { return m.err.Error() }
func (m *marked) Unwrap() []error { return []error{m.err, m.kind} }

// Mark gives err a kind without changing its text. A nil err stays nil.
func Mark(err, kind error) error {
	if err == nil || errors.Is(err, kind) {
		return err
	}
	return &marked{err: err, kind: kind}
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint attaches what a person can do about err: a command to try, a setting to change. A nil err stays nil.
func Hint(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &hinted{err: err, hint: hint}
}

// HintOf returns the outermost hint in err's chain, or "".
func HintOf(err error) string {
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	return ""
}
