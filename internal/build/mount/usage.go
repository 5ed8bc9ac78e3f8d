package mount

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/disk"
	"slipway/internal/errs"
)

// Usage is what one folder takes.
type Usage struct {
	// Name names the folder, for Remove.
	Name string
	// ID is what the user calls it.
	ID   string
	Size int64     // on the disk
	Used time.Time // last
	Held bool      // by some process, just now
}

// trashName is the folder of what is being removed.
const trashName = "trash"

// Usage lists what the folders take. One that was not used since it was last measured is not measured again. Folders that
// come or go meanwhile may be missed.
func (s *Store) Usage(ctx context.Context) ([]Usage, error) {
	locks, err := filepath.Glob(filepath.Join(s.dir, "*", "*"+lockSuffix))
	if err != nil {
		return nil, err
	}
	var all []Usage
	for _, name := range locks {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		u, err := s.usage(strings.TrimSuffix(name, lockSuffix))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errRemoved) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("usage of cache mounts: %w", err)
		}
		all = append(all, u)
	}
	return all, nil
}

func (s *Store) usage(home string) (u Usage, err error) {
	if u.Name, err = filepath.Rel(s.dir, home); err != nil {
		return u, err
	}
	id, err := os.ReadFile(filepath.Join(filepath.Dir(home), idName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return u, err
	}
	u.ID = strings.TrimSuffix(string(id), "\n")
	f, err := os.OpenFile(home+lockSuffix, os.O_RDWR, 0)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return u, err
	}
	u.Used = info.ModTime()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		u.Held = true
	} else if err != nil {
		return u, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	// Who wants the folder shall not wait until it is measured. It is not relied on to be there.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return u, fmt.Errorf("unlock %s: %w", f.Name(), err)
	}
	u.Size, err = measure(home, u.Used, u.Held)
	return u, err
}

// measure returns what a folder takes, and remembers it unless it changes meanwhile.
func measure(home string, used time.Time, held bool) (int64, error) {
	file := home + sizeSuffix
	if info, err := os.Stat(file); err == nil && !held && info.ModTime().After(used) {
		data, err := os.ReadFile(file)
		line, whole := strings.CutSuffix(string(data), "\n") // a writer that was killed left less
		if n, wrong := strconv.ParseInt(line, 10, 64); err == nil && wrong == nil && whole {
			return n, nil
		}
	}
	n, err := disk.Used(home)
	if err != nil || held {
		return n, err
	}
	return n, os.WriteFile(file, []byte(strconv.FormatInt(n, 10)+"\n"), 0o600)
}

// Remove removes a folder that Usage has named. Its files are put aside, for Sweep to delete. If it is in use the error
// is of kind errs.Conflict; if it is not there, of kind errs.NotFound.
func (s *Store) Remove(name string) (err error) {
	key, number, ok := strings.Cut(name, "/")
	if _, bad := strconv.Atoi(number); !ok || bad != nil || !filepath.IsLocal(key) || strings.Contains(key, "/") {
		return fmt.Errorf("remove cache mount %q: %w", name, errs.Invalid)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove cache mount %s: %w", name, err)
		}
	}()
	home := filepath.Join(s.dir, name)
	f, err := os.OpenFile(home+lockSuffix, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.NotFound
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w: it is in use", errs.Conflict)
		}
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if still(f) != nil {
		return errs.NotFound
	}
	if err := s.putAside(home); err != nil {
		return err
	}
	// The lock goes last: as long as it has its name, whoever wants the folder waits for it.
	for _, file := range []string{home + sizeSuffix, home + lockSuffix} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return removeKey(filepath.Dir(home))
}

// putAside moves a folder, and one that was never finished beside it, out of the way.
func (s *Store) putAside(home string) error {
	trash := filepath.Join(s.dir, trashName)
	if err := os.MkdirAll(trash, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{home, home + newSuffix} {
		if err := os.Rename(dir, filepath.Join(trash, rand.Text())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeKey removes a key's folder when nothing but its name is left in it.
func removeKey(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || len(files) > 1 || len(files) == 1 && files[0].Name() != idName {
		return err
	}
	if err := os.Remove(filepath.Join(dir, idName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return err // somebody who came meanwhile is no error, and writes the name again
	}
	return nil
}

// Sweep deletes what Remove has put aside, until ctx is done. It may run at any time.
func (s *Store) Sweep(ctx context.Context) error {
	trash := filepath.Join(s.dir, trashName)
	dirs, err := os.ReadDir(trash)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep cache mounts: %w", err)
	}
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := os.RemoveAll(filepath.Join(trash, dir.Name())); err != nil {
			return fmt.Errorf("sweep cache mounts: %w", err)
		}
	}
	return nil
}
