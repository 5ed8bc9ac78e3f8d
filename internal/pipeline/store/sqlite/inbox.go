package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"slipway/internal/pipeline/store"
)

func scanDelivery(s scanner) (d store.Delivery, err error) {
	var received, processed instant
	err = s.Scan(&d.ID, &d.AppID, &d.App, &d.Provider, &d.Delivery, &d.Event, column[map[string]string]{&d.Header}, &d.Status, &d.Reason,
		&d.Run, &d.Attempts, &d.Epoch, &d.ReplayOf, &d.By, &received, &processed, &d.Body)
	d.ReceivedAt, d.ProcessedAt = received.time(), processed.time()
	return d, err
}

// Receive stores a delivery; see store.Inbox.
func (db *DB) Receive(ctx context.Context, d store.Delivery) (stored store.Delivery, duplicate bool, err error) {
	err = db.tx(ctx, "receive a delivery", func(t *tx) error {
		id, err := t.insertDelivery(ctx, d)
		if errors.Is(err, sql.ErrNoRows) { // there is one already
			duplicate = true
			id, err = scanOf[int64](t.row(ctx, "SameDelivery", d.AppID, d.Provider, d.Delivery))
		}
		if err != nil {
			return err
		}
		stored, err = scanDelivery(t.row(ctx, "DeliveryByID", id))
		return err
	})
	return stored, duplicate, err
}

func (t *tx) insertDelivery(ctx context.Context, d store.Delivery) (int64, error) {
	header, err := asJSON(d.Header)
	if err != nil {
		return 0, err
	}
	body := d.Body
	if body == nil {
		body = []byte{}
	}
	return scanOf[int64](t.row(ctx, "InsertDelivery", d.AppID, d.Provider, d.Delivery, d.Event, header, body, t.now, d.ReplayOf, d.By))
}

// NextDelivery claims a delivery; see store.Inbox.
func (db *DB) NextDelivery(ctx context.Context, lease time.Duration) (d store.Delivery, err error) {
	err = db.tx(ctx, "claim a delivery", func(t *tx) error {
		id, err := scanOf[int64](t.row(ctx, "ClaimDelivery", t.now, t.now+lease.Milliseconds()))
		if err != nil {
			return err
		}
		d, err = scanDelivery(t.row(ctx, "DeliveryByID", id))
		return err
	})
	return d, err
}

// Processed records what became of a delivery; see store.Inbox.
func (db *DB) Processed(ctx context.Context, d store.Delivery, o store.Outcome) error {
	return db.tx(ctx, fmt.Sprintf("delivery %d", d.ID), func(t *tx) error {
		done := t.now
		if o.Status == store.DeliveryReceived {
			done = 0
		}
		stale := conflict("epoch %d is not the current one, or it has been processed", d.Epoch)
		return t.change(ctx, stale, "Processed", d.ID, d.Epoch, o.Status, o.Reason, o.Run, t.now+o.Again.Milliseconds(), done)
	})
}

// Replay stores a copy of a delivery; see store.Inbox.
func (db *DB) Replay(ctx context.Context, id int64, by string) (d store.Delivery, err error) {
	err = db.tx(ctx, fmt.Sprintf("replay delivery %d", id), func(t *tx) error {
		d, err = scanDelivery(t.row(ctx, "DeliveryByID", id))
		if err != nil {
			return err
		}
		d.Delivery, d.ReplayOf, d.By = "", id, by
		again, err := t.insertDelivery(ctx, d)
		if err != nil {
			return err
		}
		d, err = scanDelivery(t.row(ctx, "DeliveryByID", again))
		return err
	})
	return d, err
}

// Delivery returns a delivery; see store.Inbox.
func (db *DB) Delivery(ctx context.Context, id int64) (store.Delivery, error) {
	d, err := scanDelivery(db.row(ctx, "DeliveryByID", id))
	return d, one(err, "delivery %d", id)
}

// Deliveries returns deliveries; see store.Inbox.
func (db *DB) Deliveries(ctx context.Context, f store.DeliveryFilter) ([]store.Delivery, error) {
	name, args := "Deliveries", []any{cmp.Or(f.Before, math.MaxInt64), limit(f.Limit), f.Status}
	if f.AppID != 0 {
		name, args = "DeliveriesOfApp", append(args, f.AppID)
	}
	deliveries, err := list(ctx, db.read, db.queries[name], scanDelivery, args...)
	return deliveries, kind(err)
}

// ForgetDeliveries removes old deliveries; see store.Inbox.
func (db *DB) ForgetDeliveries(ctx context.Context, age time.Duration) (int64, error) {
	return db.forget(ctx, "ForgetDeliveries", age)
}

// forget runs a query that removes what is older than age.
func (db *DB) forget(ctx context.Context, query string, age time.Duration) (n int64, err error) {
	err = db.tx(ctx, "forget what is old", func(t *tx) error {
		n, err = t.exec(ctx, query, t.now-age.Milliseconds())
		return err
	})
	return n, err
}
