package dispatcher

import (
	"context"
	"errors"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/dag"
	"slipway/internal/pipeline/store"
)

// advance takes a run as far as it goes now: tasks whose turn it is are queued or skipped, and when all are over the run
// is.
func (d *Dispatcher) advance(ctx context.Context, r store.Run) error {
	if r.Cancel != nil {
		return d.end(ctx, r)
	}
	plan, err := d.plan(ctx, r.ID)
	if err != nil {
		return err
	}
	tasks, err := d.opts.Store.Tasks(ctx, r.ID)
	if err != nil {
		return err
	}
	b := newBoard(plan, tasks)
	b.ready()
	if b.failed() {
		b.cancelRest(pipeline.ClassCanceled, "not started: another task failed")
	}
	if b.stuck() {
		return errs.Mark(errors.New("the tasks and the pipeline do not fit together: nothing can go on"), errs.Corrupt)
	}
	return d.settle(ctx, r, b)
}

// end ends a run that somebody wants to end: what has not begun does not, and what runs is asked to end elsewhere.
func (d *Dispatcher) end(ctx context.Context, r store.Run) error {
	tasks, err := d.opts.Store.Tasks(ctx, r.ID)
	if err != nil {
		return err
	}
	attempts, err := d.opts.Store.Attempts(ctx, r.ID, "")
	if err != nil {
		return err
	}
	b := newBoard(nil, tasks)
	b.cancelRest(r.Cancel.Class, "not started: "+reason(r.Cancel))
	for _, a := range attempts { // a task between two attempts is running, and nothing of it runs
		if a.Status == pipeline.Queued && b.status[a.Task] == pipeline.Running {
			b.move(a.Task, pipeline.Canceled, r.Cancel.Class, reason(r.Cancel))
		}
	}
	return d.settle(ctx, r, b)
}

func reason(c *store.Cancel) string {
	switch {
	case c.Reason != "":
		return c.Reason
	case c.By != "":
		return "canceled by " + c.By
	default:
		return "canceled"
	}
}

// settle makes the moves, and ends the run when all its tasks are over.
func (d *Dispatcher) settle(ctx context.Context, r store.Run, b *board) error {
	moves := b.moves
	var out []store.Message
	if b.over() {
		m := b.summary(r)
		moves = append(moves, m)
		out = d.opts.Announce(Change{Run: r, Status: m.To, Class: m.Class, Reason: m.Reason})
	}
	if len(moves) == 0 {
		return nil
	}
	return d.opts.Store.Apply(ctx, r.ID, moves, out...)
}

// plan is the resolved pipeline of a run.
func (d *Dispatcher) plan(ctx context.Context, run int64) (*pipeline.Pipeline, error) {
	if p, ok := d.plans[run]; ok {
		return p, nil
	}
	s, err := d.opts.Store.Spec(ctx, run)
	if err != nil {
		return nil, err
	}
	p, err := store.Decode(s.Resolved)
	if err != nil {
		return nil, err
	}
	d.plans[run] = p
	return p, nil
}

// board is the tasks of a run, and the moves that are to be made.
type board struct {
	plan   *pipeline.Pipeline
	tasks  []store.Task
	status map[string]pipeline.Status
	moves  []store.Move
	// why is the class and the reason of tasks that a move ends.
	why map[string]store.Move
}

func newBoard(plan *pipeline.Pipeline, tasks []store.Task) *board {
	b := &board{plan: plan, tasks: tasks, status: make(map[string]pipeline.Status, len(tasks)), why: map[string]store.Move{}}
	for _, t := range tasks {
		b.status[t.Name] = t.Status
		b.why[t.Name] = store.Move{Class: t.Class, Reason: t.Reason}
	}
	return b
}

func (b *board) move(task string, to pipeline.Status, class pipeline.Class, reason string) {
	m := store.Move{Task: task, From: b.status[task], To: to, Class: class, Reason: reason}
	b.moves, b.status[task], b.why[task] = append(b.moves, m), to, m
}

// ready queues or skips the tasks whose predecessors are done, and those that this makes ready.
func (b *board) ready() {
	for again := true; again; {
		again = false
		for _, name := range dag.Ready(b.plan.Tasks, b.status) {
			if skip := b.plan.Task(name).Skip; skip != "" {
				b.move(name, pipeline.Skipped, "", skip)
				again = true
				continue
			}
			b.move(name, pipeline.Queued, "", "")
		}
	}
}

// failed says whether a task has ended so that nothing new begins.
func (b *board) failed() bool {
	for _, status := range b.status {
		if status == pipeline.Failed || status == pipeline.Canceled {
			return true
		}
	}
	return false
}

// cancelRest ends the tasks that have not begun; those that would have been skipped are.
func (b *board) cancelRest(class pipeline.Class, reason string) {
	for _, t := range b.tasks {
		switch b.status[t.Name] {
		case pipeline.Pending:
			if b.plan != nil {
				if it := b.plan.Task(t.Name); it != nil && it.Skip != "" {
					b.move(t.Name, pipeline.Skipped, "", it.Skip)
					continue
				}
			}
			b.move(t.Name, pipeline.Canceled, class, reason)
		case pipeline.Queued:
			b.move(t.Name, pipeline.Canceled, class, reason)
		}
	}
}

// stuck says that nothing is over, and nothing will be: then something is wrong with the run's rows.
func (b *board) stuck() bool {
	for _, status := range b.status {
		if status == pipeline.Queued || status == pipeline.Running {
			return false
		}
	}
	return !b.over()
}

func (b *board) over() bool {
	for _, status := range b.status {
		if !status.Terminal() {
			return false
		}
	}
	return true
}

// summary is the end of a run whose tasks are over: failed if one has failed, canceled if it was to end, and why.
func (b *board) summary(r store.Run) store.Move {
	m := store.Move{From: r.Status, To: pipeline.Succeeded}
	for _, t := range b.tasks {
		switch why := b.why[t.Name]; b.status[t.Name] {
		case pipeline.Failed:
			if m.To != pipeline.Failed { // the first one tells
				m.To, m.Class, m.Reason = pipeline.Failed, why.Class, "task "+t.Name+": "+firstLine(why.Reason)
			}
		case pipeline.Canceled:
			if m.To == pipeline.Succeeded {
				m.To, m.Class, m.Reason = pipeline.Canceled, why.Class, why.Reason
			}
		}
	}
	switch {
	case r.Cancel != nil && m.To != pipeline.Succeeded:
		m.To, m.Class, m.Reason = pipeline.Canceled, r.Cancel.Class, reason(r.Cancel)
		if r.Cancel.Class != pipeline.ClassCanceled && r.Cancel.Class != pipeline.ClassSuperseded && r.Status == pipeline.Running {
			m.To = pipeline.Failed // it was set aside
		}
	case r.Status == pipeline.Queued && m.To == pipeline.Succeeded:
		m.To = pipeline.Canceled // it never started, and had no tasks
	}
	return m
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
