package solver

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/plan"
)

// events numbers the steps of a build and tells its sink what happens.
type events struct {
	sink build.Sink
	now  func() time.Time
	last atomic.Int64
}

func newEvents(sink build.Sink, now func() time.Time) *events {
	if sink == nil {
		sink = func(build.Event) {}
	}
	return &events{sink: sink, now: now}
}

func (e *events) send(ev build.Event) {
	ev.Time = e.now()
	e.sink(ev)
}

func (e *events) warn(text string) { e.send(build.Event{Kind: build.Warning, Text: text}) }
func (e *events) note(text string) { e.send(build.Event{Kind: build.Note, Text: text}) }

// step is something that takes time and has a name.
type step struct {
	e     *events
	id    int
	name  string
	began time.Time
}

func (e *events) start(name string) *step {
	s := &step{e: e, id: int(e.last.Add(1)), name: name, began: e.now()}
	e.send(build.Event{Kind: build.Started, Step: s.id, Name: name})
	return s
}

func (e *events) cached(name string) {
	e.send(build.Event{Kind: build.Cached, Step: int(e.last.Add(1)), Name: name})
}

// End closes a step with what came of it.
func (s *step) End(text string, err error) {
	ev := build.Event{Kind: build.Done, Step: s.id, Name: s.name, Text: text, Took: s.e.now().Sub(s.began)}
	if err != nil {
		ev.Kind, ev.Text = build.Failed, err.Error()
	}
	s.e.send(ev)
}

func (s *step) Progress(n, total int64) {
	s.e.send(build.Event{Kind: build.Progress, Step: s.id, Bytes: n, Total: total})
}

// lines turns what a process writes into Log events, a line each.
type lines struct {
	s      *step
	stream int
	mu     sync.Mutex
	buf    []byte
	tail   *tail
	hide   func(string) string // blanks what nobody may see
}

// longestLine is where a line without an end is cut.
const longestLine = 64 << 10

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	rest := l.buf // moved to the front once, not for each line: a flood of short ones would cost their square
	for {
		i := bytes.IndexByte(rest, '\n')
		next := i + 1
		if i < 0 {
			if len(rest) < longestLine {
				break
			}
			i, next = longestLine, longestLine
		}
		l.emit(rest[:i])
		rest = rest[next:]
	}
	l.buf = append(l.buf[:0], rest...)
	return len(p), nil
}

// flush sends what is left when the process has ended.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 0 {
		l.emit(l.buf)
		l.buf = nil
	}
}

func (l *lines) emit(line []byte) {
	text := l.hide(string(bytes.TrimSuffix(line, []byte("\r"))))
	l.tail.add(text)
	l.s.e.send(build.Event{Kind: build.Log, Step: l.s.id, Text: text, Stream: l.stream})
}

// tail keeps the last lines that a process printed, to show again when it fails.
type tail struct {
	mu    sync.Mutex
	lines []string
}

const tailLines = 20

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

// stepName is how an instruction is displayed: "[build 2/5] RUN make".
func stepName(s *plan.Stage, number, text string) string {
	switch {
	case s.Name != "" && number != "":
		return "[" + s.Name + " " + number + "] " + text
	case number != "":
		return "[" + number + "] " + text
	case s.Name != "":
		return "[" + s.Name + "] " + text
	default:
		return text
	}
}

func asNeedImages(err error) ([]plan.Need, bool) {
	if n, ok := errors.AsType[*plan.NeedImages](err); ok {
		return n.Refs, true
	}
	return nil, false
}
