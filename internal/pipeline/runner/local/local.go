// Package local executes attempts in this process: it makes the environment that a task asks for out of what this
// machine has, and lets the task template's worker do the task in it.
//
// An environment is a fresh folder, limits scaled down to the machine, and network folders mapped to folders of this
// machine. The time limit is enforced here; memory, CPU and disk by the worker, which knows its processes.
package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

// Options say what a Runner has to offer.
type Options struct {
	// Workers do the tasks, by the name of the preset worker. Required.
	Workers map[string]pipeline.Worker
	// Source is the repository the run is about. Required by workers that check it out.
	Source pipeline.Source
	// Dir is the folder in which each attempt gets one of its own. Default: the system's folder for temporary files.
	Dir string
	// Machine is what the machine has; limits beyond it are scaled down. Default: unknown, nothing is scaled.
	Machine pipeline.Machine
	// NAS maps network folders, SERVER:/PATH, to folders of this machine. A path below one is found below its folder. The
	// word "nfs", or "nfs:OPTIONS", mounts the share itself.
	NAS map[string]string
	// MountDir is where shares are mounted, each below it. Required for NAS that are.
	MountDir string
	// Networks says what networks and regions of the hosted system are here, "host" or "none", by VPC or region.
	Networks map[string]string
	// Logs has the log stores that go somewhere, by PROJECT/LOGSTORE or PROJECT; what becomes of them is its owner's.
	Logs map[string]string
	// Kept is the folder in which environments are kept whose task says debugMode, and KeepFor how long. Default: none are.
	Kept    string
	KeepFor time.Duration
	// Now is the clock. Required with Kept.
	Now func() time.Time
}

// Runner executes attempts in this process.
type Runner struct {
	opts Options

	mu   sync.Mutex
	said map[string]bool // notices, which are about the machine, are told once
}

var _ pipeline.Runner = (*Runner)(nil)

// New returns a runner.
func New(opts Options) *Runner { return &Runner{opts: opts, said: map[string]bool{}} }

// Run executes an attempt; see pipeline.Runner.
func (r *Runner) Run(ctx context.Context, a pipeline.Attempt, emit func(pipeline.Event)) (_ pipeline.Output, err error) {
	worker, ok := r.opts.Workers[a.Task.Worker]
	if !ok {
		return pipeline.Output{}, errs.Mark(fmt.Errorf("no worker for the task template %s", a.Task.Template), errs.Invalid)
	}
	environment := r.environment(&a.Task, emit)
	unmount, err := r.mount(ctx, &environment)
	if err != nil {
		return pipeline.Output{}, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	dir, done, err := r.folderFor(&a.Task, emit)
	if err != nil {
		return pipeline.Output{}, fmt.Errorf("make the task's folder: %w", err)
	}
	defer func() { err = errors.Join(err, done()) }()
	job := &pipeline.Job{Run: a.Run, Attempt: a.Number, Task: &a.Task, Environment: environment, Dir: dir, Source: r.opts.Source, Emit: emit}
	return work(ctx, worker, job)
}

// folderFor makes an attempt's folder. done removes it, or says how to enter it when it is kept.
func (r *Runner) folderFor(t *pipeline.Task, emit func(pipeline.Event)) (dir string, done func() error, err error) {
	if t.Environment.Debug && r.opts.Kept != "" {
		dir, until, err := Keep(r.opts.Kept, t.Name, r.opts.Now().Add(r.opts.KeepFor))
		return dir, func() error {
			text := "debugMode: the environment is kept until " + until.Format(time.RFC3339) + ", enter it with: cd " + dir
			emit(pipeline.Event{Kind: pipeline.Notice, Text: text})
			return nil
		}, err
	}
	dir, err = os.MkdirTemp(r.opts.Dir, "task-")
	return dir, func() error {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the task's folder: %w", err)
		}
		return nil
	}, err
}

// work lets the worker work for as long as the environment allows.
func work(ctx context.Context, worker pipeline.Worker, job *pipeline.Job) (pipeline.Output, error) {
	if job.Environment.Timeout <= 0 {
		return worker.Work(ctx, job)
	}
	limit := job.Environment.TimeLimit()
	timed, cancel := context.WithTimeoutCause(ctx, job.Environment.Timeout, limit)
	defer cancel()
	output, err := worker.Work(timed, job)
	if err != nil && errors.Is(context.Cause(timed), limit) {
		err = limit
	}
	return output, explain(err, &job.Environment)
}

// explain completes an error about a limit: who set it, and what to change.
func explain(err error, env *pipeline.Environment) error {
	if !errors.Is(err, errs.Limit) {
		return err
	}
	limit, ok := errors.AsType[*pipeline.LimitError](err)
	if !ok && errs.HintOf(err) != "" {
		return err // the worker knew whose limit it was
	}
	if !ok {
		return errs.Hint(fmt.Errorf("%w (in %s)", err, env.Source()), env.Advice(""))
	}
	if limit.Source == "" {
		limit.Source = env.Source()
	}
	return errs.Hint(err, env.Advice(limit.Resource))
}
