package output

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// writeFolder puts files into a folder that may hold others: folders merge, a file takes the place of a file, and what
// the image does not have stays. The files are made in a folder beside the others first, and moved when all of them are
// there; so each appears whole, and a failure while they are made changes nothing.
func writeFolder(ctx context.Context, dest string, files iter.Seq2[layer.File, error], epoch *time.Time) (err error) {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(dest, ".slipway-") // in dest: what is beside it may be another file system
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	if uid := os.Geteuid(); uid != 0 {
		files = ownedBy(files, uid, os.Getegid())
	}
	if err := layer.Place(ctx, made, files, layer.PlaceOptions{Epoch: epoch}); err != nil {
		return err
	}
	return merge(made, dest)
}

// ownedBy gives files to a user who may not give them to anybody else, as root alone may. Attributes that only root may
// set, as a file's capabilities, mean nothing then.
func ownedBy(files iter.Seq2[layer.File, error], uid, gid int) iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		for f, err := range files {
			f.UID, f.GID = uid, gid
			f.Xattrs = userAttrs(f.Xattrs)
			if !yield(f, err) {
				return
			}
		}
	}
}

func userAttrs(all map[string]string) map[string]string {
	var own map[string]string
	for k, v := range all {
		if strings.HasPrefix(k, "user.") {
			if own == nil {
				own = map[string]string{}
			}
			own[k] = v
		}
	}
	return own
}

// merge moves what is in one folder into another. No symbolic link is followed: one that stands where the image has a
// folder is in the way.
func merge(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		there, err := os.Lstat(dst)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = os.Rename(src, dst)
		case err != nil:
		case !e.IsDir() && !there.IsDir():
			err = os.Rename(src, dst)
		case e.IsDir() && there.IsDir():
			err = mergeFolder(src, dst)
		default:
			err = inTheWay(dst, there)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inTheWay refuses to replace a folder by something else, or the other way round: what would be lost is the user's.
func inTheWay(path string, there fs.FileInfo) error {
	what := "a file"
	switch {
	case there.IsDir():
		what = "a folder"
	case there.Mode().Type() == fs.ModeSymlink:
		what = "a symbolic link"
	}
	return errs.Hint(fmt.Errorf("%s is %s, but not in the image: %w", path, what, errs.Exists), "remove it, or choose an empty folder")
}

// mergeFolder merges a folder and then makes it look like the image's.
func mergeFolder(src, dst string) error {
	if err := merge(src, dst); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: src, Err: err}
	}
	if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return os.Chmod(dst, layer.FileMode(st.Mode))
}
