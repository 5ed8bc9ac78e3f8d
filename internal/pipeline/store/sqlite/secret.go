package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"slipway/internal/pipeline/store"
)

func scanSecret(s scanner) (out store.Secret, err error) {
	var created instant
	err = s.Scan(&out.Scope, &out.Name, &out.Version, &created, &out.CreatedBy, &out.Deleted, &out.Sealed)
	out.CreatedAt = created.time()
	return out, err
}

// PutSecret stores a secret's next version; see store.SecretStore.
func (db *DB) PutSecret(ctx context.Context, scope, name, by string, seal func(version int64) ([]byte, error)) (out store.Secret, err error) {
	err = db.tx(ctx, "store secret "+name, func(t *tx) error {
		version, err := scanOf[int64](t.row(ctx, "NextVersion", scope, name))
		if err != nil {
			return err
		}
		sealed, err := seal(version)
		if err != nil {
			return err
		}
		out, err = scanSecret(t.row(ctx, "InsertSecret", scope, name, version, sealed, t.now, by))
		return err
	})
	return out, err
}

// Secrets returns the latest versions; see store.SecretStore.
func (db *DB) Secrets(ctx context.Context, scope string) ([]store.Secret, error) {
	secrets, err := list(ctx, db.read, db.queries["Secrets"], scanSecret, scope)
	return secrets, kind(err)
}

// Secret returns a version; see store.SecretStore.
func (db *DB) Secret(ctx context.Context, v store.SecretVersion) (store.Secret, error) {
	s, err := scanSecret(db.row(ctx, "Secret", v.Scope, v.Name, v.Version))
	if v.Version == 0 {
		return s, one(err, "secret %s", v.Name)
	}
	return s, one(err, "version %d of secret %s", v.Version, v.Name)
}

// DeleteSecret destroys a secret; see store.SecretStore.
func (db *DB) DeleteSecret(ctx context.Context, scope, name string) error {
	return db.tx(ctx, "delete secret "+name, func(t *tx) error {
		return t.change(ctx, sql.ErrNoRows, "DestroySecret", scope, name)
	})
}

// EachSecret goes through all secrets; see store.SecretStore.
func (db *DB) EachSecret(ctx context.Context, f func(store.Secret) ([]byte, error)) error {
	return db.tx(ctx, "go through the secrets", func(t *tx) error {
		secrets, err := list(ctx, t, db.queries["EverySecret"], scanSecret)
		if err != nil {
			return err
		}
		for _, s := range secrets {
			sealed, err := f(s)
			if err != nil {
				return fmt.Errorf("secret %s of %s, version %d: %w", s.Name, s.Scope, s.Version, err)
			}
			if sealed == nil {
				continue
			}
			if _, err := t.exec(ctx, "ResealSecret", s.Scope, s.Name, s.Version, sealed); err != nil {
				return err
			}
		}
		return nil
	})
}
