package pipeline_test

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

func TestClassOf(t *testing.T) {
	t.Parallel()
	git := exec.CommandContext(t.Context(), "false").Run()
	if _, ok := errors.AsType[*exec.ExitError](git); !ok {
		t.Fatalf("false: %v", git)
	}
	for _, tt := range []struct {
		name string
		err  error
		want pipeline.Class
	}{
		{"nothing", nil, ""},
		{"a command", &pipeline.ExitError{Code: 1, Err: errors.New("exit status 1")}, pipeline.ClassUser},
		{"a command that a limit killed", fmt.Errorf("%w: %w", &pipeline.LimitError{Resource: "memory"}, &pipeline.ExitError{Code: 137, Err: errors.New("killed")}), pipeline.ClassLimit},
		{"the time limit", &pipeline.LimitError{Resource: "time"}, pipeline.ClassTimeout},
		{"a full disk", errs.Mark(errors.New("no space"), errs.Limit), pipeline.ClassLimit},
		{"an interrupt", fmt.Errorf("push: %w", errs.Canceled), pipeline.ClassCanceled},
		{"a registry that is down", fmt.Errorf("push: %w", errs.Unavailable), pipeline.ClassInfrastructure},
		{"a registry that lies", errs.Corrupt, pipeline.ClassInfrastructure},
		{"no rights", errs.Denied, pipeline.ClassConfiguration},
		{"no such image", errs.NotFound, pipeline.ClassConfiguration},
		{"a tag that must not move", errs.Exists, pipeline.ClassConfiguration},
		{"a mistake in a file", errs.Invalid, pipeline.ClassConfiguration},
		{"a program of slipway's own", fmt.Errorf("git fetch: %w", git), pipeline.ClassInfrastructure},
		{"something unforeseen", errors.New("odd"), pipeline.ClassInfrastructure},
		{"what somebody knows better", fmt.Errorf("ask: %w", pipeline.Classify(errors.New("rejected"), pipeline.ClassUser)), pipeline.ClassUser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := pipeline.ClassOf(tt.err); got != tt.want {
				t.Errorf("ClassOf(%v) = %q, want %q", tt.err, got, tt.want)
			}
		})
	}
	if pipeline.Classify(nil, pipeline.ClassUser) != nil {
		t.Error("Classify(nil) is an error")
	}
	if code, ok := pipeline.ExitCode(git); ok {
		t.Errorf("ExitCode of a program of slipway's own is %d", code)
	}
}
