// Package tempfile makes files that belong to a process for as long as it lives: files that are written and then
// renamed into place, and files whose only meaning is that their process is there. What a process that was killed left
// can be told from what a living one uses, because each file is locked (flock) by its process, whatever machine or
// container that runs in.
//
//	f, err := tempfile.Create(dir, ".record-")
//	…
//	err = os.Rename(f.Name(), path)
//	err = f.Close()
//
// and now and then
//
//	n, err := tempfile.Recover(dir, ".record-")
package tempfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Create makes an empty file in dir whose name begins with prefix, locked until it is closed. Its mode is 0600. Whoever
// made it renames or removes it before closing it.
func Create(dir, prefix string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, prefix+"*")
		if err != nil {
			return nil, err
		}
		// Recover may come between making and locking it; then there is another try.
		mine, err := claim(f)
		if mine {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, errors.Join(err, os.Remove(f.Name()))
		}
	}
}

// claim locks a file, and says whether that worked and the file still has its name.
func claim(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// Recover removes the files in dir whose names begin with prefix and which nobody holds any more, and returns how many
// there were. It may run at any time. A folder that does not exist has none.
func Recover(dir, prefix string) (n int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("recover: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() {
			continue
		}
		removed, err := removeDead(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("recover: %w", err)
		}
		if removed {
			n++
		}
	}
	return n, nil
}

func removeDead(path string) (removed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	mine, err := claim(f)
	if err != nil || !mine {
		return false, err
	}
	return true, os.Remove(path)
}
