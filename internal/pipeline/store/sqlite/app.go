package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store"
)

func scanApp(s scanner) (a store.App, err error) {
	var created, updated instant
	err = s.Scan(&a.ID, &a.Name, &a.Description, column[store.Source]{&a.Source}, &a.PipelinePath, &a.PipelineText,
		&a.Concurrency, &a.Supersede, &a.KeepRuns, &a.KeepDays, &a.Version, &created, &updated)
	a.CreatedAt, a.UpdatedAt = created.time(), updated.time()
	return a, err
}

// CreateApp adds an app; see store.AppStore.
func (db *DB) CreateApp(ctx context.Context, a store.App) (out store.App, err error) {
	err = db.tx(ctx, "create app "+a.Name, func(t *tx) error {
		source, err := asJSON(a.Source)
		if err != nil {
			return err
		}
		out, err = scanApp(t.row(ctx, "InsertApp", a.Name, a.Description, source, a.PipelinePath, a.PipelineText,
			a.Concurrency, a.Supersede, a.KeepRuns, a.KeepDays, t.now))
		if errors.Is(kind(err), errs.Exists) {
			return errs.Mark(errors.New("there is one with this name"), errs.Exists)
		}
		return err
	})
	return out, err
}

// App returns the app called name; see store.AppStore.
func (db *DB) App(ctx context.Context, name string) (store.App, error) {
	a, err := scanApp(db.row(ctx, "AppByName", name))
	return a, one(err, "app %s", name)
}

// one explains the error of a query for a row that the caller named.
func one(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return notFound(format+": there is none", args...)
	}
	return kind(err)
}

// Apps returns all apps; see store.AppStore.
func (db *DB) Apps(ctx context.Context) ([]store.App, error) {
	apps, err := list(ctx, db.read, db.queries["Apps"], scanApp)
	return apps, kind(err)
}

// UpdateApp stores an app; see store.AppStore.
func (db *DB) UpdateApp(ctx context.Context, a store.App) (out store.App, err error) {
	err = db.tx(ctx, "update app "+a.Name, func(t *tx) error {
		source, err := asJSON(a.Source)
		if err != nil {
			return err
		}
		out, err = scanApp(t.row(ctx, "UpdateApp", a.Name, a.Version, a.Description, source, a.PipelinePath, a.PipelineText,
			a.Concurrency, a.Supersede, a.KeepRuns, a.KeepDays, t.now))
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := scanApp(t.row(ctx, "AppByName", a.Name)); err != nil {
			return err
		}
		return conflict("somebody else has changed it: version %d is not the current one", a.Version)
	})
	return out, err
}

// DeleteApp removes an app; see store.AppStore.
func (db *DB) DeleteApp(ctx context.Context, name string) error {
	return db.tx(ctx, "delete app "+name, func(t *tx) error {
		busy, err := scanOf[int](t.row(ctx, "AppIsBusy", name))
		if err != nil {
			return err
		}
		if busy > 0 {
			return errs.Hint(conflict("%d of its runs are not over", busy), "cancel them, and try again when they have ended")
		}
		if err := t.change(ctx, sql.ErrNoRows, "DeleteApp", name); err != nil {
			return err
		}
		_, err = t.exec(ctx, "DeleteSecretsOf", store.AppScope(name))
		return err
	})
}

// Variables returns an app's variables; see store.AppStore.
func (db *DB) Variables(ctx context.Context, app int64) ([]store.Variable, error) {
	variables, err := list(ctx, db.read, db.queries["Variables"], func(s scanner) (v store.Variable, err error) {
		var updated instant
		err = s.Scan(&v.Name, &v.Value, &updated)
		v.UpdatedAt = updated.time()
		return v, err
	}, app)
	return variables, kind(err)
}

// SetVariable stores a variable; see store.AppStore.
func (db *DB) SetVariable(ctx context.Context, app int64, name, value string) error {
	return db.tx(ctx, "set variable "+name, func(t *tx) error {
		_, err := t.exec(ctx, "SetVariable", app, name, value, t.now)
		return err
	})
}

// DeleteVariable removes a variable; see store.AppStore.
func (db *DB) DeleteVariable(ctx context.Context, app int64, name string) error {
	return db.tx(ctx, "delete variable "+name, func(t *tx) error {
		return t.change(ctx, sql.ErrNoRows, "DeleteVariable", app, name)
	})
}
