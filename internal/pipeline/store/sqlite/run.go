package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

func scanRun(s scanner) (r store.Run, err error) {
	var c store.Cancel
	var canceled, created, started, finished instant
	err = s.Scan(&r.ID, &r.AppID, &r.App, &r.Name, &r.Status, &r.Class, &r.Reason, &r.Cause.Kind, &r.Cause.Actor, &r.Cause.Delivery,
		&r.Commit.ID, &r.Commit.Branch, &r.Commit.Tag, &r.Commit.Message, &r.Commit.Author, &r.Parent, &r.Mode,
		&c.Class, &c.By, &c.Reason, &c.Successor, &canceled, &created, &started, &finished, &r.Seq)
	r.CreatedAt, r.StartedAt, r.FinishedAt = created.time(), started.time(), finished.time()
	if c.At = canceled.time(); c.Class != "" {
		r.Cancel = &c
	}
	return r, err
}

func scanTask(s scanner) (t store.Task, err error) {
	var d store.Decision
	var decided string
	var at, queued, started, finished instant
	err = s.Scan(&t.Run, &t.Position, &t.Name, &t.DisplayName, &t.Template, column[[]string]{&t.After}, &t.Gate, &t.Status, &t.Class, &t.Reason,
		&t.Attempts, &t.ExitCode, column[pipeline.Output]{&t.Output}, &t.From, &d.By, &decided, &d.Comment, &at,
		&queued, &started, &finished)
	t.QueuedAt, t.StartedAt, t.FinishedAt = queued.time(), started.time(), finished.time()
	if d.Approved, d.At = decided == approved, at.time(); decided != "" {
		t.Decision = &d
	}
	return t, err
}

// What tasks.decided has for a decision.
const (
	approved = "approved"
	rejected = "rejected"
)

func scanEvent(s scanner) (e store.Event, err error) {
	var at instant
	err = s.Scan(&e.ID, &e.Run, &e.Seq, &at, &e.Kind, &e.Task, &e.Attempt, column[store.EventData]{&e.Data})
	e.At = at.time()
	return e, err
}

// CreateRun adds a run; see store.RunStore.
func (db *DB) CreateRun(ctx context.Context, r store.NewRun) (out store.Run, err error) {
	err = db.tx(ctx, "create a run", func(t *tx) error {
		id, err := scanOf[int64](t.row(ctx, "InsertRun", r.AppID, r.Name, r.Cause.Kind, r.Cause.Actor, r.Cause.Delivery,
			r.Commit.ID, r.Commit.Branch, r.Commit.Tag, r.Commit.Message, r.Commit.Author, r.Parent, r.Mode, t.now))
		if err != nil {
			return err
		}
		if err := t.insertSpec(ctx, id, r.Spec); err != nil {
			return err
		}
		for i, task := range r.Tasks {
			if err := t.insertTask(ctx, id, i, task); err != nil {
				return err
			}
		}
		created := store.EventData{Status: pipeline.Queued, Actor: r.Cause.Actor, Text: r.Cause.Kind, Other: r.Parent}
		if err := t.event(ctx, id, store.RunCreated, "", 0, created); err != nil {
			return err
		}
		if r.Supersede {
			if err := t.supersede(ctx, r, id); err != nil {
				return err
			}
		}
		if err := t.send(ctx, r.Outbox); err != nil {
			return err
		}
		out, err = scanRun(t.row(ctx, "RunByID", id))
		return err
	})
	return out, err
}

func (t *tx) insertSpec(ctx context.Context, run int64, s store.Spec) error {
	variables, err := asJSON(s.Variables)
	if err != nil {
		return err
	}
	secrets, err := asJSON(s.Secrets)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, "InsertSpec", run, s.Written, s.Resolved, variables, secrets)
	return err
}

func (t *tx) insertTask(ctx context.Context, run int64, position int, task store.NewTask) error {
	after, err := asJSON(task.After)
	if err != nil {
		return err
	}
	output, err := asJSON(task.Output)
	if err != nil {
		return err
	}
	status := pipeline.Pending
	if task.Done {
		status = pipeline.Succeeded
	}
	_, err = t.exec(ctx, "InsertTask", run, task.Name, position, cmp.Or(task.DisplayName, task.Name), task.Template, after, task.Gate, status,
		output, task.From)
	return err
}

// supersede asks the older runs of the new run's branch to end.
func (t *tx) supersede(ctx context.Context, r store.NewRun, successor int64) error {
	older, err := list(ctx, t, t.db.queries["Older"], scanOf[int64], r.AppID, r.Commit.Branch, successor)
	if err != nil {
		return err
	}
	for _, id := range older {
		c := store.Cancel{
			By: r.Cause.Actor, Class: pipeline.ClassSuperseded, Successor: successor,
			Reason: fmt.Sprintf("superseded by run %d", successor),
		}
		if err := t.requestCancel(ctx, id, c); err != nil {
			return err
		}
	}
	return nil
}

// Run returns a run; see store.RunStore.
func (db *DB) Run(ctx context.Context, id int64) (store.Run, error) {
	r, err := scanRun(db.row(ctx, "RunByID", id))
	return r, one(err, "run %d", id)
}

// Runs returns runs; see store.RunStore. Each combination of app and status has an index that gives it in order, so that
// a page costs the same whatever lies behind it; the pages of several are merged.
func (db *DB) Runs(ctx context.Context, f store.RunFilter) ([]store.Run, error) {
	before, n := cmp.Or(f.Before, math.MaxInt64), limit(f.Limit)
	apps, statuses := f.Apps, f.Status
	switch {
	case f.App != "" && f.Apps != nil && !slices.Contains(f.Apps, f.App):
		return nil, nil
	case f.App != "":
		apps = []string{f.App}
	case f.Apps == nil:
		apps = []string{""}
	}
	if len(statuses) == 0 {
		statuses = []pipeline.Status{""}
	}
	var runs []store.Run
	for _, app := range apps {
		for _, status := range statuses {
			name, args := "Runs", []any{before, n}
			if app != "" {
				name, args = "RunsOfApp", append(args, app)
				if f.Branch != "" {
					name, args = "RunsOfBranch", append(args, f.Branch)
				}
			}
			if status != "" {
				name, args = by(name), append(args, status)
			}
			page, err := list(ctx, db.read, db.queries[name], scanRun, args...)
			if err != nil {
				return nil, fmt.Errorf("list runs: %w", kind(err))
			}
			runs = append(runs, page...)
		}
	}
	slices.SortFunc(runs, func(a, b store.Run) int { return cmp.Compare(b.ID, a.ID) })
	return runs[:min(n, len(runs))], nil
}

// by is the name of the query that also looks at the status.
func by(name string) string { return name + "ByStatus" }

// Spec returns what a run is made of; see store.RunStore.
func (db *DB) Spec(ctx context.Context, id int64) (s store.Spec, err error) {
	err = db.row(ctx, "Spec", id).Scan(&s.Written, &s.Resolved, column[map[string]string]{&s.Variables}, column[[]store.SecretVersion]{&s.Secrets})
	return s, one(err, "the specification of run %d", id)
}

// Tasks returns a run's tasks; see store.RunStore.
func (db *DB) Tasks(ctx context.Context, run int64) ([]store.Task, error) {
	tasks, err := list(ctx, db.read, db.queries["Tasks"], scanTask, run)
	return tasks, kind(err)
}

// Attempts returns attempts; see store.RunStore.
func (db *DB) Attempts(ctx context.Context, run int64, task string) ([]store.Attempt, error) {
	attempts, err := list(ctx, db.read, db.queries["Attempts"], scanAttempt, run, task)
	return attempts, kind(err)
}

// Apply makes moves; see store.RunStore.
func (db *DB) Apply(ctx context.Context, run int64, moves []store.Move, out ...store.Message) error {
	return db.tx(ctx, fmt.Sprintf("run %d", run), func(t *tx) error {
		for _, m := range moves {
			if err := t.apply(ctx, run, m); err != nil {
				return err
			}
		}
		return t.send(ctx, out)
	})
}

func (t *tx) apply(ctx context.Context, run int64, m store.Move) error {
	if m.Task == "" {
		return t.moveRun(ctx, run, m)
	}
	if err := t.moveTask(ctx, run, m); err != nil {
		return err
	}
	switch m.To {
	case pipeline.Queued:
		task, err := scanTask(t.row(ctx, "TaskByName", run, m.Task))
		if err != nil || task.Gate {
			return err
		}
		return t.queueAttempt(ctx, run, m.Task, t.now)
	case pipeline.Canceled:
		running, err := scanOf[int](t.row(ctx, "RunningAttempts", run, m.Task))
		if err != nil {
			return err
		}
		if running > 0 {
			return conflict("task %s has an attempt that runs: its end ends the task", m.Task)
		}
		_, err = t.exec(ctx, "CancelQueuedAttempts", run, m.Task, m.Class, t.now)
		return err
	default:
		return nil
	}
}

func (t *tx) moveRun(ctx context.Context, run int64, m store.Move) error {
	if _, err := m.From.Move(m.To); err != nil {
		return err
	}
	if m.To.Terminal() {
		open, err := scanOf[int](t.row(ctx, "TasksNotOver", run))
		if err != nil {
			return err
		}
		if open > 0 {
			return conflict("%d of its tasks are not over", open)
		}
	}
	none := conflict("it is not %s", m.From)
	if err := t.change(ctx, none, "MoveRun", run, m.From, m.To, m.Class, m.Reason, t.now); err != nil {
		return err
	}
	return t.event(ctx, run, store.RunStatus, "", 0, store.EventData{Status: m.To, Class: m.Class, Text: m.Reason})
}

func (t *tx) moveTask(ctx context.Context, run int64, m store.Move) error {
	if _, err := m.From.Move(m.To); err != nil {
		return fmt.Errorf("task %s: %w", m.Task, err)
	}
	none := conflict("task %s is not %s", m.Task, m.From)
	if err := t.change(ctx, none, "MoveTask", run, m.Task, m.From, m.To, m.Class, m.Reason, t.now); err != nil {
		return err
	}
	return t.event(ctx, run, store.TaskStatus, m.Task, 0, store.EventData{Status: m.To, Class: m.Class, Text: m.Reason})
}

func (t *tx) queueAttempt(ctx context.Context, run int64, task string, notBefore int64) error {
	number, err := scanOf[int](t.row(ctx, "CountAttempt", run, task))
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, "InsertAttempt", run, task, number, notBefore, t.now)
	return err
}

// RequestCancel asks a run to end; see store.RunStore.
func (db *DB) RequestCancel(ctx context.Context, run int64, c store.Cancel) error {
	return db.tx(ctx, fmt.Sprintf("cancel run %d", run), func(t *tx) error {
		r, err := scanRun(t.row(ctx, "RunByID", run))
		switch {
		case err != nil:
			return err
		case r.Status.Terminal():
			return conflict("it is over: %s", r.Status)
		case r.Cancel != nil:
			return nil
		}
		return t.requestCancel(ctx, run, c)
	})
}

func (t *tx) requestCancel(ctx context.Context, run int64, c store.Cancel) error {
	none := conflict("run %d is over, or is ending", run)
	if err := t.change(ctx, none, "RequestCancel", run, c.Class, c.By, c.Reason, c.Successor, t.now); err != nil {
		return err
	}
	return t.event(ctx, run, store.CancelRequested, "", 0,
		store.EventData{Class: c.Class, Actor: c.By, Text: c.Reason, Other: c.Successor})
}

// Decide decides on a gate; see store.RunStore.
func (db *DB) Decide(ctx context.Context, run int64, task string, d store.Decision, out ...store.Message) error {
	return db.tx(ctx, fmt.Sprintf("decide on task %s of run %d", task, run), func(t *tx) error {
		if err := t.canDecide(ctx, run, task); err != nil {
			return err
		}
		word := rejected
		moves := []store.Move{{Task: task, From: pipeline.Queued, To: pipeline.Failed, Class: pipeline.ClassUser, Reason: "rejected by " + d.By}}
		if d.Approved {
			word = approved
			moves = []store.Move{
				{Task: task, From: pipeline.Queued, To: pipeline.Running},
				{Task: task, From: pipeline.Running, To: pipeline.Succeeded, Reason: "approved by " + d.By},
			}
		}
		if err := t.change(ctx, sql.ErrNoRows, "Decide", run, task, word, d.By, d.Comment, t.now); err != nil {
			return err
		}
		if err := t.event(ctx, run, store.Decided, task, 0, store.EventData{Actor: d.By, Text: word}); err != nil {
			return err
		}
		for _, m := range moves {
			if err := t.moveTask(ctx, run, m); err != nil {
				return err
			}
		}
		return t.send(ctx, out)
	})
}

func (t *tx) canDecide(ctx context.Context, run int64, task string) error {
	r, err := scanRun(t.row(ctx, "RunByID", run))
	if err != nil {
		return err
	}
	it, err := scanTask(t.row(ctx, "TaskByName", run, task))
	switch {
	case err != nil:
		return err
	case !it.Gate:
		return conflict("it needs no approval")
	case r.Cancel != nil:
		return conflict("the run is being canceled")
	case it.Status != pipeline.Queued:
		return conflict("it does not wait for approval: it is %s", it.Status)
	default:
		return nil
	}
}

// Notice appends a notice; see store.RunStore.
func (db *DB) Notice(ctx context.Context, run int64, task string, attempt int, text string) error {
	return db.tx(ctx, fmt.Sprintf("run %d", run), func(t *tx) error {
		return t.event(ctx, run, store.Noticed, task, attempt, store.EventData{Text: text})
	})
}

// event appends an event to a run.
func (t *tx) event(ctx context.Context, run int64, what store.EventKind, task string, attempt int, data store.EventData) error {
	seq, err := scanOf[int64](t.row(ctx, "NextSeq", run))
	if errors.Is(err, sql.ErrNoRows) {
		return notFound("run %d: there is none", run)
	}
	if err != nil {
		return err
	}
	text, err := asJSON(data)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, "InsertEvent", run, seq, t.now, what, task, attempt, text)
	return err
}

// Events returns a run's events; see store.RunStore.
func (db *DB) Events(ctx context.Context, run, after int64, n int) ([]store.Event, error) {
	events, err := list(ctx, db.read, db.queries["Events"], scanEvent, run, after, limit(n))
	return events, kind(err)
}

// Feed returns the events of all runs; see store.RunStore.
func (db *DB) Feed(ctx context.Context, after int64, n int) ([]store.Event, error) {
	events, err := list(ctx, db.read, db.queries["Feed"], scanEvent, after, limit(n))
	return events, kind(err)
}

// LastEvent returns the greatest ID of an event; see store.RunStore.
func (db *DB) LastEvent(ctx context.Context) (int64, error) {
	id, err := scanOf[int64](db.row(ctx, "LastEvent"))
	return id, kind(err)
}

// Expendable returns runs that need not be kept; see store.RunStore.
func (db *DB) Expendable(ctx context.Context, app int64, keep int, age time.Duration, n int) ([]int64, error) {
	var before int64
	if age > 0 {
		before = db.opts.Now().Add(-age).UnixMilli()
	}
	ids, err := list(ctx, db.read, db.queries["Expendable"], scanOf[int64], app, keep, before, limit(n))
	return ids, kind(err)
}

// DeleteRun removes a run; see store.RunStore.
func (db *DB) DeleteRun(ctx context.Context, id int64) error {
	return db.tx(ctx, fmt.Sprintf("delete run %d", id), func(t *tx) error {
		if _, err := scanRun(t.row(ctx, "RunByID", id)); err != nil {
			return err
		}
		return t.change(ctx, conflict("it is not over"), "DeleteRun", id)
	})
}
