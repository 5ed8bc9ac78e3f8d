package progress

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"slipway/internal/build"
)

// Trace records a build's steps as they happen, for Chrome's trace viewer (chrome://tracing, ui.perfetto.dev).
//
// Its format is the Trace Event Format's JSON array of complete events ("ph":"X"), times in microseconds. Steps that
// run at once lie on rows of their own.
type Trace struct {
	mu    sync.Mutex
	began time.Time
	open  map[int]traceEvent
	rows  []bool // in use
	done  []traceEvent
}

type traceEvent struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	Start int64          `json:"ts"`  // microseconds since the first event
	Took  int64          `json:"dur"` // microseconds
	PID   int            `json:"pid"`
	Row   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// Event is a build.Sink.
func (t *Trace) Event(e build.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.began.IsZero() {
		t.began = e.Time
		t.open = map[int]traceEvent{}
	}
	at := e.Time.Sub(t.began).Microseconds()
	switch e.Kind {
	case build.Started:
		t.open[e.Step] = traceEvent{Name: e.Name, Phase: "X", Start: at, PID: 1, Row: t.row()}
	case build.Cached:
		t.done = append(t.done, traceEvent{Name: "CACHED " + e.Name, Phase: "X", Start: at, Took: 1, PID: 1})
	case build.Done, build.Failed:
		ev, ok := t.open[e.Step]
		if !ok {
			return
		}
		delete(t.open, e.Step)
		t.rows[ev.Row-1] = false
		ev.Took = at - ev.Start
		if e.Text != "" {
			ev.Args = map[string]any{string(e.Kind): e.Text}
		}
		t.done = append(t.done, ev)
	}
}

// row takes the first row that is free. Row 0 is for what takes no time.
func (t *Trace) row() int {
	for i, used := range t.rows {
		if !used {
			t.rows[i] = true
			return i + 1
		}
	}
	t.rows = append(t.rows, true)
	return len(t.rows)
}

// Write writes the trace. Steps that have not ended are left out.
func (t *Trace) Write(w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return json.NewEncoder(w).Encode(struct {
		Events []traceEvent `json:"traceEvents"`
	}{t.done})
}
