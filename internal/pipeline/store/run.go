package store

import (
	"context"
	"time"

	"slipway/internal/pipeline"
)

// Run is one execution of an app's pipeline.
type Run struct {
	ID    int64
	AppID int64
	App   string // the app's name
	// Name is the pipeline's, with <% %> evaluated.
	Name   string
	Status pipeline.Status
	// Class and Reason say why it did not succeed.
	Class  pipeline.Class
	Reason string
	Cause  Cause
	Commit Commit
	// Parent is the run that this one repeats, 0 for none; Mode is how.
	Parent int64
	Mode   Repeat
	// Cancel is set when somebody wants the run to end.
	Cancel                           *Cancel
	CreatedAt, StartedAt, FinishedAt time.Time
	// Seq is the number of the run's last event.
	Seq int64
}

// Cause says what made a run.
type Cause struct {
	// Kind is "manual", "push", "tag", "pull_request", "schedule" or "repeat".
	Kind string
	// Actor is who did it: a token's name, or the forge's name of a user.
	Actor string
	// Delivery is the id of the webhook delivery, 0 for none.
	Delivery int64
}

// Commit is the commit that a run works on.
type Commit struct {
	ID, Branch, Tag, Message, Author string
}

// Repeat says which tasks a run takes over from its parent.
type Repeat string

// The ways to repeat a run. All takes nothing over; Failed takes over what succeeded; One takes over everything that
// succeeded but the named task and what runs after it.
const (
	RepeatAll    Repeat = "all"
	RepeatFailed Repeat = "failed"
	RepeatTask   Repeat = "task"
)

// Cancel is a wish that a run ends.
type Cancel struct {
	By, Reason string
	// Class is ClassCanceled or ClassSuperseded.
	Class pipeline.Class
	// Successor is the run that supersedes it.
	Successor int64
	At        time.Time
}

// Spec is what a run needs to be repeated exactly. No value of a secret is in it.
type Spec struct {
	// Written is the pipeline file as written, Resolved what came of it, encoded (Encode).
	Written, Resolved string
	// Variables are the values of <% %> and of the app's variables.
	Variables map[string]string
	// Secrets are the versions of the secrets that its tasks get.
	Secrets []SecretVersion
}

// NewRun is a run to be made.
type NewRun struct {
	AppID  int64
	Name   string
	Cause  Cause
	Commit Commit
	Spec   Spec
	Parent int64
	Mode   Repeat
	Tasks  []NewTask
	// Supersede asks older runs of the same app and branch that are not over to end, in the same transaction.
	Supersede bool
	Outbox    []Message
}

// NewTask is a task of a run to be made.
type NewTask struct {
	Name, DisplayName, Template string
	// After names the tasks that it runs after, for display; the resolved pipeline decides.
	After []string
	// Gate says that no attempt is made: a person decides (Decide).
	Gate bool
	// Done is set for what is taken over from another run: the task begins as succeeded, with Output.
	Done   bool
	From   int64 // the run it is taken over from
	Output pipeline.Output
}

// Task is one task of a run.
type Task struct {
	Run                         int64
	Position                    int
	Name, DisplayName, Template string
	After                       []string
	Gate                        bool
	Status                      pipeline.Status
	Class                       pipeline.Class
	Reason                      string
	// Attempts is how many there have been, or are queued.
	Attempts int
	ExitCode int
	Output   pipeline.Output
	// From is the run that the task was taken over from, 0 when it ran here.
	From int64
	// Decision is who decided on a gate, and when.
	Decision                        *Decision
	QueuedAt, StartedAt, FinishedAt time.Time
}

// Decision is what a person decided about a gate.
type Decision struct {
	Approved    bool
	By, Comment string
	At          time.Time
}

// Move takes a task, or the run itself when Task is empty, from one status to another.
type Move struct {
	Task     string
	From, To pipeline.Status
	Class    pipeline.Class
	Reason   string
}

// Event is something that happened in a run. Seq counts from 1 without a gap.
type Event struct {
	// ID orders the events of all runs.
	ID   int64
	Run  int64
	Seq  int64
	At   time.Time
	Kind EventKind
	// Task and Attempt are empty for what concerns the run as a whole.
	Task    string
	Attempt int
	Data    EventData
}

// EventData is what an event tells, as far as its kind has it.
type EventData struct {
	Status pipeline.Status `json:"status,omitempty"`
	Class  pipeline.Class  `json:"class,omitempty"`
	Text   string          `json:"text,omitempty"`
	Actor  string          `json:"actor,omitempty"`
	Image  string          `json:"image,omitempty"`
	Digest string          `json:"digest,omitempty"`
	// RetryAt is when a failed attempt is followed by the next.
	RetryAt *time.Time `json:"retryAt,omitempty"`
	// Other is another run that is part of this: the parent of a repetition, the successor of a superseded run.
	Other int64 `json:"other,omitempty"`
}

// EventKind says what an Event tells.
type EventKind string

// The kinds of event.
const (
	RunCreated      EventKind = "run-created"
	RunStatus       EventKind = "run-status"
	CancelRequested EventKind = "cancel-requested"
	TaskStatus      EventKind = "task-status"
	AttemptStarted  EventKind = "attempt-started"
	AttemptAdopted  EventKind = "attempt-adopted"
	AttemptFinished EventKind = "attempt-finished"
	Decided         EventKind = "decided"
	Noticed         EventKind = "notice"
)

// RunFilter selects runs. The zero value selects the newest of all.
type RunFilter struct {
	// App is an app's name; Apps, when not nil, are the names of those that may be seen.
	App    string
	Apps   []string
	Status []pipeline.Status
	Branch string
	// Before selects runs with smaller IDs, for the next page.
	Before int64
	// Limit bounds the answer. Default: 50.
	Limit int
}

// RunStore keeps runs.
type RunStore interface {
	// CreateRun adds a run with status queued and its tasks, pending or done.
	CreateRun(ctx context.Context, r NewRun) (Run, error)
	// Run returns a run.
	Run(ctx context.Context, id int64) (Run, error)
	// Runs returns runs, the newest first.
	Runs(ctx context.Context, f RunFilter) ([]Run, error)
	// Spec returns what the run is made of.
	Spec(ctx context.Context, id int64) (Spec, error)
	// Tasks returns a run's tasks in the order of the pipeline.
	Tasks(ctx context.Context, run int64) ([]Task, error)
	// Attempts returns the attempts of a run's task, or of all when task is empty, the oldest first.
	Attempts(ctx context.Context, run int64, task string) ([]Attempt, error)

	// Apply makes the moves, all or none. A task that moves to queued gets its first attempt queued with it, unless it is
	// a gate; one that moves to canceled takes its queued attempts with it. A move that the table of statuses forbids is
	// an errs.Conflict, as is a status that is not the one named, and an end of a run whose tasks are not over.
	Apply(ctx context.Context, run int64, moves []Move, out ...Message) error
	// RequestCancel asks a run to end. It is an errs.Conflict when the run is over; a second request changes nothing.
	RequestCancel(ctx context.Context, run int64, c Cancel) error
	// Decide decides on a gate that is queued: it succeeds or fails. Anything else is an errs.Conflict.
	Decide(ctx context.Context, run int64, task string, d Decision, out ...Message) error
	// Notice appends an event of kind Noticed.
	Notice(ctx context.Context, run int64, task string, attempt int, text string) error

	// Events returns up to limit events of a run with a Seq greater than after, in order.
	Events(ctx context.Context, run, after int64, limit int) ([]Event, error)
	// Feed returns up to limit events of all runs with an ID greater than after, in order; LastEvent the greatest ID.
	Feed(ctx context.Context, after int64, limit int) ([]Event, error)
	LastEvent(ctx context.Context) (int64, error)

	// Expendable returns the finished runs that an app no longer keeps, the oldest first: beyond the newest keep, or
	// finished for longer than age. Zero is no bound.
	Expendable(ctx context.Context, app int64, keep int, age time.Duration, limit int) ([]int64, error)
	// DeleteRun removes a run that is over. It is an errs.Conflict when it is not.
	DeleteRun(ctx context.Context, id int64) error
}
