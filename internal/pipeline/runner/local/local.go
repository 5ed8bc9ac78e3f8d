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
	"path/filepath"
	"strings"
	"sync"

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
	// NAS maps network folders, SERVER:/PATH, to folders of this machine. A path below one is found below its folder.
	NAS map[string]string
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
	dir, err := os.MkdirTemp(r.opts.Dir, "task-")
	if err != nil {
		return pipeline.Output{}, fmt.Errorf("make the task's folder: %w", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(dir); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove the task's folder: %w", removeErr))
		}
	}()
	job := &pipeline.Job{Run: a.Run, Attempt: a.Number, Task: &a.Task, Environment: environment, Dir: dir, Source: r.opts.Source, Emit: emit}
	return work(ctx, worker, job)
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

// environment maps and scales what the task asks for.
func (r *Runner) environment(t *pipeline.Task, emit func(pipeline.Event)) pipeline.Environment {
	env, notices := t.Environment.Fit(r.opts.Machine)
	env.Mounts = nil
	for _, m := range t.Environment.Mounts {
		m.Folder = r.folder(m.Server)
		env.Mounts = append(env.Mounts, m)
	}
	if len(env.Hosted) > 0 {
		notices = append(notices, fmt.Sprintf("%s: ignored, this machine has no use for %s", env.Source(), list(env.Hosted)))
	}
	for _, text := range notices {
		if r.once(text) {
			emit(pipeline.Event{Kind: pipeline.Notice, Text: text})
		}
	}
	return env
}

func list(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

func (r *Runner) once(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said[text] {
		return false
	}
	r.said[text] = true
	return true
}

// folder finds the folder that stands for a network folder: its own, or one below that of a folder it lies in. It is
// empty when there is none.
func (r *Runner) folder(server string) string {
	host, share, ok := strings.Cut(server, ":")
	if !ok {
		return ""
	}
	share = filepath.Clean("/" + share)
	for above := share; ; above = filepath.Dir(above) {
		for _, key := range []string{host + ":" + above, host + ":" + above + "/"} {
			if dir, ok := r.opts.NAS[key]; ok {
				return filepath.Join(dir, strings.TrimPrefix(share, above))
			}
		}
		if above == "/" {
			return ""
		}
	}
}
