// Package runnertest is the contract of pipeline.Runner as a test suite. A runner passes it with a worker that plays
// the scripts of package fake.
package runnertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

// Worker is the preset worker that a runner under test must have: the one that plays scripts.
const Worker = "fake"

// Attempt returns an attempt whose task plays a script, given as keys and values.
func Attempt(timeout time.Duration, script ...string) pipeline.Attempt {
	members := &pipeline.Value{Kind: pipeline.Map}
	for i := 0; i+1 < len(script); i += 2 {
		value := &pipeline.Value{Kind: pipeline.String, Text: script[i+1]}
		if script[i] == "log" {
			value = &pipeline.Value{Kind: pipeline.List, Items: []*pipeline.Value{value}}
		}
		members.Members = append(members.Members, pipeline.Member{Key: script[i], Value: value})
	}
	environment := pipeline.DefaultEnvironment()
	environment.Timeout = timeout
	return pipeline.Attempt{Run: "run", Task: pipeline.Task{
		Name: "task", Template: "fake-task", Worker: Worker, Environment: environment,
		Data: &pipeline.Value{Kind: pipeline.Map, Members: []pipeline.Member{{Key: "fake", Value: members}}},
	}}
}

// Test runs the suite. newRunner returns a runner of its own for each case.
func Test(t *testing.T, newRunner func(t *testing.T) pipeline.Runner) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, pipeline.Runner){
		"success":      success,
		"exit code":    exitCode,
		"time limit":   timeLimit,
		"memory limit": memoryLimit,
		"cancel":       cancel,
		"many at once": many,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, newRunner(t)) })
		})
	}
}

func success(t *testing.T, r pipeline.Runner) {
	var lines []string
	over := false
	output, err := r.Run(t.Context(), Attempt(time.Minute, "log", "hello", "sleep", "59s", "image", "i", "digest", "d"), func(e pipeline.Event) {
		if over {
			t.Errorf("event %v after Run has returned", e)
		}
		if e.Kind == pipeline.Log {
			lines = append(lines, e.Text)
		}
	})
	over = true
	if diff := cmp.Diff(pipeline.Output{Image: "i", Digest: "d"}, output); err != nil || diff != "" {
		t.Errorf("Run: %v; output mismatch (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"hello"}, lines); diff != "" {
		t.Errorf("log mismatch (-want +got):\n%s", diff)
	}
}

func exitCode(t *testing.T, r pipeline.Runner) {
	_, err := r.Run(t.Context(), Attempt(time.Minute, "exit", "7"), ignore)
	if exit, ok := errors.AsType[*pipeline.ExitError](err); !ok || exit.Code != 7 {
		t.Errorf("Run: %v, want an ExitError with code 7", err)
	}
}

func timeLimit(t *testing.T, r pipeline.Runner) {
	start := time.Now()
	_, err := r.Run(t.Context(), Attempt(time.Minute, "sleep", "1h"), ignore)
	limit, ok := errors.AsType[*pipeline.LimitError](err)
	if !ok || limit.Resource != "time" || !errors.Is(err, errs.Limit) || errors.Is(err, errs.Canceled) {
		t.Errorf("Run: %v, want the time limit", err)
	}
	if took := time.Since(start); took != time.Minute {
		t.Errorf("Run took %s, want 1m", took)
	}
}

func memoryLimit(t *testing.T, r pipeline.Runner) {
	_, err := r.Run(t.Context(), Attempt(time.Minute, "limit", "memory"), ignore)
	if limit, ok := errors.AsType[*pipeline.LimitError](err); !ok || limit.Resource != "memory" {
		t.Errorf("Run: %v, want the memory limit", err)
	}
}

func cancel(t *testing.T, r pipeline.Runner) {
	ctx, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Second, func() { stop(errs.Canceled) })
	start := time.Now()
	_, err := r.Run(ctx, Attempt(time.Hour, "sleep", "30m"), ignore)
	if !errors.Is(err, errs.Canceled) || errors.Is(err, errs.Limit) {
		t.Errorf("Run: %v, want errs.Canceled", err)
	}
	if took := time.Since(start); took != time.Second {
		t.Errorf("Run took %s, want 1s", took)
	}
}

func many(t *testing.T, r pipeline.Runner) {
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if _, err := r.Run(t.Context(), Attempt(time.Minute, "sleep", "1s"), ignore); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	group.Wait()
}

func ignore(pipeline.Event) {}
