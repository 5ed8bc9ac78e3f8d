// Package mount keeps the folders of cache mounts (RUN --mount=type=cache): what a compiler or a package manager wants
// to find again in the next build, and no layer holds.
//
// A folder is found by its key, a digest over whatever makes it another folder: its id, what it began as. Several
// processes can want it at once, and say how they share it: with everybody (Shared), in turns (Locked), or not at all,
// taking another folder of the same key when one is in use (Private). That holds between processes of slipway, and a
// lock goes with the process that holds it, however that ends.
//
//	taken, err := store.Take(ctx, []mount.Want{{Key: key, ID: "npm", Sharing: mount.Locked}})
//	defer taken.Release()
//	bind(taken.Paths[0])
//
// What a process leaves half written in a folder stays there, as it would in a cache in a home directory. A folder
// itself is never half made. Usage lists the folders, and Remove removes one that nobody uses.
package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Ways to share a folder, as Dockerfiles spell them.
const (
	Shared  = "shared"
	Private = "private"
	Locked  = "locked"
)

// Want is a folder that somebody wants.
type Want struct {
	Key oci.Digest
	// ID is what the user calls the folder. It is written down beside it, for people.
	ID string
	// Sharing is Shared, Private or Locked. Default: Shared.
	Sharing string
	// Mode, UID and GID are those of a new folder.
	Mode     fs.FileMode
	UID, GID int
	// Seed makes what a new folder begins as at a path that does not exist: a folder, or a file. Default: an empty
	// folder is made.
	Seed func(ctx context.Context, path string) error
	// Restore fills the empty folder at path, if it can: with what is kept of it elsewhere. It is asked before Seed, and
	// again when the folder has become empty. Default: nothing is kept elsewhere.
	Restore func(ctx context.Context, path string) (restored bool, err error)
}

// Store keeps folders below one folder. It may be used by several goroutines, and by several processes, at once.
type Store struct {
	dir string

	mu    sync.Mutex
	taken map[string]bool
}

// Open returns the store in dir, which is made when something is first kept in it.
func Open(dir string) *Store { return &Store{dir: dir, taken: map[string]bool{}} }

// Used returns the names of the folders that were taken through this Store, as Usage has them.
func (s *Store) Used() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.taken))
}

// Taken are folders in use.
type Taken struct {
	// Paths are where they are, in the order in which they were wanted.
	Paths []string
	locks []*os.File
	look  bool // it counts as no use
}

// Release gives the folders back. Their last use is now.
func (t *Taken) Release() error {
	var all []error
	for _, f := range t.locks {
		if !t.look {
			all = append(all, used(f))
		}
		all = append(all, f.Close())
	}
	t.locks = nil
	return errors.Join(all...)
}

// Take waits until all folders can be had. A key that is wanted twice is one folder. Whoever wants several takes them
// in one call: so nobody waits for somebody who waits for him.
func (s *Store) Take(ctx context.Context, wants []Want) (_ *Taken, err error) {
	t := &Taken{Paths: make([]string, len(wants))}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Release())
		}
	}()
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(wants[a].Key, wants[b].Key), cmp.Compare(strictness(wants[b].Sharing), strictness(wants[a].Sharing)), a-b)
	})
	for n, i := range order {
		if n > 0 && wants[order[n-1]].Key == wants[i].Key {
			t.Paths[i] = t.Paths[order[n-1]]
			continue
		}
		path, lock, err := s.take(ctx, wants[i])
		if err != nil {
			return nil, fmt.Errorf("cache mount %s: %w", wants[i].ID, err)
		}
		t.Paths[i], t.locks = path, append(t.locks, lock)
	}
	return t, nil
}

// Look takes a folder that Take has returned once more, to read it, without waiting: that counts as no use. If others have
// it in a way that allows no company the error is of kind errs.Conflict; if it is gone, of kind errs.NotFound.
func (s *Store) Look(ctx context.Context, path, sharing string) (_ *Taken, err error) {
	home := filepath.Dir(path)
	f, err := os.OpenFile(home+lockSuffix, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cache mount %s: %w", path, errs.NotFound)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cache mount %s: %w", path, err), f.Close())
		}
	}()
	how := unix.LOCK_EX
	if strictness(sharing) == 0 {
		how = unix.LOCK_SH
	}
	if err := lock(ctx, f, how, false); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errs.Mark(err, errs.Conflict)
		}
		return nil, err
	}
	if still(f) != nil {
		return nil, errs.NotFound
	}
	return &Taken{Paths: []string{path}, locks: []*os.File{f}, look: true}, nil
}

func strictness(sharing string) int {
	switch sharing {
	case Locked:
		return 2
	case Private:
		return 1
	}
	return 0
}

// A key's folder holds, for each of the folders that private mounts made of it, NUMBER with data in it, and
// NUMBER.lock, whose modification time is when it was last used, and NUMBER.size, what it took on the disk when that was
// last measured; and the file id.
const (
	dataName   = "data"
	idName     = "id"
	lockSuffix = ".lock"
	newSuffix  = ".new"
	sizeSuffix = ".size"
)

func (s *Store) take(ctx context.Context, w Want) (string, *os.File, error) {
	dir := filepath.Join(s.dir, w.Key.Encoded())
	for n := 0; ; {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, err
		}
		home := filepath.Join(dir, strconv.Itoa(n))
		lock, err := lockFolder(ctx, home, w)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK): // a private mount, and somebody has this one
			n++
		case errors.Is(err, errRemoved):
		case err != nil:
			return "", nil, err
		default:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.taken[filepath.Join(w.Key.Encoded(), strconv.Itoa(n))] = true
			return filepath.Join(home, dataName), lock, nil
		}
	}
}

// errRemoved says that the folder was removed before it could be locked.
var errRemoved = errors.New("removed")

// lockFolder takes one folder, and makes it when it is new.
func lockFolder(ctx context.Context, home string, w Want) (_ *os.File, err error) {
	f, err := os.OpenFile(home+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errRemoved
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	how := unix.LOCK_EX
	if strictness(w.Sharing) == 0 {
		how = unix.LOCK_SH
	}
	if err := lock(ctx, f, how, w.Sharing != Private); err != nil {
		return nil, err
	}
	if err := errors.Join(still(f), used(f)); err != nil {
		return nil, err
	}
	if err := name(home, w); err != nil {
		return nil, err
	}
	wait := true
	if _, err := os.Lstat(home); err == nil {
		if w.Restore == nil || !isEmpty(filepath.Join(home, dataName)) {
			return f, nil
		}
		wait = false // whoever has it is about to fill it
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = lock(ctx, f, unix.LOCK_EX, wait)
	if err == nil {
		err = still(f) // the lock was nobody's for a moment
	}
	if err == nil {
		err = create(ctx, home, w)
	}
	if err != nil && (wait || !errors.Is(err, unix.EWOULDBLOCK)) {
		return nil, err
	}
	if how == unix.LOCK_SH {
		return f, errors.Join(lock(ctx, f, how, true), still(f))
	}
	return f, nil
}

// isEmpty says whether there is a folder with nothing in it.
func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close() // only read
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// name writes down what the user calls a folder.
func name(home string, w Want) error {
	file := filepath.Join(filepath.Dir(home), idName)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, []byte(w.ID+"\n"), 0o600)
}

// used notes that the folder of a lock file is being used.
func used(f *os.File) error {
	now := time.Now()
	err := os.Chtimes(f.Name(), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	return err
}

// still returns errRemoved if a lock file has lost its name, and with it the folder its lock.
func still(f *os.File) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		return errRemoved
	}
	return err
}

// lockPause is how often a lock that somebody holds is tried. A RUN that holds one takes longer.
const lockPause = 20 * time.Millisecond

// lock locks a file. Without wait it gives up when somebody has it, but not at once: he may only be looking whether
// anybody has.
func lock(ctx context.Context, f *os.File, how int, wait bool) error {
	for n := 0; ; n++ {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !wait && n > 0 || !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// create makes a folder under another name, so that one which is there is whole. The caller has it locked. One that is
// there already is only replaced if it is empty and can be restored.
func create(ctx context.Context, home string, w Want) error {
	_, err := os.Lstat(home)
	there := err == nil
	switch {
	case !there && !errors.Is(err, fs.ErrNotExist):
		return err
	case there && (w.Restore == nil || !isEmpty(filepath.Join(home, dataName))): // made while we waited for the lock
		return nil
	}
	made := home + newSuffix
	if err := os.RemoveAll(made); err != nil { // of a process that died
		return err
	}
	if err := os.Mkdir(made, 0o700); err != nil {
		return err
	}
	restored, err := fill(ctx, filepath.Join(made, dataName), w, !there)
	if err != nil {
		return err
	}
	if there && !restored {
		return os.RemoveAll(made)
	}
	if there {
		if err := os.RemoveAll(home); err != nil {
			return err
		}
	}
	return os.Rename(made, home)
}

// fill makes what a new folder begins as: what is kept of it elsewhere, or else its seed.
func fill(ctx context.Context, data string, w Want, seed bool) (restored bool, err error) {
	if w.Restore != nil {
		if err := makeEmpty(data, w); err != nil {
			return false, err
		}
		if restored, err = w.Restore(ctx, data); restored || err != nil {
			return restored, err
		}
		if err := os.RemoveAll(data); err != nil {
			return false, err
		}
	}
	switch {
	case !seed:
		return false, nil
	case w.Seed != nil:
		return false, w.Seed(ctx, data)
	}
	return false, makeEmpty(data, w)
}

func makeEmpty(path string, w Want) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if err := os.Chown(path, w.UID, w.GID); err != nil {
		return err
	}
	return os.Chmod(path, w.Mode)
}
