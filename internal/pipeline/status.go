package pipeline

import (
	"fmt"

	"slipway/internal/errs"
)

// Status is where a run, a task or an attempt stands. One type for all three, one table of legal moves.
type Status string

// The statuses. Pending waits for its predecessors, Queued waits for a place to run. Skipped is what the file or the
// user decided not to run; Canceled is what should have run and did not get to, or not to its end.
const (
	Pending   Status = "pending"
	Queued    Status = "queued"
	Running   Status = "running"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Canceled  Status = "canceled"
	Skipped   Status = "skipped"
)

// next is the table of legal moves; a terminal status has none.
func (s Status) next() []Status {
	switch s {
	case Pending:
		return []Status{Queued, Skipped, Canceled}
	case Queued:
		return []Status{Running, Failed, Canceled}
	case Running:
		return []Status{Succeeded, Failed, Canceled}
	default:
		return nil
	}
}

// Valid reports whether s is one of the statuses.
func (s Status) Valid() bool { return s.next() != nil || s.Terminal() }

// Terminal reports whether s is an end: nothing moves on from it.
func (s Status) Terminal() bool {
	switch s {
	case Succeeded, Failed, Canceled, Skipped:
		return true
	default:
		return false
	}
}

// Satisfies reports whether a task in status s lets those that run after it start: it succeeded, or was skipped.
func (s Status) Satisfies() bool { return s == Succeeded || s == Skipped }

// Move returns to if the move from s is legal, and an errs.Conflict otherwise.
func (s Status) Move(to Status) (Status, error) {
	for _, n := range s.next() {
		if n == to {
			return to, nil
		}
	}
	return s, fmt.Errorf("status moves from %s to %s: %w", s, to, errs.Conflict)
}
