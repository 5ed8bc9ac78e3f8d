package app

import (
	"sync/atomic"
	"time"

	"slipway/internal/build"
	"slipway/internal/oci/accel/convert"
)

// steps tells a sink of work that is no build.
type steps struct {
	sink build.Sink
	now  func() time.Time
	last atomic.Int64
}

var _ convert.Steps = (*steps)(nil)

func (a *App) steps(sink build.Sink) *steps {
	if sink == nil {
		sink = func(build.Event) {}
	}
	return &steps{sink: sink, now: a.opts.Now}
}

// Start implements convert.Steps.
func (s *steps) Start(name string) convert.Step {
	st := &oneStep{steps: s, id: int(s.last.Add(1)), name: name, began: s.now()}
	s.send(build.Event{Kind: build.Started, Step: st.id, Name: name})
	return st
}

// Note implements convert.Steps.
func (s *steps) Note(text string) { s.send(build.Event{Kind: build.Note, Text: text}) }

func (s *steps) send(e build.Event) {
	e.Time = s.now()
	s.sink(e)
}

type oneStep struct {
	*steps
	id    int
	name  string
	began time.Time
}

// Progress implements convert.Step.
func (s *oneStep) Progress(n, total int64) {
	s.send(build.Event{Kind: build.Progress, Step: s.id, Bytes: n, Total: total})
}

// End implements convert.Step.
func (s *oneStep) End(text string, err error) {
	e := build.Event{Kind: build.Done, Step: s.id, Name: s.name, Text: text, Took: s.now().Sub(s.began)}
	if err != nil {
		e.Kind, e.Text = build.Failed, err.Error()
	}
	s.send(e)
}
