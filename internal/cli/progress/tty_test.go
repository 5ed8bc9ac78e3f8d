package progress_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/cli/progress"
)

// screen is a terminal of a fixed size, as much of one as a live view needs: it scrolls, it goes up and it erases.
// Writing beyond the last column is an error: it would have wrapped.
type screen struct {
	t             *testing.T
	columns, rows int
	lines         []string
	row           int
}

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := strings.IndexAny(text, "AJm")
			s.sequence(text[2:end], text[end])
			text = text[end+1:]
		case text[0] == '\n':
			s.row++
			text = text[1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			end := strings.IndexAny(text+"\n", "\x1b\n\r")
			s.put(text[:end])
			text = text[end:]
		}
	}
	return len(p), nil
}

func (s *screen) sequence(parameter string, final byte) {
	switch final {
	case 'A':
		n, err := strconv.Atoi(parameter)
		if err != nil || n >= s.rows {
			s.t.Errorf("cursor up %q on %d rows: above the screen", parameter, s.rows)
		}
		s.row -= n
	case 'J':
		s.lines = s.lines[:min(len(s.lines), s.row)]
	}
}

func (s *screen) put(text string) {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, "")
	}
	s.lines[s.row] += text
	if n := len([]rune(s.lines[s.row])); n >= s.columns {
		s.t.Errorf("line of %d columns on a terminal of %d: %q", n, s.columns, s.lines[s.row])
	}
}

func (s *screen) String() string { return strings.Join(s.lines, "\n") }

func live(t *testing.T, s *screen, color bool) *progress.Display {
	t.Helper()
	d, err := progress.New(progress.Options{
		Out:      s,
		Terminal: &progress.Terminal{Size: func() (int, int) { return s.columns, s.rows }, Color: color},
	})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return d
}

// later lets the display redraw and the clock advance.
func later(d time.Duration) {
	time.Sleep(d) // in a synctest bubble: no time passes outside
	synctest.Wait()
}

func TestLiveView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, columns: 51, rows: 12}
		d := live(t, s, false)
		d.Event(build.Event{Kind: build.Cached, Step: 1, Name: "[build 1/3] COPY . ."})
		d.Event(build.Event{Kind: build.Started, Step: 2, Name: "[build 2/3] RUN make"})
		d.Event(build.Event{Kind: build.Log, Step: 2, Text: "cc -O2 -Wall -Wextra -pedantic -std=c17 -c main.c -o main.o"})
		d.Event(build.Event{Kind: build.Started, Step: 3, Name: "push layer 1/2"})
		d.Event(build.Event{Kind: build.Progress, Step: 3, Bytes: 12_400_000, Total: 38_000_000})
		later(1550 * time.Millisecond)
		want := `
 ✓ [build 1/3] COPY . .                     cached
   0 done, 1 cached, 2 running                1.5s
 ▸ [build 2/3] RUN make                       1.5s
   │ cc -O2 -Wall -Wextra -pedantic -std=c17 -c m…
 ▸ push layer 1/2          12.4 MB / 38.0 MB  1.5s`
		if diff := cmp.Diff(want[1:], s.String()); diff != "" {
			t.Errorf("while it runs, mismatch (-want +got):\n%s", diff)
		}

		d.Event(build.Event{Kind: build.Done, Step: 3, Took: 2 * time.Second})
		d.Event(build.Event{Kind: build.Failed, Step: 2, Took: 2 * time.Second})
		d.Event(build.Event{Kind: build.Note, Text: "that was all"})
		later(time.Second)
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		want = `
 ✓ [build 1/3] COPY . .                     cached
 ✓ push layer 1/2                             2.0s
 ✗ [build 2/3] RUN make                       2.0s
   │ cc -O2 -Wall -Wextra -pedantic -std=c17 -c m…
   that was all`
		if diff := cmp.Diff(want[1:], s.String()); diff != "" {
			t.Errorf("at the end, mismatch (-want +got):\n%s", diff)
		}
	})
}

// TestLiveViewFits draws more than fits on terminals of all sizes; screen complains of what wraps or scrolls away.
func TestLiveViewFits(t *testing.T) {
	t.Parallel()
	for _, size := range []struct{ columns, rows int }{{10, 4}, {24, 5}, {80, 3}, {80, 24}, {300, 100}} {
		synctest.Test(t, func(t *testing.T) {
			s := &screen{t: t, columns: size.columns, rows: size.rows}
			d := live(t, s, true)
			for i := range 30 {
				d.Event(build.Event{Kind: build.Started, Step: i + 1, Name: strings.Repeat("name ", 30)})
				for range 10 {
					d.Event(build.Event{Kind: build.Log, Step: i + 1, Text: strings.Repeat("log ", 100)})
				}
				later(100 * time.Millisecond)
			}
			for i := range 30 {
				d.Event(build.Event{Kind: build.Done, Step: i + 1})
			}
			if err := d.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if got := strings.Count(s.String(), "✓"); got != 30 {
				t.Errorf("%d finished steps on the screen, want 30:\n%s", got, s)
			}
		})
	}
}

// Whoever pauses the view may write below what is over, and nothing is drawn over it meanwhile.
func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, columns: 51, rows: 12}
		d := live(t, s, false)
		d.Event(build.Event{Kind: build.Started, Step: 1, Name: "RUN make"})
		later(150 * time.Millisecond)
		resume := d.Pause()
		if got := s.String(); got != "" {
			t.Errorf("the live part is still there:\n%s", got)
		}
		s.put("Go on?")
		d.Event(build.Event{Kind: build.Done, Step: 1, Took: time.Second})
		later(time.Second)
		if got := s.String(); got != "Go on?" {
			t.Errorf("while paused, got:\n%s", got)
		}
		if _, err := s.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		resume()
		later(150 * time.Millisecond)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		want := "Go on?\n ✓ RUN make                                   1.0s"
		if diff := cmp.Diff(want, s.String()); diff != "" {
			t.Errorf("after resuming, mismatch (-want +got):\n%s", diff)
		}
	})
}
