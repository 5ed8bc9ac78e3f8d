// Package sqlite keeps what the service remembers in one SQLite file; it is the driver for one machine.
//
//	db, err := sqlite.Open(ctx, path, sqlite.Options{Now: time.Now})
//	defer db.Close()
//
// The file is in WAL mode with synchronous=FULL: a commit is on the disk when it returns, which costs an fsync, and is
// what the service's promises rest on. One connection writes, others read beside it. Several processes of one machine may
// have the file open; a writer waits for another for some seconds.
//
// The database's clock is this machine's. When it is set, leases are moved along with it, so that a jump neither ends
// what runs nor keeps what is lost; see clock.go. SQL is in queries/ and migrations/; the schema is brought up to date
// when the file is opened, and a file of a newer slipway is refused.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	sqlite "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/store/sqlfile"
)

//go:embed queries/*.sql migrations/*.sql
var files embed.FS

// Options are what a DB knows of the world.
type Options struct {
	// Now is the clock. Required.
	Now func() time.Time
	// Uptime is the time since the machine started, suspended or not. Default: CLOCK_BOOTTIME.
	Uptime func() time.Duration
	// Boot names the machine's current start. Default: what the kernel says.
	Boot string
	// Wait is how long a writer waits for another. Default: 10 seconds.
	Wait time.Duration
}

// DB is a database. All methods may be called from several goroutines.
type DB struct {
	opts        Options
	path        string
	write, read *sql.DB
	queries     map[string]string
}

var (
	_ store.Store    = (*DB)(nil)
	_ store.Backuper = (*DB)(nil)
)

// readers is how many connections read at once.
const readers = 8

// Open opens the database in the file at path, which is made when it is missing, readable by its owner alone.
func Open(ctx context.Context, path string, opts Options) (_ *DB, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open database %s: %w", path, kind(err))
		}
	}()
	if opts.Wait == 0 {
		opts.Wait = 10 * time.Second
	}
	if err := opts.fillClock(); err != nil {
		return nil, err
	}
	queries, err := sqlfile.Queries(files, "queries")
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db := &DB{opts: opts, path: path, queries: queries}
	if db.write, err = connect(path, opts.Wait, 1, "_txlock=immediate"); err != nil {
		return nil, err
	}
	if db.read, err = connect(path, opts.Wait, readers, "_pragma=query_only(1)"); err != nil {
		return nil, errors.Join(err, db.write.Close())
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func connect(path string, wait time.Duration, connections int, setting string) (*sql.DB, error) {
	// journal_mode comes after busy_timeout: switching to WAL needs the file for itself for a moment.
	name := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" +
		fmt.Sprintf("_pragma=busy_timeout(%d)", wait.Milliseconds()) +
		"&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&" + setting
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// Close closes the database.
func (db *DB) Close() error {
	if err := errors.Join(db.read.Close(), db.write.Close()); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// Ping asks whether the database answers and takes writes.
func (db *DB) Ping(ctx context.Context) error {
	return db.tx(ctx, "ping the database", func(*tx) error { return nil })
}

// Backup writes a consistent copy to path; see store.Backuper.
func (db *DB) Backup(ctx context.Context, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up to %s: %w", path, kind(err))
		}
	}()
	if _, err := os.Lstat(path); err == nil {
		return errs.Exists
	}
	// A connection of its own: those that read refuse it, and the one that writes has other things to do.
	source, err := connect(db.path, db.opts.Wait, 1, "_txlock=deferred")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	_, err = source.ExecContext(ctx, "VACUUM INTO $1", path)
	return err
}

// tx is a transaction under way.
type tx struct {
	*sql.Tx
	db *DB
	// now is the time of the transaction, in milliseconds.
	now int64
}

// tx runs f in a transaction that may write: it begins by waiting for other writers, so what it reads is what is there
// when it writes.
func (db *DB) tx(ctx context.Context, what string, f func(*tx) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", what, kind(err))
		}
	}()
	begun, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	t := &tx{Tx: begun, db: db, now: db.opts.Now().UnixMilli()}
	if err = t.settleClock(ctx); err == nil {
		err = f(t)
	}
	if err != nil {
		if undone := begun.Rollback(); undone != nil && !errors.Is(undone, sql.ErrTxDone) {
			err = errors.Join(err, undone)
		}
		return err
	}
	return begun.Commit()
}

// exec runs a named query and returns how many rows it changed.
func (t *tx) exec(ctx context.Context, name string, args ...any) (int64, error) {
	result, err := t.ExecContext(ctx, t.db.queries[name], args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// change runs a named query that must change a row; none is the error otherwise.
func (t *tx) change(ctx context.Context, none error, name string, args ...any) error {
	n, err := t.exec(ctx, name, args...)
	if err == nil && n == 0 {
		return none
	}
	return err
}

func (t *tx) row(ctx context.Context, name string, args ...any) *sql.Row {
	return t.QueryRowContext(ctx, t.db.queries[name], args...)
}

func (db *DB) row(ctx context.Context, name string, args ...any) *sql.Row {
	return db.read.QueryRowContext(ctx, db.queries[name], args...)
}

// querier is a transaction, or the connections that read.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// list runs a query and scans every row of the answer.
func list[T any](ctx context.Context, q querier, query string, scan func(scanner) (T, error), args ...any) (out []T, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, rows.Err()
}

// scanner is a row of an answer.
type scanner interface{ Scan(into ...any) error }

// scanOf scans rows of one column.
func scanOf[T any](s scanner) (v T, err error) {
	err = s.Scan(&v)
	return v, err
}

// kind gives an error of the database its kind.
func kind(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return errs.Mark(errors.New("there is none"), errs.NotFound)
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return errs.Hint(errs.Mark(err, errs.Limit), "the disk is full: make room, or set shorter retention")
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_IOERR:
		return errs.Mark(err, errs.Unavailable)
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return errs.Hint(errs.Mark(err, errs.Corrupt), "restore a backup: slipway service restore")
	case lib.SQLITE_CONSTRAINT:
		if e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE || e.Code() == lib.SQLITE_CONSTRAINT_PRIMARYKEY {
			return errs.Mark(err, errs.Exists)
		}
		return errs.Mark(err, errs.Conflict)
	}
	return err
}

// millis is an instant as a column has it.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// instant is what a column means: 0 is never.
type instant int64

func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(i)).UTC()
}

// column stores a value as JSON, and reads it.
type column[T any] struct{ value *T }

func (c column[T]) Scan(from any) error {
	text, ok := from.(string)
	if !ok {
		return fmt.Errorf("want text, not %T: %w", from, errs.Corrupt)
	}
	if err := json.Unmarshal([]byte(text), c.value); err != nil {
		return errs.Mark(err, errs.Corrupt)
	}
	return nil
}

// asJSON is a value as a column of JSON has it.
func asJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// notFound is for a row that is missing where the caller knows its name.
func notFound(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), errs.NotFound)
}

// conflict is for a row that is not as the caller believes.
func conflict(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), errs.Conflict)
}

// limit is the number of rows to return, when asked for n.
func limit(n int) int {
	const usual, most = 50, 1000
	switch {
	case n <= 0:
		return usual
	case n > most:
		return most
	default:
		return n
	}
}

// Check looks through the whole file for damage.
func (db *DB) Check(ctx context.Context) error {
	verdict, err := scanOf[string](db.read.QueryRowContext(ctx, "PRAGMA integrity_check"))
	if err != nil {
		return fmt.Errorf("check the database: %w", kind(err))
	}
	if verdict != "ok" {
		err := fmt.Errorf("check the database: %s: %w", verdict, errs.Corrupt)
		return errs.Hint(err, "restore a backup: slipway service restore")
	}
	return nil
}
