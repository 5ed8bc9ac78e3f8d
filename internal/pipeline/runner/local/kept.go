package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Keep makes a folder below dir for an environment that outlives its task. Its name says until when, so that whoever
// comes by later can tell; see Expire.
func Keep(dir, task string, until time.Time) (path string, _ time.Time, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", until, err
	}
	until = until.Truncate(time.Second)
	safe := strings.Map(func(r rune) rune {
		if r == filepath.Separator || r == '*' {
			return '_'
		}
		return r
	}, task)
	path, err = os.MkdirTemp(dir, strconv.FormatInt(until.Unix(), 10)+"-"+safe+"-*")
	return path, until, err
}

// Expire removes the folders below dir whose time is over.
func Expire(dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		word, _, _ := strings.Cut(e.Name(), "-")
		seconds, err := strconv.ParseInt(word, 10, 64)
		if err != nil || now.Before(time.Unix(seconds, 0)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
