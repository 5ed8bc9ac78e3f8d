package pipeline

import "context"

// Attempt is one try of one task.
type Attempt struct {
	// Run is the run's name.
	Run  string
	Task Task
	// Number counts the tries from 1.
	Number int
}

// Runner executes attempts, each in a fresh environment. Methods may be called from several goroutines at once.
type Runner interface {
	// Run executes an attempt and returns when it is over and nothing of it is left: processes, mounts, folders.
	// Canceling ctx asks the attempt to end early; Run still waits for it.
	//
	// emit is called for what the attempt tells (kinds StepStarted, StepFinished, Log, Notice, Detail), in order, never after Run has returned;
	// Runner sets neither Time nor Task. The error says why the attempt failed: an *ExitError somewhere in its chain
	// when a command ended badly, errs.Limit when it hit a limit of its environment (*LimitError), errs.Canceled or
	// the cause of ctx when it was told to end.
	Run(ctx context.Context, a Attempt, emit func(Event)) (Output, error)
}

// Worker does what a task template promises. Methods may be called from several goroutines at once.
type Worker interface {
	// Check reports every mistake in the part of a task's context that the worker reads. It does no I/O.
	Check(t *Task, report Report)
	// Work does the task. What it starts is over when it returns. Errors are as Runner.Run has them.
	Work(ctx context.Context, job *Job) (Output, error)
}

// Job is what a runner gives to a Worker.
type Job struct {
	// Run is the run's name, Attempt the number of the try.
	Run     string
	Attempt int
	Task    *Task
	// Environment is what the task got, after mapping mounts to folders and scaling limits to the machine.
	Environment Environment
	// Dir is an empty folder that the runner removes afterwards.
	Dir    string
	Source Source
	// Emit tells what happens: kinds StepStarted, StepFinished, Log, Notice, Detail.
	Emit func(Event)
}

// Notice tells the user something.
func (j *Job) Notice(text string) { j.Emit(Event{Kind: Notice, Text: text}) }

// Source is the repository that a run is about, at its commit.
type Source interface {
	// Checkout writes the commit's files into dir, an empty folder. Each task gets its own.
	Checkout(ctx context.Context, dir string) error
}
