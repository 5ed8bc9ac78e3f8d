package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"slipway/internal/pipeline/store"
)

// ExtendLog records the state of a log; see store.LogIndex.
func (db *DB) ExtendLog(ctx context.Context, k store.LogKey, from, to store.LogState, marks []store.Mark) error {
	return db.tx(ctx, fmt.Sprintf("index the log of task %s of run %d", k.Task, k.Run), func(t *tx) error {
		if from.Sealed {
			return conflict("it is sealed")
		}
		if _, err := t.exec(ctx, "InsertLog", k.Run, k.Task, k.Attempt, k.Stream); err != nil {
			return err
		}
		err := t.change(ctx, conflict("it is not in the state that was named"), "ExtendLog", k.Run, k.Task, k.Attempt, k.Stream,
			from.Bytes, from.Lines, from.Sealed, to.Bytes, to.Lines, to.Sealed)
		if err != nil {
			return err
		}
		for _, m := range marks {
			if _, err := t.exec(ctx, "InsertMark", k.Run, k.Task, k.Attempt, k.Stream, m.Line, m.Offset); err != nil {
				return err
			}
		}
		return nil
	})
}

// LogState returns the state of a log; see store.LogIndex.
func (db *DB) LogState(ctx context.Context, k store.LogKey) (s store.LogState, err error) {
	err = db.row(ctx, "LogState", k.Run, k.Task, k.Attempt, k.Stream).Scan(&s.Bytes, &s.Lines, &s.Sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return store.LogState{}, nil
	}
	return s, kind(err)
}

// MarkBefore returns a mark; see store.LogIndex.
func (db *DB) MarkBefore(ctx context.Context, k store.LogKey, line int64) (m store.Mark, err error) {
	err = db.row(ctx, "MarkBefore", k.Run, k.Task, k.Attempt, k.Stream, line).Scan(&m.Line, &m.Offset)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Mark{}, nil
	}
	return m, kind(err)
}
