// Package overlay keeps layer folders in a local directory, ready to be stacked by the kernel's overlay file system:
//
//	<id>/fs                  the layer's files
//	<id>/work                a draft's work directory
//	<id>/lock                locked (flock), shared by who fills or uses it; its modification time is the last use
//	<id>/durable             there if the files are known to be on the disk
//	<id>/size                what the files take on the disk, once somebody has measured it
//	keys/<alg>/<hex>         a symbolic link to the id published under that digest
//	trash/<id>               a folder that is being removed
//
// A folder's id begins with the boot of the machine that made it. Files are not flushed to disk when a folder is
// published, which would cost more than making them. In the same boot the kernel answers for them; a folder of another
// boot is not trusted unless Settle has flushed it since, and is removed when it is looked up: its layer is unpacked
// again from the blob, whose digest tells whether that is intact. See docs/decisions/0005-layer-folders.md.
package overlay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/snapshot"
)

// Overlay is a directory of layer folders. See [snapshot.Snapshotter] for what its methods promise.
type Overlay struct {
	root string
	boot string
	log  *slog.Logger
}

var _ snapshot.Snapshotter = (*Overlay)(nil)

// Options change how an Overlay works. The zero value is good.
type Options struct {
	// Logger hears of folders that are removed because a crash may have damaged them. Default: nobody does.
	Logger *slog.Logger
	// Boot names the present boot of the machine. Default: the kernel's boot_id.
	Boot string
}

const (
	filesDir    = "fs"
	workDir     = "work"
	lockFile    = "lock"
	durableFile = "durable"
	sizeFile    = "size"
	keysDir     = "keys"
	trashDir    = "trash"
)

// Open returns the layer folders in the directory root, which is created if needed.
func Open(root string, opts Options) (*Overlay, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Boot == "" {
		data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("open snapshots %s: read boot id: %w", root, err)
		}
		opts.Boot = strings.TrimSpace(string(data))
	}
	o := &Overlay{root: root, boot: bootPrefix(opts.Boot), log: opts.Logger}
	for _, dir := range []string{keysDir, trashDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, fmt.Errorf("open snapshots: %w", err)
		}
	}
	o.spread()
	return o, nil
}

// spread asks ext4 to treat folders as unrelated, and so to put each into a part of the disk of its own. Left alone it
// puts a new one where the last one was, and when that was removed within the last minutes it steps over each of its
// inodes, which it does not use again so soon, for each new file: 20,000 files took 5 s instead of 0.3 s. Elsewhere
// this does nothing, and it is only a hint: errors do not matter.
func (o *Overlay) spread() {
	dir, err := os.Open(o.root)
	if err != nil {
		return
	}
	defer dir.Close()
	flags, err := unix.IoctlGetUint32(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topdir == 0 {
		_ = unix.IoctlSetPointerInt(int(dir.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topdir))
	}
}

// topdir is FS_TOPDIR_FL of linux/fs.h: chattr +T.
const topdir = 0x00020000

// bootPrefix shortens a boot's UUID to what an id begins with.
func bootPrefix(boot string) string {
	boot = strings.ReplaceAll(boot, "-", "")
	return boot[:min(len(boot), 12)]
}

// Dir implements [snapshot.Snapshotter].
func (o *Overlay) Dir(id snapshot.ID) string { return filepath.Join(o.folder(id), filesDir) }

func (o *Overlay) folder(id snapshot.ID) string { return filepath.Join(o.root, string(id)) }

// check refuses an id that is no name of ours, so that it cannot lead elsewhere.
func check(id snapshot.ID) error {
	boot, unique, ok := strings.Cut(string(id), "-")
	if !ok || boot == "" || len(unique) != 16 || strings.ContainsAny(string(id), "/.") {
		return fmt.Errorf("snapshot id %q: %w", string(id), errs.Invalid)
	}
	return nil
}

func (o *Overlay) newID() snapshot.ID {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return snapshot.ID(o.boot + "-" + hex.EncodeToString(b[:]))
}

// Lookup implements [snapshot.Snapshotter].
func (o *Overlay) Lookup(ctx context.Context, key oci.Digest) (snapshot.ID, error) {
	id, err := o.lookup(ctx, key)
	if err != nil {
		return "", fmt.Errorf("look up snapshot %s: %w", key, err)
	}
	return id, nil
}

func (o *Overlay) lookup(ctx context.Context, key oci.Digest) (snapshot.ID, error) {
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	link, err := o.key(key)
	if err != nil {
		return "", err
	}
	id, err := readKey(link)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errs.NotFound
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(o.Dir(id)); errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(errs.NotFound, removeKey(link, id))
	} else if err != nil {
		return "", err
	}
	if o.trusted(id) {
		return id, nil
	}
	o.log.InfoContext(ctx, "removed a snapshot that was not on disk before the last restart", slog.String("digest", key.String()),
		slog.String("snapshot", string(id)))
	if err := errors.Join(removeKey(link, id), o.remove(id, 0)); err != nil && !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.NotFound) {
		return "", err
	}
	return "", errs.NotFound
}

// trusted says whether the files of a folder are what was written.
func (o *Overlay) trusted(id snapshot.ID) bool {
	if boot, _, _ := strings.Cut(string(id), "-"); boot == o.boot {
		return true
	}
	_, err := os.Lstat(filepath.Join(o.folder(id), durableFile))
	return err == nil
}

// key returns the path of the link for a digest.
func (o *Overlay) key(key oci.Digest) (string, error) {
	if err := key.Validate(); err != nil {
		return "", errs.Mark(err, errs.Invalid)
	}
	return filepath.Join(o.root, keysDir, key.Algorithm().String(), key.Encoded()), nil
}

// readKey returns the id that a link points at. Links read ../../<id>, for people; no program follows them.
func readKey(link string) (snapshot.ID, error) {
	target, err := os.Readlink(link)
	if err != nil {
		return "", err
	}
	id := snapshot.ID(filepath.Base(target))
	return id, check(id)
}

// removeKey removes a link if it still points at id. Somebody may publish in between; then a layer is unpacked once
// more than needed.
func removeKey(link string, id snapshot.ID) error {
	now, err := readKey(link)
	if err == nil && now == id {
		err = os.Remove(link)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else did
	}
	return err
}

const (
	// holdPause is how often a lock is tried that somebody has who removes the folder, or looks whether he could.
	holdPause = time.Millisecond
	// holdTries is how often until he is thought to be stuck.
	holdTries = 1000
)

// Hold implements [snapshot.Snapshotter].
func (o *Overlay) Hold(ctx context.Context, id snapshot.ID) (func(), error) {
	l, err := o.hold(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("hold snapshot %s: %w", id, err)
	}
	return func() { _ = l.Close() }, nil // nothing was written
}

func (o *Overlay) hold(ctx context.Context, id snapshot.ID) (*os.File, error) {
	if err := check(id); err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		l, err := o.lock(id, unix.LOCK_SH)
		if err == nil {
			now := time.Now()
			if err := os.Chtimes(l.Name(), now, now); err != nil {
				return nil, errors.Join(err, l.Close())
			}
		}
		if !errors.Is(err, errs.Conflict) || n == holdTries {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(holdPause):
		}
	}
}
