package errs_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"slipway/internal/errs"
)

func TestMarkKeepsTextAndChain(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("pull: %w", errs.Mark(io.ErrUnexpectedEOF, errs.Unavailable))
	if got, want := err.Error(), "pull: unexpected EOF"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, errs.Unavailable) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v lost its kind or its cause", err)
	}
	if errs.Mark(nil, errs.Denied) != nil {
		t.Error("Mark(nil) is not nil")
	}
}

func TestHintOf(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("push: %w", errs.Hint(errs.Denied, "docker login ghcr.io"))
	if got := errs.HintOf(err); got != "docker login ghcr.io" {
		t.Errorf("HintOf = %q", got)
	}
	if got, want := err.Error(), "push: denied"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if errs.HintOf(io.EOF) != "" {
		t.Error("a plain error has a hint")
	}
}
