// Package approval is the worker behind need-approval: a task that is done when a person has said yes. One who says no
// ends the pipeline.
//
// Yes may have been said before the run began, by name. All else is asked of Ask, one question at a time.
package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

// Name is the name of the preset worker.
const Name = "need-approval"

// Anything stands for every task in Options.Approved.
const Anything = "*"

// Question is what a person is asked.
type Question struct {
	// Pipeline and Task name what waits; DisplayName is the task's name for people.
	Pipeline, Task, DisplayName string
}

// Options say who approves.
type Options struct {
	// Approved names tasks that were approved beforehand, or is Anything.
	Approved []string
	// Ask puts a question to a person and returns the answer. It ends when ctx does. Default: nobody can be asked.
	Ask func(ctx context.Context, q Question) (approved bool, err error)
}

// Worker is the worker of need-approval. It is made by New.
type Worker struct {
	opts Options
	turn chan struct{} // who holds it may ask
}

var _ pipeline.Worker = (*Worker)(nil)

// New returns a worker.
func New(opts Options) *Worker {
	return &Worker{opts: opts, turn: make(chan struct{}, 1)}
}

// Check finds no mistakes: the task needs no settings.
func (*Worker) Check(*pipeline.Task, pipeline.Report) {}

// CanDecide says whether the worker will know about a task: it has the approval, or somebody to ask.
func (w *Worker) CanDecide(task string) bool { return w.approved(task) || w.opts.Ask != nil }

func (w *Worker) approved(task string) bool {
	return slices.Contains(w.opts.Approved, task) || slices.Contains(w.opts.Approved, Anything)
}

// Work waits for the decision; see pipeline.Worker.
func (w *Worker) Work(ctx context.Context, job *pipeline.Job) (pipeline.Output, error) {
	switch {
	case w.approved(job.Task.Name):
		job.Notice("approved beforehand")
		return pipeline.Output{}, nil
	case w.opts.Ask == nil:
		return pipeline.Output{}, errs.Mark(errors.New("waits for an approval, and there is nobody to ask"), errs.Invalid)
	}
	job.Notice("waits for approval")
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return pipeline.Output{}, context.Cause(ctx)
	}
	yes, err := w.opts.Ask(ctx, Question{Pipeline: job.Run, Task: job.Task.Name, DisplayName: job.Task.DisplayName()})
	switch {
	case ctx.Err() != nil:
		return pipeline.Output{}, context.Cause(ctx)
	case err != nil:
		return pipeline.Output{}, fmt.Errorf("ask for approval: %w", err)
	case !yes:
		return pipeline.Output{}, pipeline.Classify(errors.New("rejected"), pipeline.ClassUser)
	}
	job.Notice("approved")
	return pipeline.Output{}, nil
}
