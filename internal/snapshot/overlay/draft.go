package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/snapshot"
)

// draft is a folder that this process is filling.
type draft struct {
	o         *Overlay
	id        snapshot.ID
	lock      *os.File // nil: discarded
	published bool
}

var _ snapshot.Draft = (*draft)(nil)

// Begin implements [snapshot.Snapshotter].
func (o *Overlay) Begin(ctx context.Context) (snapshot.Draft, error) {
	for ctx.Err() == nil {
		d, err := o.begin()
		if err == nil {
			return d, nil
		}
		// Another process's Recover may take a folder for dead before it is locked.
		if !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Conflict) {
			return nil, fmt.Errorf("begin snapshot: %w", full(err))
		}
	}
	return nil, context.Cause(ctx)
}

func (o *Overlay) begin() (_ *draft, err error) {
	d := &draft{o: o, id: o.newID()}
	folder := o.folder(d.id)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(folder, lockFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(folder))
	}
	if err := f.Close(); err != nil { // it is made; now it is locked as everybody does
		return nil, err
	}
	if d.lock, err = o.lock(d.id, unix.LOCK_SH); err != nil {
		return nil, err
	}
	if err := d.fill(); err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	return d, nil
}

// fill makes the directories.
func (d *draft) fill() error {
	if err := os.Mkdir(d.Work(), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(d.Dir(), 0o755); err != nil {
		return err
	}
	// The mode of an upper directory is that of the root directory inside: the umask must not decide it.
	return os.Chmod(d.Dir(), 0o755)
}

func (d *draft) ID() snapshot.ID { return d.id }
func (d *draft) Dir() string     { return d.o.Dir(d.id) }
func (d *draft) Work() string    { return filepath.Join(d.o.folder(d.id), workDir) }

// Publish implements [snapshot.Draft].
func (d *draft) Publish(ctx context.Context, key oci.Digest) error {
	if err := d.publish(ctx, key); err != nil {
		return fmt.Errorf("publish snapshot %s as %s: %w", d.id, key, full(err))
	}
	return nil
}

func (d *draft) publish(ctx context.Context, key oci.Digest) error {
	if d.lock == nil {
		return fmt.Errorf("%w: it was discarded", errs.NotFound)
	}
	link, err := d.o.key(key)
	if err != nil {
		return err
	}
	if _, err := d.o.lookup(ctx, key); !errors.Is(err, errs.NotFound) {
		return err // there is one, or it cannot be known
	}
	if err := os.RemoveAll(d.Work()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	err = os.Symlink(filepath.Join("..", "..", string(d.id)), link)
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody was faster
	}
	d.published = d.published || err == nil
	return err
}

// Discard implements [snapshot.Draft].
func (d *draft) Discard() error {
	if d.lock == nil {
		return nil
	}
	lock := d.lock
	d.lock = nil
	if d.published {
		return lock.Close()
	}
	if err := errors.Join(d.o.bury(d.id, atOnce), lock.Close()); err != nil {
		return fmt.Errorf("discard snapshot %s: %w", d.id, err)
	}
	return nil
}

// full marks the error of a full disk as a limit.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Hint(errs.Mark(err, errs.Limit), "free some space, or set SLIPWAY_HOME to a folder on another file system")
	}
	return err
}
