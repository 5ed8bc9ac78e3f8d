// Package engine runs a resolved pipeline: it starts what the graph allows, records what became of it, and tells all
// of it as events.
//
//	run, err := engine.Run(ctx, p, engine.Options{Runner: runner, Emit: show, Now: time.Now})
//
// A task starts when all its predecessors have succeeded or were skipped. When one fails, those that run may finish
// and nothing else starts. Canceling the context ends what runs and keeps the rest from starting. Either way every task
// ends in a terminal status before Run returns.
//
// Package engine keeps a run in memory. It knows nothing of YAML, nor of what tasks do.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/dag"
)

// Options say how to run a pipeline.
type Options struct {
	// Runner executes the tasks. Required.
	Runner pipeline.Runner
	// Emit gets every event, one call at a time, in order; a run waits for it. Required.
	Emit func(pipeline.Event)
	// Now is the clock. Required.
	Now func() time.Time
	// Backoff is the pause after the n-th try of a task failed, n from 1. Default: 1 s, 4 s, 16 s, then a minute.
	Backoff func(n int) time.Duration
	// Parallel bounds how many tasks run at once, those without an environment aside. Default: as many as the graph allows.
	Parallel int
}

// Run runs p to its end and returns its record, which is complete however the run ended.
//
// The error tells what failed: the error of every failed task, each as "task NAME: …", or, when nothing failed and ctx
// was canceled, its cause, of kind errs.Canceled.
func Run(ctx context.Context, p *pipeline.Pipeline, opts Options) (*pipeline.Run, error) {
	if opts.Backoff == nil {
		opts.Backoff = backoff
	}
	r := &run{
		pipeline: p,
		opts:     opts,
		status:   make(map[string]pipeline.Status, len(p.Tasks)),
		index:    make(map[string]int, len(p.Tasks)),
		record:   pipeline.Run{Name: p.Name, Status: pipeline.Pending},
		done:     make(chan result),
	}
	for i := range p.Tasks {
		name := p.Tasks[i].Name
		r.index[name], r.status[name] = i, pipeline.Pending
		r.record.Tasks = append(r.record.Tasks, pipeline.TaskRun{Name: name, Status: pipeline.Pending})
	}
	r.execute(ctx)
	return &r.record, r.outcome(ctx)
}

// run is a run in progress. The goroutine that called Run owns it, but for emit, which tasks call too.
type run struct {
	pipeline *pipeline.Pipeline
	opts     Options
	record   pipeline.Run
	index    map[string]int
	status   map[string]pipeline.Status
	queue    []string // tasks that may start and wait for a place
	running  int
	placed   int // those of them that take a place
	failures []error
	illegal  error // moves the table of statuses forbids: mistakes of this package
	done     chan result

	telling sync.Mutex // one event at a time
}

// result is the end of an attempt.
type result struct {
	task     string
	output   pipeline.Output
	attempts int
	err      error
}

// backoff is the default pause: long enough for what passes to pass, and short beside a build.
func backoff(n int) time.Duration {
	if n > 3 {
		return time.Minute
	}
	return time.Second << (2 * (n - 1))
}

// execute brings every task, and then the run, to a terminal status.
func (r *run) execute(ctx context.Context) {
	r.record.StartedAt = r.opts.Now()
	r.moveRun(pipeline.Queued)
	r.moveRun(pipeline.Running)
	r.emit(pipeline.Event{Kind: pipeline.RunStarted, Status: pipeline.Running})
	for r.start(ctx); r.running > 0; r.start(ctx) {
		done := <-r.done
		r.running--
		if r.takesPlace(done.task) {
			r.placed--
		}
		r.finish(ctx, done)
	}
	r.cancelRest(ctx)
	r.record.FinishedAt = r.opts.Now()
	r.moveRun(r.summary())
	r.emit(pipeline.Event{Kind: pipeline.RunFinished, Status: r.record.Status})
}

// summary is the run's status when all its tasks are over.
func (r *run) summary() pipeline.Status {
	status := pipeline.Succeeded
	for _, task := range r.record.Tasks {
		switch task.Status {
		case pipeline.Failed:
			return pipeline.Failed
		case pipeline.Canceled:
			status = pipeline.Canceled
		}
	}
	return status
}

// start queues what is ready and starts as much of the queue as there are places. After a cancel or a failure nothing
// starts any more.
func (r *run) start(ctx context.Context) {
	if ctx.Err() != nil || len(r.failures) > 0 {
		return
	}
	for again := true; again; {
		again = r.ready()
	}
	r.queue = slices.DeleteFunc(r.queue, func(name string) bool {
		place := r.takesPlace(name)
		if place && r.opts.Parallel > 0 && r.placed >= r.opts.Parallel {
			return false
		}
		r.launch(ctx, name)
		return true
	})
}

func (r *run) takesPlace(name string) bool {
	return !r.pipeline.Tasks[r.index[name]].Environment.None()
}

// ready queues the tasks that may start, or skips them, each in its place in the graph: what runs after a skipped task
// still waits for what that task would have waited for. It reports whether a skip may have made others ready.
func (r *run) ready() bool {
	skipped := false
	for _, name := range dag.Ready(r.pipeline.Tasks, r.status) {
		if reason := r.pipeline.Tasks[r.index[name]].Skip; reason != "" {
			r.end(name, pipeline.Skipped, reason)
			skipped = true
			continue
		}
		r.move(name, pipeline.Queued)
		r.queue = append(r.queue, name)
	}
	return skipped
}

// launch tries a task in a goroutine, whose end execute waits for.
func (r *run) launch(ctx context.Context, name string) {
	r.move(name, pipeline.Running)
	r.record.Tasks[r.index[name]].StartedAt = r.opts.Now()
	r.emit(pipeline.Event{Kind: pipeline.TaskStarted, Task: name, Status: pipeline.Running})
	attempt := pipeline.Attempt{Run: r.pipeline.Name, Task: r.pipeline.Tasks[r.index[name]]}
	r.running++
	if r.takesPlace(name) {
		r.placed++
	}
	go func() { r.done <- r.try(ctx, attempt) }()
}

// try makes attempts until one ends otherwise than by a failure of the infrastructure, or the retries are used up. Each
// gets a fresh environment and the whole of its time limit.
func (r *run) try(ctx context.Context, a pipeline.Attempt) result {
	emit := func(e pipeline.Event) {
		e.Task = a.Task.Name
		r.emit(e)
	}
	for {
		a.Number++
		output, err := r.opts.Runner.Run(ctx, a, emit)
		if a.Number > a.Task.Retries || ctx.Err() != nil || pipeline.ClassOf(err) != pipeline.ClassInfrastructure {
			return result{a.Task.Name, output, a.Number, err}
		}
		pause := r.opts.Backoff(a.Number)
		emit(pipeline.Event{Kind: pipeline.Notice, Text: fmt.Sprintf("try %d of %d failed, the next is in %s: %v", a.Number, a.Task.Retries+1, pause, err)})
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return result{a.Task.Name, output, a.Number, context.Cause(ctx)}
		}
	}
}

func (r *run) finish(ctx context.Context, done result) {
	task := &r.record.Tasks[r.index[done.task]]
	task.Output, task.Err, task.Attempts = done.output, done.err, done.attempts
	task.ExitCode, _ = pipeline.ExitCode(done.err)
	task.Class = pipeline.ClassOf(done.err)
	switch {
	case done.err == nil:
		r.end(done.task, pipeline.Succeeded, "")
	case canceled(ctx, done.err):
		task.Class = pipeline.ClassCanceled
		r.end(done.task, pipeline.Canceled, "the run was canceled")
	default:
		r.failures = append(r.failures, fmt.Errorf("task %s: %w", done.task, done.err))
		r.end(done.task, pipeline.Failed, done.err.Error())
	}
}

// canceled tells a task that ended because it was told to from one that failed while it was being told.
func canceled(ctx context.Context, err error) bool {
	return ctx.Err() != nil &&
		(errors.Is(err, errs.Canceled) || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}

// cancelRest ends the tasks that never started; those that would have been skipped are.
func (r *run) cancelRest(ctx context.Context) {
	reason := "not started: another task failed"
	if ctx.Err() != nil {
		reason = "not started: the run was canceled"
	}
	for i := range r.record.Tasks {
		task := &r.record.Tasks[i]
		switch skip := r.pipeline.Tasks[i].Skip; {
		case task.Status.Terminal():
		case skip != "":
			r.end(task.Name, pipeline.Skipped, skip)
		default:
			r.end(task.Name, pipeline.Canceled, reason)
		}
	}
}

// end brings a task to a terminal status and tells so.
func (r *run) end(name string, status pipeline.Status, reason string) {
	task := &r.record.Tasks[r.index[name]]
	r.move(name, status)
	task.Reason = reason
	if !task.StartedAt.IsZero() {
		task.FinishedAt = r.opts.Now()
	}
	r.emit(pipeline.Event{Kind: pipeline.TaskFinished, Task: name, Status: status, Text: reason, Output: task.Output})
}

func (r *run) move(name string, to pipeline.Status) {
	task := &r.record.Tasks[r.index[name]]
	status, err := task.Status.Move(to)
	if err != nil {
		r.illegal = errors.Join(r.illegal, fmt.Errorf("[bug] task %s: %w", name, err))
	}
	task.Status, r.status[name] = status, status
}

func (r *run) moveRun(to pipeline.Status) {
	status, err := r.record.Status.Move(to)
	if err != nil {
		r.illegal = errors.Join(r.illegal, fmt.Errorf("[bug] run %s: %w", r.pipeline.Name, err))
	}
	r.record.Status = status
}

func (r *run) emit(e pipeline.Event) {
	r.telling.Lock()
	defer r.telling.Unlock()
	e.Time = r.opts.Now()
	r.opts.Emit(e)
}

// outcome is what Run returns for a run that is over.
func (r *run) outcome(ctx context.Context) error {
	switch {
	case r.illegal != nil:
		return r.illegal
	case len(r.failures) > 0:
		return errors.Join(r.failures...)
	case r.record.Status == pipeline.Canceled:
		return errs.Mark(fmt.Errorf("run %s: %w", r.pipeline.Name, context.Cause(ctx)), errs.Canceled)
	default:
		return nil
	}
}
