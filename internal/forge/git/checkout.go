package git

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Checkout writes the commit's files into dir, which is empty. It may be called several times at once.
func (r *Repository) Checkout(ctx context.Context, dir string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("check out %s: %w", r.commit.Short(), err)
	}
	index, err := os.MkdirTemp(r.scratch, "git-index-")
	if err != nil {
		return fmt.Errorf("check out %s: %w", r.commit.Short(), err)
	}
	defer os.RemoveAll(index) //nolint:errcheck // an index of a few kilobytes in a temporary folder
	git := r.command.of(r.dir).with("GIT_WORK_TREE="+dir, "GIT_INDEX_FILE="+filepath.Join(index, "index")).in(dir)
	if _, err := git.output(ctx, "read-tree", "--reset", "-u", r.commit.ID); err != nil {
		return fmt.Errorf("check out %s: %w", r.commit.Short(), err)
	}
	if err := settle(ctx, dir, r.commit.Time); err != nil {
		return fmt.Errorf("check out %s: %w", r.commit.Short(), err)
	}
	return nil
}

// settle gives everything below dir one time, and the permissions that git knows of, whatever the umask. Symbolic links
// get the time themselves: what they point at is not ours.
func settle(ctx context.Context, dir string, t time.Time) error {
	at := unix.NsecToTimespec(t.UnixNano())
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := settleMode(path, entry); err != nil {
			return err
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "set the time of", Path: path, Err: err}
		}
		return nil
	})
}

func settleMode(path string, entry fs.DirEntry) error {
	if entry.Type() == fs.ModeSymlink {
		return nil
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if info.Mode().Perm() == mode {
		return nil
	}
	return os.Chmod(path, mode)
}
