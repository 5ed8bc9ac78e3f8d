package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store/sqlfile"
)

// migrate brings the schema up to date in one transaction: all of it, or the file stays as it was. The number of the
// last migration is the file's user_version.
func (db *DB) migrate(ctx context.Context) (err error) {
	migrations, err := sqlfile.Migrations(files, "migrations")
	if err != nil {
		return err
	}
	var at int
	if err := db.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil {
		return err
	}
	if at == len(migrations) {
		return nil
	}
	begun, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if undone := begun.Rollback(); undone != nil && !errors.Is(undone, sql.ErrTxDone) {
			err = errors.Join(err, undone)
		}
	}()
	if err := begun.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil { // another process may have been here
		return err
	}
	if at > len(migrations) {
		err := fmt.Errorf("it was made by a newer slipway (its schema is %d, this one knows %d): %w", at, len(migrations), errs.Invalid)
		return errs.Hint(err, "install the newer slipway again, or restore the backup that was made before")
	}
	for _, m := range migrations[at:] {
		if _, err := begun.ExecContext(ctx, m.SQL); err != nil {
			return fmt.Errorf("migrate: %s: %w", m.Name, err)
		}
	}
	if _, err := begun.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(migrations))); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return begun.Commit()
}
