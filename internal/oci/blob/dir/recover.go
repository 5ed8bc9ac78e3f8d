package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Recover removes what processes that died left half written. It may run at any time, beside living writers.
func (s *Store) Recover(ctx context.Context) error {
	files, err := os.ReadDir(s.ingest())
	if err != nil {
		return fmt.Errorf("recover blob store: %w", err)
	}
	for _, file := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := removeDead(filepath.Join(s.ingest(), file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("recover blob store: %w", err)
		}
	}
	return nil
}

// removeDead removes an ingest file unless some process holds its lock.
func removeDead(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := flock(f, unix.LOCK_EX); err != nil {
		if errors.Is(err, errs.Conflict) {
			return nil
		}
		return err
	}
	return os.Remove(path)
}
