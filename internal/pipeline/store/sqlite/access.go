package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store"
)

func scanToken(s scanner) (t store.Token, err error) {
	var created, expires, used, revoked instant
	err = s.Scan(&t.ID, &t.Name, &t.Role, column[map[string]store.Role]{&t.Apps}, &t.ReadOnly, &t.CreatedBy, &created, &expires, &used, &revoked)
	t.CreatedAt, t.ExpiresAt, t.UsedAt, t.RevokedAt = created.time(), expires.time(), used.time(), revoked.time()
	return t, err
}

// CreateToken adds a token; see store.TokenStore.
func (db *DB) CreateToken(ctx context.Context, k store.Token) (out store.Token, err error) {
	err = db.tx(ctx, "create token "+k.Name, func(t *tx) error {
		out, err = t.insertToken(ctx, k)
		return err
	})
	return out, err
}

// FirstToken adds the first token; see store.TokenStore.
func (db *DB) FirstToken(ctx context.Context, k store.Token) (out store.Token, err error) {
	err = db.tx(ctx, "create the first token", func(t *tx) error {
		n, err := scanOf[int](t.row(ctx, "TokensEver"))
		if err != nil {
			return err
		}
		if n > 0 {
			return errs.Mark(errors.New("there has been one"), errs.Exists)
		}
		out, err = t.insertToken(ctx, k)
		return err
	})
	return out, err
}

func (t *tx) insertToken(ctx context.Context, k store.Token) (store.Token, error) {
	apps, err := asJSON(k.Apps)
	if err != nil {
		return store.Token{}, err
	}
	out, err := scanToken(t.row(ctx, "InsertToken", k.Name, k.Hash, k.Role, apps, k.ReadOnly, k.CreatedBy, t.now, millis(k.ExpiresAt)))
	if errors.Is(kind(err), errs.Exists) {
		return out, errs.Mark(errors.New("there is one with this name"), errs.Exists)
	}
	return out, err
}

// touchEvery is how exactly the last use of a token is known: noting it is a write, and writes are dear.
const touchEvery = time.Minute

// TokenByHash returns a token; see store.TokenStore.
func (db *DB) TokenByHash(ctx context.Context, hash []byte) (store.Token, error) {
	now := db.opts.Now()
	k, err := scanToken(db.row(ctx, "TokenByHash", hash, now.UnixMilli()))
	if err != nil {
		return k, one(err, "the token")
	}
	if now.Sub(k.UsedAt) < touchEvery {
		return k, nil
	}
	err = db.tx(ctx, "note the use of a token", func(t *tx) error {
		_, err := t.exec(ctx, "TouchToken", k.ID, t.now)
		return err
	})
	return k, err
}

// Tokens returns all tokens; see store.TokenStore.
func (db *DB) Tokens(ctx context.Context) ([]store.Token, error) {
	tokens, err := list(ctx, db.read, db.queries["Tokens"], scanToken)
	return tokens, kind(err)
}

// RevokeToken ends a token; see store.TokenStore.
func (db *DB) RevokeToken(ctx context.Context, id int64) error {
	return db.tx(ctx, fmt.Sprintf("revoke token %d", id), func(t *tx) error {
		return t.change(ctx, sql.ErrNoRows, "RevokeToken", id, t.now)
	})
}

func scanEntry(s scanner) (e store.Entry, err error) {
	var at instant
	err = s.Scan(&e.ID, &at, &e.Actor, &e.Action, &e.Result, &e.App, &e.Subject, &e.Remote, &e.Detail)
	e.At = at.time()
	return e, err
}

// Record appends to the audit log; see store.AuditLog.
func (db *DB) Record(ctx context.Context, e store.Entry) error {
	return db.tx(ctx, "write the audit log", func(t *tx) error {
		_, err := t.exec(ctx, "InsertEntry", t.now, e.Actor, e.Action, e.Result, e.App, e.Subject, e.Remote, e.Detail)
		return err
	})
}

// Entries returns entries of the audit log; see store.AuditLog.
func (db *DB) Entries(ctx context.Context, f store.EntryFilter) ([]store.Entry, error) {
	entries, err := list(ctx, db.read, db.queries["Entries"], scanEntry,
		cmp.Or(f.Before, math.MaxInt64), limit(f.Limit), f.Actor, f.Action, f.App)
	return entries, kind(err)
}

// ForgetEntries removes old entries; see store.AuditLog.
func (db *DB) ForgetEntries(ctx context.Context, age time.Duration) (int64, error) {
	return db.forget(ctx, "ForgetEntries", age)
}
