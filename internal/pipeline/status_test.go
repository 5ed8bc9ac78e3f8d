package pipeline_test

import (
	"errors"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

func statuses() []pipeline.Status {
	return []pipeline.Status{
		pipeline.Pending, pipeline.Queued, pipeline.Running,
		pipeline.Succeeded, pipeline.Failed, pipeline.Canceled, pipeline.Skipped,
	}
}

func TestMoves(t *testing.T) {
	t.Parallel()
	legal := map[[2]pipeline.Status]bool{
		{pipeline.Pending, pipeline.Queued}:    true,
		{pipeline.Pending, pipeline.Skipped}:   true,
		{pipeline.Pending, pipeline.Canceled}:  true,
		{pipeline.Queued, pipeline.Running}:    true,
		{pipeline.Queued, pipeline.Failed}:     true,
		{pipeline.Queued, pipeline.Canceled}:   true,
		{pipeline.Running, pipeline.Succeeded}: true,
		{pipeline.Running, pipeline.Failed}:    true,
		{pipeline.Running, pipeline.Canceled}:  true,
	}
	for _, from := range statuses() {
		for _, to := range statuses() {
			got, err := from.Move(to)
			switch {
			case legal[[2]pipeline.Status{from, to}] && (err != nil || got != to):
				t.Errorf("%s to %s: %v, %s", from, to, err, got)
			case !legal[[2]pipeline.Status{from, to}] && (!errors.Is(err, errs.Conflict) || got != from):
				t.Errorf("%s to %s is allowed: %v, %s", from, to, err, got)
			}
		}
	}
}

func TestTerminalStatusesAreEnds(t *testing.T) {
	t.Parallel()
	for _, from := range statuses() {
		ends := true
		for _, to := range statuses() {
			if _, err := from.Move(to); err == nil {
				ends = false
			}
		}
		if from.Terminal() != ends || !from.Valid() {
			t.Errorf("%s: Terminal %v, no moves %v, Valid %v", from, from.Terminal(), ends, from.Valid())
		}
	}
	if pipeline.Status("done").Valid() {
		t.Error(`"done" is valid`)
	}
}
