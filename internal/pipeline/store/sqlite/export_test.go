package sqlite

import "context"

// Fill lets the file grow no more, as a full disk would.
func (db *DB) Fill(ctx context.Context) error {
	_, err := db.write.ExecContext(ctx, "PRAGMA max_page_count = 1")
	return err
}

// Queries are the names of all queries.
func (db *DB) Queries() map[string]string { return db.queries }

// Prepare prepares a query.
func (db *DB) Prepare(ctx context.Context, query string) error {
	s, err := db.write.PrepareContext(ctx, query)
	if err != nil {
		return err
	}
	defer s.Close()
	return nil
}
