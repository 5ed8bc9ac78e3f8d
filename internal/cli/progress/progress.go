// Package progress shows people and programs what a build is doing while it does it.
//
// A Display takes the events of one build, or of several at once under a scope each, and renders them in one of four
// modes: tty redraws a live view, plain prints a line per happening, json prints an event per line, quiet speaks only
// of what failed. What programs print inside a build is a stranger's text: it reaches a terminal without escape
// sequences, control characters and endless lines (see Clean).
//
//	display, err := progress.New(progress.Options{Out: stderr, Terminal: term})
//	…
//	defer display.Close()
//	app.Build(ctx, …, display.Event)
//
// A Display writes to its Out only; results belong on stdout and are the caller's business.
package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/build"
	"slipway/internal/errs"
)

// Mode is how progress is shown.
type Mode string

// The modes of --progress.
const (
	Auto  Mode = "auto" // tty on a terminal, else plain
	TTY   Mode = "tty"
	Plain Mode = "plain"
	JSON  Mode = "json"
	Quiet Mode = "quiet"
)

// Modes are the values that --progress takes.
func Modes() []string { return []string{"auto", "tty", "plain", "json", "quiet"} }

// Terminal says what a live view needs to know about the terminal it is drawn on.
type Terminal struct {
	// Size returns columns and rows. It is asked before every drawing, so a resized window is followed.
	Size func() (columns, rows int)
	// Color allows colours; NO_COLOR and TERM=dumb speak against it.
	Color bool
}

// Options say how a Display renders. Out is required.
type Options struct {
	Out io.Writer
	// Mode. Default: Auto.
	Mode Mode
	// Terminal is set when Out is one; without it tty falls back to plain. Default: nil.
	Terminal *Terminal
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Display renders events. Its methods may be called from several goroutines.
type Display struct {
	mu       sync.Mutex
	now      func() time.Time
	renderer renderer
	steps    map[key]*step
	last     int // the number given to the newest step
	stop     chan struct{}
	ticking  sync.WaitGroup
	closed   bool
	paused   int
}

type key struct {
	scope string
	step  int
}

// step is what a Display remembers of a step that runs.
type step struct {
	number       int
	name         string
	started      time.Time
	bytes, total int64
	tail         []string // its last log lines, clean
	told         time.Time
}

// keep is how many log lines of a step are remembered, to be shown when it fails.
const keep = 30

// renderer turns what happens into text. Calls are made one at a time.
type renderer interface {
	// event tells of e; s is its step, or an empty one for events that belong to none.
	event(scope string, s *step, e build.Event)
	// tick redraws; it is called several times a second when live is true, and once at the end.
	tick(running []*step, now time.Time, last bool)
	live() bool
	err() error
}

// New returns a Display. An unknown mode is an errs.Invalid.
func New(o Options) (*Display, error) {
	d := &Display{now: o.Now, steps: map[key]*step{}, stop: make(chan struct{})}
	if d.now == nil {
		d.now = time.Now
	}
	out := &output{w: o.Out}
	switch o.Mode {
	case Auto, TTY, "":
		if o.Terminal != nil {
			d.renderer = &tty{output: out, terminal: *o.Terminal, begun: d.now()}
			break
		}
		d.renderer = &plain{output: out}
	case Plain:
		d.renderer = &plain{output: out}
	case JSON:
		d.renderer = &jsonLines{output: out}
	case Quiet:
		d.renderer = &quiet{output: out}
	default:
		err := fmt.Errorf("progress mode %q: want one of %s", o.Mode, strings.Join(Modes(), ", "))
		return nil, errs.Mark(err, errs.Invalid)
	}
	if d.renderer.live() {
		d.ticking.Go(d.redraw)
	}
	return d, nil
}

// Event renders one event of the only build there is. It is a build.Sink.
func (d *Display) Event(e build.Event) { d.event("", e) }

// Scope returns a sink for one of several builds that run at once, a task of a pipeline say. Its steps are numbered
// and named apart from those of other scopes.
func (d *Display) Scope(name string) build.Sink {
	return func(e build.Event) { d.event(name, e) }
}

// Pause stops redrawing until resume is called, for whoever has to say something on the same terminal. Events go on
// being taken, and what they said is shown then. It may be called when it is paused already.
func (d *Display) Pause() (resume func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.renderer.tick(nil, d.now(), true)
	}
	d.paused++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.paused--
	}
}

// Close draws what is left to draw and stops redrawing. It returns the first error of writing to Out, and may be
// called more than once.
func (d *Display) Close() error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.stop)
		d.renderer.tick(d.running(), d.now(), true)
	}
	d.mu.Unlock()
	d.ticking.Wait()
	return d.renderer.err()
}

func (d *Display) event(scope string, e build.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = d.now()
	}
	if e.Step == 0 {
		d.renderer.event(scope, &step{}, e)
		return
	}
	s := d.step(key{scope, e.Step}, e)
	d.renderer.event(scope, s, e)
	switch e.Kind {
	case build.Cached, build.Done, build.Failed:
		delete(d.steps, key{scope, e.Step})
	}
}

// step finds or makes the step that e belongs to, and notes what e says of it.
func (d *Display) step(k key, e build.Event) *step {
	s := d.steps[k]
	if s == nil {
		d.last++
		s = &step{number: d.last, started: e.Time, told: e.Time}
		d.steps[k] = s
	}
	if e.Name != "" {
		s.name = scoped(k.scope, Clean(e.Name, maxName))
	}
	switch e.Kind {
	case build.Log:
		if len(s.tail) == keep {
			s.tail = append(s.tail[:0], s.tail[1:]...)
		}
		s.tail = append(s.tail, Clean(e.Text, maxLine))
	case build.Progress:
		s.bytes, s.total = e.Bytes, e.Total
	}
	return s
}

// scoped puts the scope in front of a step's name: "[build 2/5] RUN make" of task image is "[image: build 2/5] RUN make".
func scoped(scope, name string) string {
	switch {
	case scope == "":
		return name
	case strings.HasPrefix(name, "["):
		return "[" + scope + ": " + name[1:]
	default:
		return "[" + scope + "] " + name
	}
}

func (d *Display) running() []*step {
	running := make([]*step, 0, len(d.steps))
	for _, s := range d.steps {
		running = append(running, s)
	}
	slices.SortFunc(running, func(a, b *step) int { return a.number - b.number })
	return running
}

// redraw ticks at 10 Hz: quick enough for a clock, too slow to cost a build anything.
func (d *Display) redraw() {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
			d.mu.Lock()
			if !d.closed && d.paused == 0 {
				d.renderer.tick(d.running(), d.now(), false)
			}
			d.mu.Unlock()
		}
	}
}

// output remembers the first error, so that renderers need not look at each: a reader of stderr that went away must
// not stop a build.
type output struct {
	w     io.Writer
	first error
}

func (o *output) print(text string) {
	if o.first != nil {
		return
	}
	if _, err := io.WriteString(o.w, text); err != nil {
		o.first = fmt.Errorf("show progress: %w", err)
	}
}

func (o *output) printf(format string, args ...any) { o.print(fmt.Sprintf(format, args...)) }

func (o *output) err() error { return o.first }
