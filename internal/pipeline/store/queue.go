package store

import (
	"context"
	"time"

	"slipway/internal/pipeline"
)

// Key names an attempt and the epoch that a writer believes to hold.
type Key struct {
	Run    int64
	Task   string
	Number int // from 1
	Epoch  int64
}

// Attempt is one try of one task.
type Attempt struct {
	Key
	Status   pipeline.Status
	Class    pipeline.Class
	Error    string
	Hint     string
	ExitCode int
	Output   pipeline.Output
	// Owner is the server that holds it.
	Owner                           string
	QueuedAt, StartedAt, FinishedAt time.Time
	// NotBefore is when a queued attempt may start.
	NotBefore time.Time
}

// Held is an attempt that runs.
type Held struct {
	Attempt
	// Expired says that its lease has passed.
	Expired bool
	// Cancel is the wish that its run ends, nil when there is none.
	Cancel *Cancel
}

// ClaimOptions say who claims what.
type ClaimOptions struct {
	// Owner is the server that claims.
	Owner string
	// Lease is for how long, if it is not renewed.
	Lease time.Duration
	// Slots is how many attempts may run at once in all.
	Slots int
}

// Result is how an attempt ended.
type Result struct {
	// Status is succeeded, failed or canceled.
	Status   pipeline.Status
	Class    pipeline.Class
	Error    string
	Hint     string
	ExitCode int
	Output   pipeline.Output
	// Retry, when it is not negative and the attempt failed, queues another attempt after that time; the task goes on.
	// NoRetry is the other value.
	Retry time.Duration
}

// NoRetry ends the task with the attempt.
const NoRetry time.Duration = -1

// Usage is what takes up the slots, for saying why a run waits.
type Usage struct {
	// Running are the runs that go on, by app, the oldest first.
	Running map[int64][]int64
	// Attempts are those that run.
	Attempts []Key
}

// Queue hands out what is to be done. Its rows are those of runs and attempts.
type Queue interface {
	// Active returns the runs that something may have to be done about: those that go on, and those that are not over and
	// that somebody wants to end. The oldest is first.
	Active(ctx context.Context) ([]Run, error)
	// StartRun moves the oldest queued run that nobody wants to end and whose app has a place from queued to running,
	// counting in the same transaction, and returns it. It is an errs.NotFound when there is none.
	StartRun(ctx context.Context) (Run, error)
	// Claim moves the attempt that has been queued for longest, of a run that goes on and that nobody wants to end, to
	// running, its task with it, as long as there are slots. It is an errs.NotFound when there is nothing to claim.
	Claim(ctx context.Context, o ClaimOptions) (Attempt, error)
	// Adopt takes a running attempt over from whoever held it at k.Epoch, and returns the key with the new epoch.
	Adopt(ctx context.Context, k Key, o ClaimOptions) (Key, error)
	// Renew extends the leases of attempts. It returns those that are held by somebody else by now, or are over; their
	// holder stops working on them. A lease that has passed is renewed as long as nobody took it.
	Renew(ctx context.Context, lease time.Duration, keys []Key) (lost []Key, err error)
	// Held returns all attempts that run.
	Held(ctx context.Context) ([]Held, error)
	// Finish ends an attempt, and its task with it unless the result says to retry. It is an errs.Conflict when k.Epoch
	// is not the current one, or the attempt is over.
	Finish(ctx context.Context, k Key, r Result, out ...Message) error
	// Usage returns what takes up the slots.
	Usage(ctx context.Context) (Usage, error)
}
