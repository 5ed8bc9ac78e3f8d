package pipeline

import "time"

// Run is one execution of a pipeline, happening or over.
type Run struct {
	Name       string
	Status     Status
	StartedAt  time.Time
	FinishedAt time.Time
	// Tasks in the order of the pipeline's.
	Tasks []TaskRun
}

// TaskRun is one task of a Run. Times are zero as long as the task has not started, or ended.
type TaskRun struct {
	Name       string
	Status     Status
	StartedAt  time.Time
	FinishedAt time.Time
	// Attempts is how often it was tried; 0 when it never started.
	Attempts int
	// Class says whose failure it was; empty when there was none.
	Class Class
	// ExitCode is that of the command that made the task fail, when it was a command.
	ExitCode int
	// Reason says why the task was skipped or never started.
	Reason string
	// Err is why it failed.
	Err    error
	Output Output
}

// Output is what a task leaves behind.
type Output struct {
	// Image is the reference the image was pushed to, Digest what it was pushed as.
	Image, Digest string
	// Also are further references to the same.
	Also []string
	// Accelerated are images made of it that need not be fetched whole.
	Accelerated []Image
	// Steps are the task's steps and what became of them, in the order they came to their end.
	Steps []Step
}

// Image is a reference and what it named when it was pushed.
type Image struct{ Ref, Digest string }

// EventKind says what an Event tells.
type EventKind string

// The kinds of Event. A task's Log, Notice and Detail events come between its TaskStarted and its TaskFinished; a task
// that never starts has a TaskFinished alone.
const (
	RunStarted   EventKind = "run-started"
	RunFinished  EventKind = "run-finished"
	TaskStarted  EventKind = "task-started"
	TaskFinished EventKind = "task-finished"
	// StepStarted and StepFinished frame what a step tells, for tasks that have steps. A step that never starts has a
	// StepFinished alone.
	StepStarted  EventKind = "step-started"
	StepFinished EventKind = "step-finished"
	// Log is a line the task wrote.
	Log EventKind = "log"
	// Notice is a sentence from slipway to the user.
	Notice EventKind = "notice"
	// Detail carries an event of the engine below the task in Event.Detail.
	Detail EventKind = "detail"
)

// Event is one thing that happens in a run. Which fields are set depends on the kind.
type Event struct {
	Kind EventKind
	Time time.Time
	// Task is empty for events of the run as a whole.
	Task   string
	Status Status
	// Step is whose event it is, with the status it is in; nil for events of the task as a whole.
	Step *Step
	// Text is a log line or a notice, without a line break, or why a task or a step was skipped or failed.
	Text string
	// Stream is where a log line comes from: 1 is a command's standard output, 2 its standard error, 0 slipway itself.
	Stream int
	Output Output
	// Detail is an event of the engine below, such as a build step's progress. A reader that does not know its type
	// ignores it: whatever matters is told by the other kinds too.
	Detail any
}
