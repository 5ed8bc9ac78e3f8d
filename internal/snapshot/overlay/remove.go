package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/snapshot"
)

// Remove implements [snapshot.Snapshotter].
func (o *Overlay) Remove(_ context.Context, id snapshot.ID) error {
	if err := o.remove(id, everything); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// PutAside removes a folder as Remove does, but leaves it to Sweep to delete the files, which takes longer.
func (o *Overlay) PutAside(_ context.Context, id snapshot.ID) error {
	if err := o.remove(id, 0); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// remove removes a folder that nobody holds, and up to limit of its files at once. Links to it are left to dangle;
// Lookup and Recover remove them.
func (o *Overlay) remove(id snapshot.ID, limit int) error {
	if err := check(id); err != nil {
		return err
	}
	l, err := o.lock(id, unix.LOCK_EX)
	if err != nil {
		return err
	}
	return errors.Join(o.bury(id, limit), l.Close())
}

// bury puts a folder whose lock the caller has into the trash, which is quick whatever its size, and there deletes up to
// limit files.
func (o *Overlay) bury(id snapshot.ID, limit int) error {
	grave := filepath.Join(o.root, trashDir, string(id))
	if err := os.Rename(o.folder(id), grave); err != nil {
		return err
	}
	_, err := deleteSome(grave, limit)
	return err
}

// deleteSome deletes a directory and what is in it, but no more than left files. It returns how many it may still
// delete: none, if the directory is still there.
func deleteSome(dir string, left int) (int, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return left, nil // others empty the trash at the same time
	}
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		if file.IsDir() {
			left, err = deleteSome(path, left)
		} else {
			err = os.Remove(path)
			left--
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if left <= 0 {
			return 0, nil
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return left - 1, nil
}

const (
	// atOnce is how many files of a draft Discard deletes itself; more would hold up the build.
	atOnce = 100
	// everything is more files than any folder has.
	everything = math.MaxInt
)

// Recover implements [snapshot.Snapshotter]. A folder that has no key and that nobody holds is garbage, as is one of an
// earlier boot that Lookup would not trust, and a key whose folder is gone. The cost is that of reading the keys and
// the list of folders, unless there is something to remove. Deleting what is in the trash comes last and ends when ctx
// does.
func (o *Overlay) Recover(ctx context.Context) error {
	if err := o.recover(ctx); err != nil {
		return fmt.Errorf("recover snapshots: %w", err)
	}
	return nil
}

func (o *Overlay) recover(ctx context.Context) (err error) {
	suspects, err := o.suspects(ctx)
	defer func() {
		for _, l := range suspects {
			err = errors.Join(err, l.Close())
		}
	}()
	if err != nil {
		return err
	}
	// Publishing needs the lock, so the keys seen now are all that these folders have.
	keys, err := o.keys()
	if err != nil {
		return err
	}
	for id := range suspects {
		if keys[id] == nil || !o.trusted(id) {
			err = errors.Join(err, o.bury(id, 0))
		}
	}
	return errors.Join(err, o.unlink(keys), o.sweep(ctx))
}

// suspects returns, locked, the folders that seem to be garbage.
func (o *Overlay) suspects(ctx context.Context) (map[snapshot.ID]*os.File, error) {
	suspects := map[snapshot.ID]*os.File{}
	keys, err := o.keys()
	if err != nil {
		return nil, err
	}
	folders, err := os.ReadDir(o.root)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		id := snapshot.ID(folder.Name())
		if check(id) != nil || keys[id] != nil && o.trusted(id) {
			continue
		}
		if ctx.Err() != nil {
			return suspects, context.Cause(ctx)
		}
		l, err := o.claim(id)
		if err != nil {
			return suspects, err
		}
		if l != nil {
			suspects[id] = l
		}
	}
	return suspects, nil
}

// claim locks a folder against everybody, or returns nil if somebody has it or it is gone.
func (o *Overlay) claim(id snapshot.ID) (*os.File, error) {
	l, err := o.lock(id, unix.LOCK_EX)
	switch {
	case errors.Is(err, errs.Conflict):
		return nil, nil
	case errors.Is(err, errs.NotFound):
		// A process died, or is, between making the folder and its lock. If it lives it begins another one.
		if err := os.Remove(o.folder(id)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		return nil, nil
	}
	return l, err
}

// keys returns the links to each folder.
func (o *Overlay) keys() (map[snapshot.ID][]string, error) {
	links, err := filepath.Glob(filepath.Join(o.root, keysDir, "*", "*"))
	if err != nil {
		return nil, err
	}
	keys := make(map[snapshot.ID][]string, len(links))
	for _, link := range links {
		id, err := readKey(link)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		keys[id] = append(keys[id], link)
	}
	return keys, nil
}

// unlink removes keys whose folders are gone.
func (o *Overlay) unlink(keys map[snapshot.ID][]string) error {
	for id, links := range keys {
		if _, err := os.Lstat(o.folder(id)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, link := range links {
			if err := removeKey(link, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sweep deletes what Discard only put aside, until ctx is done: the part of Recover that every process can afford, for
// its cost does not grow with what is kept.
func (o *Overlay) Sweep(ctx context.Context) error {
	if err := o.sweep(ctx); err != nil {
		return fmt.Errorf("sweep snapshots: %w", err)
	}
	return nil
}

// sweep deletes what is in the trash. Others may be deleting it at the same time.
func (o *Overlay) sweep(ctx context.Context) error {
	trash := filepath.Join(o.root, trashDir)
	graves, err := os.ReadDir(trash)
	if err != nil {
		return err
	}
	for _, grave := range graves {
		for left := 0; left == 0; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if left, err = deleteSome(filepath.Join(trash, grave.Name()), 1000); err != nil {
				return err
			}
		}
	}
	return nil
}

// Settle flushes the file system and notes that all folders published so far are on the disk, so that they are trusted
// after a restart of the machine. It takes as long as the disk needs to write what is not written yet: it is for idle
// times, never needed for a build to be right.
func (o *Overlay) Settle(ctx context.Context) error {
	if err := o.settle(ctx); err != nil {
		return fmt.Errorf("settle snapshots: %w", err)
	}
	return nil
}

func (o *Overlay) settle(ctx context.Context) (err error) {
	keys, err := o.keys()
	if err != nil {
		return err
	}
	root, err := os.Open(o.root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return fmt.Errorf("flush %s: %w", o.root, err)
	}
	for id := range keys {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// What another boot left unflushed was lost before this.
		if boot, _, _ := strings.Cut(string(id), "-"); boot != o.boot {
			continue
		}
		err := os.WriteFile(filepath.Join(o.folder(id), durableFile), nil, 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
