package app

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// hintFull says which folder has no room when a disk is full. An error about a file elsewhere, an output, names it
// already.
func (a *App) hintFull(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	if file, ok := errors.AsType[*fs.PathError](err); ok && !strings.HasPrefix(file.Path, filepath.Clean(a.opts.Home)+"/") {
		return err
	}
	return errs.Hint(errs.Mark(err, errs.Limit), "free some space in the file system of "+a.opts.Home+", or choose another home with SLIPWAY_HOME")
}
