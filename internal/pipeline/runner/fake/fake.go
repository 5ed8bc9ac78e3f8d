// Package fake is a runner, and a worker, that do what a task's context tells them: the stand-in for real work in tests
// of whatever drives tasks.
//
// The script is the map `fake` in context.data:
//
//	fake: {sleep: 3s, log: [a, b], exit: 1, error: text, class: user, limit: memory, image: REF, digest: SHA, stubborn: true}
//
// In order: it logs, sleeps, and ends with the exit code, the error of that class, the limit, or success with the output. A
// stubborn task does not listen to being canceled. With `until: 3` it fails in the tries before the third alone.
package fake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"slipway/internal/pipeline"
)

// Worker does what the context says.
type Worker struct{}

var _ pipeline.Worker = Worker{}

// Check finds no mistakes.
func (Worker) Check(*pipeline.Task, pipeline.Report) {}

// Work plays the script.
func (Worker) Work(ctx context.Context, job *pipeline.Job) (pipeline.Output, error) {
	return play(ctx, job.Task, job.Attempt, job.Emit)
}

// Runner plays scripts, within the time limit of the task's environment.
type Runner struct{}

var _ pipeline.Runner = Runner{}

// Run plays the script; see pipeline.Runner.
func (Runner) Run(ctx context.Context, a pipeline.Attempt, emit func(pipeline.Event)) (pipeline.Output, error) {
	if a.Task.Environment.Timeout <= 0 {
		return play(ctx, &a.Task, a.Number, emit)
	}
	limit := a.Task.Environment.TimeLimit()
	timed, cancel := context.WithTimeoutCause(ctx, a.Task.Environment.Timeout, limit)
	defer cancel()
	output, err := play(timed, &a.Task, a.Number, emit)
	if err != nil && errors.Is(context.Cause(timed), limit) {
		err = limit
	}
	return output, err
}

func play(ctx context.Context, t *pipeline.Task, attempt int, emit func(pipeline.Event)) (pipeline.Output, error) {
	script := t.Data.Get("fake")
	for _, line := range script.Get("log").Strings() {
		emit(pipeline.Event{Kind: pipeline.Log, Text: line})
	}
	if err := sleep(ctx, script); err != nil {
		return pipeline.Output{}, err
	}
	if until, ok := script.Get("until").Int(); ok && attempt >= int(until) {
		return pipeline.Output{}, nil
	}
	if code, ok := script.Get("exit").Int(); ok && code != 0 {
		return pipeline.Output{}, &pipeline.ExitError{Code: int(code), Err: fmt.Errorf("exit status %d", code)}
	}
	if text := script.Get("error").String(); text != "" {
		return pipeline.Output{}, pipeline.Classify(errors.New(text), class(script))
	}
	if resource := script.Get("limit").String(); resource != "" {
		return pipeline.Output{}, &pipeline.LimitError{Resource: resource, Limit: "1 GB", Source: t.Environment.Source()}
	}
	return pipeline.Output{Image: script.Get("image").String(), Digest: script.Get("digest").String()}, nil
}

func class(script *pipeline.Value) pipeline.Class {
	if c := script.Get("class").String(); c != "" {
		return pipeline.Class(c)
	}
	return pipeline.ClassUser
}

func sleep(ctx context.Context, script *pipeline.Value) error {
	text := script.Get("sleep").String()
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("play sleep: %w", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	if script.Get("stubborn").Bool() {
		<-timer.C
		return nil
	}
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
