package progress_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/cli/progress"
	"slipway/internal/errs"
)

// story is a build of four steps in which the third fails. Its events are a second apart.
func story() []build.Event {
	events := []build.Event{
		{Kind: build.Note, Text: "Found manifest at /cache/sha256:1"},
		{Kind: build.Started, Step: 1, Name: "[base] FROM debian"},
		{Kind: build.Progress, Step: 1, Bytes: 1_000_000, Total: 38_000_000},
		{Kind: build.Cached, Step: 2, Name: "[build 1/3] COPY . ."},
		{Kind: build.Done, Step: 1, Took: 2 * time.Second},
		{Kind: build.Started, Step: 3, Name: "[build 2/3] RUN make"},
		{Kind: build.Log, Step: 3, Text: "cc \x1b[31mmain.c\x1b[0m", Stream: 1},
		{Kind: build.Warning, Text: "Dockerfile:3:1: an empty line in a continuation"},
		{Kind: build.Log, Step: 3, Text: "main.c:1: no such thing", Stream: 2},
		{Kind: build.Failed, Step: 3, Took: 63 * time.Second, Text: "exit status 2"},
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range events {
		events[i].Time = start.Add(time.Duration(i) * time.Second)
	}
	return events
}

func show(t *testing.T, o progress.Options, events []build.Event) string {
	t.Helper()
	var out bytes.Buffer
	o.Out = &out
	d, err := progress.New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	for _, e := range events {
		d.Event(e)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return out.String()
}

func TestPlain(t *testing.T) {
	t.Parallel()
	want := `Found manifest at /cache/sha256:1
#1 [base] FROM debian
#2 CACHED [build 1/3] COPY . .
#1 DONE 2.0s
#3 [build 2/3] RUN make
#3 1.000 cc main.c
warning: Dockerfile:3:1: an empty line in a continuation
#3 3.000 main.c:1: no such thing
#3 FAILED 1m03s exit status 2
`
	for _, mode := range []progress.Mode{progress.Plain, progress.Auto, progress.TTY, ""} {
		// Without a terminal the live view is plain, too.
		if diff := cmp.Diff(want, show(t, progress.Options{Mode: mode}, story())); diff != "" {
			t.Errorf("mode %q mismatch (-want +got):\n%s", mode, diff)
		}
	}
}

func TestPlainTellsOfLongTransfers(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	events := []build.Event{{Kind: build.Started, Step: 1, Name: "push", Time: start}}
	for i := range 25 {
		events = append(events, build.Event{
			Kind: build.Progress, Step: 1, Bytes: int64(i) * 1e6, Total: 24e6, Time: start.Add(time.Duration(i) * time.Second),
		})
	}
	want := "#1 push\n#1 10.0 MB / 24.0 MB\n#1 20.0 MB / 24.0 MB\n"
	if diff := cmp.Diff(want, show(t, progress.Options{Mode: progress.Plain}, events)); diff != "" {
		t.Errorf("mismatch (-want +got):\n%s", diff)
	}
}

func TestQuiet(t *testing.T) {
	t.Parallel()
	want := "[build 2/3] RUN make\n  cc main.c\n  main.c:1: no such thing\n"
	if diff := cmp.Diff(want, show(t, progress.Options{Mode: progress.Quiet}, story())); diff != "" {
		t.Errorf("mismatch (-want +got):\n%s", diff)
	}
}

func TestQuietKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	events := []build.Event{{Kind: build.Started, Step: 1, Name: "RUN"}}
	for range 1000 {
		events = append(events, build.Event{Kind: build.Log, Step: 1, Text: "early"})
	}
	for range 30 {
		events = append(events, build.Event{Kind: build.Log, Step: 1, Text: "late"})
	}
	events = append(events, build.Event{Kind: build.Failed, Step: 1})
	want := "RUN\n" + strings.Repeat("  late\n", 30)
	if diff := cmp.Diff(want, show(t, progress.Options{Mode: progress.Quiet}, events)); diff != "" {
		t.Errorf("mismatch (-want +got):\n%s", diff)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	var got []build.Event
	dec := json.NewDecoder(strings.NewReader(show(t, progress.Options{Mode: progress.JSON}, story())))
	for dec.More() {
		var e build.Event
		if err := dec.Decode(&e); err != nil {
			t.Fatalf("decode: %v", err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(story(), got); diff != "" {
		t.Errorf("events mismatch (-want +got):\n%s", diff)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	var text, lines bytes.Buffer
	for _, o := range []progress.Options{{Mode: progress.Plain, Out: &text}, {Mode: progress.JSON, Out: &lines}} {
		d, err := progress.New(o)
		if err != nil {
			t.Fatalf("New: %v", err)
		}
		d.Scope("image")(build.Event{Kind: build.Started, Step: 1, Name: "[build 1/1] RUN make"})
		d.Scope("warm")(build.Event{Kind: build.Cached, Step: 1, Name: "debian"})
		d.Scope("image")(build.Event{Kind: build.Done, Step: 1})
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	want := "#1 [image: build 1/1] RUN make\n#2 CACHED [warm] debian\n#1 DONE 0ms\n"
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("plain mismatch (-want +got):\n%s", diff)
	}
	if got := strings.Count(lines.String(), `"task":"image"`); got != 2 {
		t.Errorf("json has task image on %d lines, want 2:\n%s", got, lines.String())
	}
}

func TestUnknownMode(t *testing.T) {
	t.Parallel()
	if _, err := progress.New(progress.Options{Mode: "loud"}); !errors.Is(err, errs.Invalid) {
		t.Errorf("New with mode loud: %v, want errs.Invalid", err)
	}
}

// gone is a stderr that nobody reads any more.
type gone struct{ writes int }

func (g *gone) Write([]byte) (int, error) {
	g.writes++
	return 0, errors.New("broken pipe")
}

func TestReaderWentAway(t *testing.T) {
	t.Parallel()
	var out gone
	d, err := progress.New(progress.Options{Mode: progress.Plain, Out: &out})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	for _, e := range story() {
		d.Event(e)
	}
	if err := d.Close(); err == nil || out.writes != 1 {
		t.Errorf("Close = %v after %d writes; want an error after one", err, out.writes)
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 38_000_000: "38.0 MB",
		1_500_000_000: "1.5 GB", 2_000_000_000_000: "2.0 TB",
	} {
		if got := progress.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}
