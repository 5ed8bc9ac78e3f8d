package progress_test

import (
	"strings"
	"testing"

	"slipway/internal/build"
	"slipway/internal/cli/progress"
)

// TestReason shows why a step runs right at the step, with nothing of a stranger's file name that a terminal obeys.
func TestReason(t *testing.T) {
	t.Parallel()
	events := []build.Event{
		{Kind: build.Cached, Step: 1, Name: "[1/3] WORKDIR /src"},
		{Kind: build.Started, Step: 2, Name: "[2/3] COPY . ."},
		{Kind: build.Reason, Step: 2, Name: "[2/3] COPY . .", Text: "COPY: a\x1b[2J.go changed"},
		{Kind: build.Done, Step: 2},
	}
	want := "#1 CACHED [1/3] WORKDIR /src\n#2 [2/3] COPY . .\n#2 because COPY: a.go changed\n#2 DONE 0ms\n"
	if got := show(t, progress.Options{Mode: progress.Plain}, events); got != want {
		t.Errorf("plain = %q, want %q", got, want)
	}
	terminal := &progress.Terminal{Size: func() (columns, rows int) { return 80, 24 }}
	got := show(t, progress.Options{Mode: progress.TTY, Terminal: terminal}, events)
	if !strings.Contains(got, "[2/3] COPY . .\n   │ because COPY: a.go changed\n") {
		t.Errorf("tty = %q, want the reason below its step", got)
	}
	if got := show(t, progress.Options{Mode: progress.Quiet}, events); got != "" {
		t.Errorf("quiet = %q, want nothing", got)
	}
}
