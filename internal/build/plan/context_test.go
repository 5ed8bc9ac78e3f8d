package plan_test

import (
	"errors"
	"testing"

	"slipway/internal/build/plan"
	"slipway/internal/errs"
)

func TestContextName(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"busybox": "busybox", "busybox:latest": "busybox", "docker.io/library/busybox": "busybox", "busybox:1.2": "busybox:1.2",
		"ghcr.io/a/b": "ghcr.io/a/b", "a/b:latest": "a/b", "x::linux/amd64": "x::linux/amd64", "docker.io/library/x:latest::linux/arm64/v8": "x::linux/arm64",
		"my_stage.1": "my_stage.1",
	} {
		if got, err := plan.ContextName(word); got != want || err != nil {
			t.Errorf("ContextName(%q) = %q, %v, want %q", word, got, err, want)
		}
	}
	for _, word := range []string{"", "UPPER", "a b", "scratch", "context", "x::arm64", "x::"} {
		if got, err := plan.ContextName(word); !errors.Is(err, errs.Invalid) {
			t.Errorf("ContextName(%q) = %q, %v", word, got, err)
		}
	}
}
