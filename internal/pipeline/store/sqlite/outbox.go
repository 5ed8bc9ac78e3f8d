package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	"slipway/internal/pipeline/store"
)

func scanMessage(s scanner) (m store.Message, err error) {
	var due, created, sent instant
	err = s.Scan(&m.ID, &m.Kind, &m.Key, &m.Run, &m.Body, &m.Status, &m.Attempts, &m.Error, &m.Epoch, &due, &created, &sent)
	m.DueAt, m.CreatedAt, m.SentAt = due.time(), created.time(), sent.time()
	return m, err
}

// send stores messages with the change that a transaction makes.
func (t *tx) send(ctx context.Context, out []store.Message) error {
	for _, m := range out {
		if _, err := t.exec(ctx, "ReplaceMessages", m.Kind, m.Key, t.now); err != nil {
			return err
		}
		body := m.Body
		if body == nil {
			body = []byte{}
		}
		if _, err := t.exec(ctx, "InsertMessage", m.Kind, m.Key, m.Run, body, t.now); err != nil {
			return err
		}
	}
	return nil
}

// Send stores messages; see store.Outbox.
func (db *DB) Send(ctx context.Context, out ...store.Message) error {
	return db.tx(ctx, "store messages", func(t *tx) error { return t.send(ctx, out) })
}

// NextMessage claims a message; see store.Outbox.
func (db *DB) NextMessage(ctx context.Context, lease time.Duration, kinds ...string) (m store.Message, err error) {
	err = db.tx(ctx, "claim a message", func(t *tx) error {
		words, err := asJSON(kinds)
		if err != nil {
			return err
		}
		m, err = scanMessage(t.row(ctx, "ClaimMessage", t.now, t.now+lease.Milliseconds(), words))
		return err
	})
	return m, err
}

// Sent records that a message was sent; see store.Outbox.
func (db *DB) Sent(ctx context.Context, m store.Message) error {
	return db.endMessage(ctx, m, store.MessageSent, "", 0)
}

// NotSent records that a message was not sent; see store.Outbox.
func (db *DB) NotSent(ctx context.Context, m store.Message, why string, again time.Duration) error {
	if again < 0 {
		return db.endMessage(ctx, m, store.MessageFailed, why, 0)
	}
	return db.endMessage(ctx, m, store.MessageWaiting, why, again)
}

func (db *DB) endMessage(ctx context.Context, m store.Message, status store.MessageStatus, why string, again time.Duration) error {
	return db.tx(ctx, fmt.Sprintf("message %d", m.ID), func(t *tx) error {
		done := t.now
		if status == store.MessageWaiting {
			done = 0
		}
		stale := conflict("epoch %d is not the current one, or it was replaced", m.Epoch)
		return t.change(ctx, stale, "EndMessage", m.ID, m.Epoch, status, why, t.now+again.Milliseconds(), done)
	})
}

// Messages returns messages; see store.Outbox.
func (db *DB) Messages(ctx context.Context, f store.MessageFilter) ([]store.Message, error) {
	name, args := "Messages", []any{cmp.Or(f.Before, math.MaxInt64), limit(f.Limit), f.Status}
	if f.Run != 0 {
		name, args = "MessagesOfRun", append(args, f.Run)
	}
	messages, err := list(ctx, db.read, db.queries[name], scanMessage, args...)
	return messages, kind(err)
}

// ForgetMessages removes old messages; see store.Outbox.
func (db *DB) ForgetMessages(ctx context.Context, age time.Duration) (int64, error) {
	return db.forget(ctx, "ForgetMessages", age)
}
