package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scratch is a folder for the time of a run. Its lock is held as long as the process lives, so that the next run can
// tell the folder of one that was killed from one in use.
type scratch struct {
	path string
	lock *os.File
}

// newScratch makes a folder below dir, and removes those whose process is gone.
func newScratch(dir string) (_ *scratch, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the run: %w", err)
	}
	// One at a time: between a folder's birth and its lock it looks like one that was left behind.
	gate, err := lockFile(filepath.Join(dir, ".lock"), unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("make a folder for the run: %w", err)
	}
	defer func() { err = errors.Join(err, gate.Close()) }()
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	path, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the run: %w", err)
	}
	lock, err := lockFile(path+".lock", unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a folder for the run: %w", err), os.Remove(path))
	}
	return &scratch{path: path, lock: lock}, nil
}

// lockFile opens and locks a file, which is unlocked when it is closed or the process ends.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// sweep removes the folders in dir that nobody holds.
func sweep(dir string) error {
	folders, err := filepath.Glob(filepath.Join(dir, "run-*"))
	if err != nil {
		return err
	}
	for _, path := range folders {
		if filepath.Ext(path) == ".lock" {
			continue
		}
		lock, err := lockFile(path+".lock", unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return err
		}
		if err := (&scratch{path, lock}).close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *scratch) close() error {
	return errors.Join(os.RemoveAll(s.path), os.Remove(s.path+".lock"), s.lock.Close())
}
