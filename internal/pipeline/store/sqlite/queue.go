package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

func scanAttempt(s scanner) (a store.Attempt, err error) {
	var notBefore, queued, started, finished instant
	err = s.Scan(attemptColumns(&a, &notBefore, &queued, &started, &finished)...)
	a.NotBefore, a.QueuedAt, a.StartedAt, a.FinishedAt = notBefore.time(), queued.time(), started.time(), finished.time()
	return a, err
}

func attemptColumns(a *store.Attempt, notBefore, queued, started, finished *instant) []any {
	return []any{
		&a.Run, &a.Task, &a.Number, &a.Epoch, &a.Status, &a.Class, &a.Error, &a.Hint, &a.ExitCode,
		column[pipeline.Output]{&a.Output},
		&a.Owner,
		notBefore, queued, started, finished,
	}
}

func scanHeld(s scanner) (h store.Held, err error) {
	var c store.Cancel
	var notBefore, queued, started, finished, canceled instant
	err = s.Scan(append(attemptColumns(&h.Attempt, &notBefore, &queued, &started, &finished),
		&h.Expired, &c.Class, &c.By, &c.Reason, &c.Successor, &canceled)...)
	h.NotBefore, h.QueuedAt, h.StartedAt, h.FinishedAt = notBefore.time(), queued.time(), started.time(), finished.time()
	if c.At = canceled.time(); c.Class != "" {
		h.Cancel = &c
	}
	return h, err
}

func scanKey(s scanner) (k store.Key, err error) {
	err = s.Scan(&k.Run, &k.Task, &k.Number, &k.Epoch)
	return k, err
}

// Active returns the runs to look at; see store.Queue.
func (db *DB) Active(ctx context.Context) ([]store.Run, error) {
	runs, err := list(ctx, db.read, db.queries["Active"], scanRun)
	return runs, kind(err)
}

// StartRun starts the next run; see store.Queue.
func (db *DB) StartRun(ctx context.Context) (r store.Run, err error) {
	err = db.tx(ctx, "start the next run", func(t *tx) error {
		id, err := scanOf[int64](t.row(ctx, "StartRun", t.now))
		if err != nil {
			return err
		}
		if err := t.event(ctx, id, store.RunStatus, "", 0, store.EventData{Status: pipeline.Running}); err != nil {
			return err
		}
		r, err = scanRun(t.row(ctx, "RunByID", id))
		return err
	})
	return r, err
}

// Claim claims an attempt; see store.Queue.
func (db *DB) Claim(ctx context.Context, o store.ClaimOptions) (a store.Attempt, err error) {
	err = db.tx(ctx, "claim an attempt", func(t *tx) error {
		a, err = scanAttempt(t.row(ctx, "Claim", o.Owner, t.now+o.Lease.Milliseconds(), t.now, o.Slots))
		if err != nil {
			return err
		}
		started, err := t.exec(ctx, "MoveTask", a.Run, a.Task, pipeline.Queued, pipeline.Running, "", "", t.now)
		if err != nil {
			return err
		}
		if started > 0 { // else it is another attempt of a task that runs already
			if err := t.event(ctx, a.Run, store.TaskStatus, a.Task, 0, store.EventData{Status: pipeline.Running}); err != nil {
				return err
			}
		}
		return t.event(ctx, a.Run, store.AttemptStarted, a.Task, a.Number, store.EventData{Status: pipeline.Running})
	})
	return a, err
}

// Adopt takes an attempt over; see store.Queue.
func (db *DB) Adopt(ctx context.Context, k store.Key, o store.ClaimOptions) (store.Key, error) {
	err := db.tx(ctx, "adopt "+name(k), func(t *tx) error {
		epoch, err := scanOf[int64](t.row(ctx, "Adopt", k.Run, k.Task, k.Number, k.Epoch, o.Owner, t.now+o.Lease.Milliseconds()))
		if errors.Is(err, sql.ErrNoRows) {
			return conflict("somebody else has taken it, or it is over")
		}
		if err != nil {
			return err
		}
		k.Epoch = epoch
		return t.event(ctx, k.Run, store.AttemptAdopted, k.Task, k.Number, store.EventData{})
	})
	return k, err
}

func name(k store.Key) string {
	return fmt.Sprintf("attempt %d of task %s of run %d", k.Number, k.Task, k.Run)
}

// Renew extends leases; see store.Queue.
func (db *DB) Renew(ctx context.Context, lease time.Duration, keys []store.Key) (lost []store.Key, err error) {
	err = db.tx(ctx, "renew leases", func(t *tx) error {
		for _, k := range keys {
			n, err := t.exec(ctx, "Renew", k.Run, k.Task, k.Number, k.Epoch, t.now+lease.Milliseconds())
			if err != nil {
				return err
			}
			if n == 0 {
				lost = append(lost, k)
			}
		}
		return nil
	})
	return lost, err
}

// Held returns what runs; see store.Queue.
func (db *DB) Held(ctx context.Context) ([]store.Held, error) {
	if err := db.settled(ctx); err != nil {
		return nil, err
	}
	held, err := list(ctx, db.read, db.queries["Held"], scanHeld, db.opts.Now().UnixMilli())
	return held, kind(err)
}

// Finish ends an attempt; see store.Queue.
func (db *DB) Finish(ctx context.Context, k store.Key, r store.Result, out ...store.Message) error {
	return db.tx(ctx, "finish "+name(k), func(t *tx) error {
		if _, err := pipeline.Running.Move(r.Status); err != nil {
			return err
		}
		output, err := asJSON(r.Output)
		if err != nil {
			return err
		}
		stale := conflict("epoch %d is not the current one, or it is over", k.Epoch)
		err = t.change(ctx, stale, "Finish", k.Run, k.Task, k.Number, k.Epoch, r.Status, r.Class, r.Error, r.Hint, r.ExitCode,
			output, t.now)
		if err != nil {
			return err
		}
		again, err := t.again(ctx, k, r)
		if err != nil {
			return err
		}
		ended := store.EventData{Status: r.Status, Class: r.Class, Text: r.Error, Image: r.Output.Image, Digest: r.Output.Digest, RetryAt: again}
		if err := t.event(ctx, k.Run, store.AttemptFinished, k.Task, k.Number, ended); err != nil {
			return err
		}
		if again != nil {
			if err := t.queueAttempt(ctx, k.Run, k.Task, again.UnixMilli()); err != nil {
				return err
			}
			return t.send(ctx, out)
		}
		if _, err := t.exec(ctx, "FinishTask", k.Run, k.Task, r.ExitCode, output); err != nil {
			return err
		}
		m := store.Move{Task: k.Task, From: pipeline.Running, To: r.Status, Class: r.Class, Reason: r.Error}
		if err := t.moveTask(ctx, k.Run, m); err != nil {
			return err
		}
		return t.send(ctx, out)
	})
}

// again is when a failed attempt is followed by another, nil for never. Of a run that is to end nothing is tried again.
func (t *tx) again(ctx context.Context, k store.Key, r store.Result) (*time.Time, error) {
	if r.Status != pipeline.Failed || r.Retry < 0 {
		return nil, nil //nolint:nilnil // never is no error
	}
	class, err := scanOf[string](t.row(ctx, "CancelClass", k.Run))
	if err != nil || class != "" {
		return nil, err
	}
	at := time.UnixMilli(t.now).Add(r.Retry).UTC()
	return &at, nil
}

// Usage returns what takes up the slots; see store.Queue.
func (db *DB) Usage(ctx context.Context) (u store.Usage, err error) {
	u.Running = map[int64][]int64{}
	type pair struct{ app, run int64 }
	pairs, err := list(ctx, db.read, db.queries["RunningRuns"], func(s scanner) (p pair, err error) {
		err = s.Scan(&p.app, &p.run)
		return p, err
	})
	if err != nil {
		return u, kind(err)
	}
	for _, p := range pairs {
		u.Running[p.app] = append(u.Running[p.app], p.run)
	}
	u.Attempts, err = list(ctx, db.read, db.queries["RunningKeys"], scanKey)
	return u, kind(err)
}
