package progress

import (
	"encoding/json"
	"fmt"
	"time"

	"slipway/internal/build"
)

// plain prints one line per happening, each with its step's number, so that a log file of parallel steps reads well
// and greps well.
type plain struct{ *output }

// patience is how long a transfer stays silent in plain mode.
const patience = 10 * time.Second

func (p *plain) live() bool                    { return false }
func (p *plain) tick([]*step, time.Time, bool) {}
func (p *plain) event(_ string, s *step, e build.Event) {
	switch e.Kind {
	case build.Started:
		p.printf("#%d %s\n", s.number, s.name)
	case build.Cached:
		p.printf("#%d CACHED %s\n", s.number, s.name)
	case build.Log:
		p.printf("#%d %.3f %s\n", s.number, e.Time.Sub(s.started).Seconds(), s.tail[len(s.tail)-1])
	case build.Progress:
		if e.Time.Sub(s.told) >= patience {
			s.told = e.Time
			p.printf("#%d %s\n", s.number, transfer(e.Bytes, e.Total))
		}
	case build.Reason:
		p.printf("#%d because %s\n", s.number, Clean(e.Text, maxLine))
	case build.Done:
		p.printf("#%d DONE %s%s\n", s.number, took(e.Took), spaced(e.Text))
	case build.Failed:
		p.printf("#%d FAILED %s%s\n", s.number, took(e.Took), spaced(e.Text))
	case build.Warning:
		p.printf("warning: %s\n", Clean(e.Text, maxLine))
	case build.Note:
		p.printf("%s\n", Clean(e.Text, maxLine))
	case build.Result: // the caller prints it on stdout
	}
}

func spaced(text string) string {
	if text == "" {
		return ""
	}
	return " " + Clean(text, maxLine)
}

// quiet is silent unless a step fails: then it shows what the step printed last.
type quiet struct{ *output }

func (q *quiet) live() bool                    { return false }
func (q *quiet) tick([]*step, time.Time, bool) {}
func (q *quiet) event(_ string, s *step, e build.Event) {
	if e.Kind != build.Failed {
		return
	}
	q.printf("%s\n", s.name)
	for _, line := range s.tail {
		q.printf("  %s\n", line)
	}
}

// jsonLines prints every event as a line of JSON, its text as it came: JSON has its own way to escape.
type jsonLines struct{ *output }

// jsonEvent is a line of --progress json.
type jsonEvent struct {
	build.Event
	Task string `json:"task,omitempty"` // the pipeline task that the event belongs to
}

func (j *jsonLines) live() bool                    { return false }
func (j *jsonLines) tick([]*step, time.Time, bool) {}
func (j *jsonLines) event(scope string, _ *step, e build.Event) {
	line, err := json.Marshal(jsonEvent{Event: e, Task: scope})
	if err != nil {
		if j.first == nil {
			j.first = fmt.Errorf("show progress: %w", err)
		}
		return
	}
	j.printf("%s\n", line)
}

// took shows how long something took: as seconds does, and in milliseconds where that is below one.
func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return seconds(d)
}

// seconds shows a duration on a clock that runs: 0.4s, 12.3s, 2m03s.
func seconds(d time.Duration) string {
	if d = d.Round(100 * time.Millisecond); d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
}

// transfer shows how far a transfer is.
func transfer(done, total int64) string {
	if total <= 0 {
		return Bytes(done)
	}
	return Bytes(done) + " / " + Bytes(total)
}

// Bytes shows a size in decimal units, as registries and disks are sold: 512 B, 1.5 kB, 38.0 MB.
func Bytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for _, unit := range [...]string{"kB", "MB", "GB"} {
		if value /= 1000; value < 999.95 {
			return fmt.Sprintf("%.1f %s", value, unit)
		}
	}
	return fmt.Sprintf("%.1f TB", value/1000)
}
