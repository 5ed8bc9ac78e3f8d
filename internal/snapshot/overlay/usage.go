package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/disk"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/snapshot"
)

// Usage is what one folder takes.
type Usage struct {
	ID   snapshot.ID
	Keys []oci.Digest // that it is published under; none for a draft
	Size int64        // on the disk
	Used time.Time    // last
	Held bool         // by some process, just now
}

// Usage lists what the folders take, drafts too. A published folder is measured once, and then never again: it does not
// change. Folders that come or go meanwhile may be missed.
func (o *Overlay) Usage(ctx context.Context) ([]Usage, error) {
	keys, err := o.keys()
	if err != nil {
		return nil, fmt.Errorf("usage of snapshots: %w", err)
	}
	folders, err := os.ReadDir(o.root)
	if err != nil {
		return nil, fmt.Errorf("usage of snapshots: %w", err)
	}
	var all []Usage
	for _, folder := range folders {
		id := snapshot.ID(folder.Name())
		if check(id) != nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		u, err := o.usage(id, keys[id])
		if errors.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("usage of snapshot %s: %w", id, err)
		}
		all = append(all, u)
	}
	return all, nil
}

func (o *Overlay) usage(id snapshot.ID, links []string) (u Usage, err error) {
	u.ID = id
	for _, link := range links {
		u.Keys = append(u.Keys, digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(link))), filepath.Base(link)))
	}
	l, err := o.lock(id, unix.LOCK_EX)
	if errors.Is(err, errs.Conflict) {
		u.Held = true
		l, err = o.lock(id, unix.LOCK_SH)
	}
	if err != nil {
		return u, err
	}
	// Measuring takes time: whoever wants the folder meanwhile shall have it, and nobody remove it.
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := flock(l, unix.LOCK_SH); err != nil {
		return u, err
	}
	info, err := l.Stat()
	if err != nil {
		return u, err
	}
	u.Used = info.ModTime()
	if len(links) == 0 {
		u.Size, err = disk.Used(o.folder(id))
		return u, err
	}
	u.Size, err = o.size(id)
	return u, err
}

// size measures a published folder, unless that has been done.
func (o *Overlay) size(id snapshot.ID) (int64, error) {
	file := filepath.Join(o.folder(id), sizeFile)
	if data, err := os.ReadFile(file); err == nil {
		line, whole := strings.CutSuffix(string(data), "\n") // a writer that was killed left less
		if n, err := strconv.ParseInt(line, 10, 64); err == nil && whole {
			return n, nil
		}
	}
	n, err := disk.Used(o.folder(id))
	if err != nil {
		return 0, err
	}
	err = os.WriteFile(file, []byte(strconv.FormatInt(n, 10)+"\n"), 0o644)
	if errors.Is(err, fs.ErrNotExist) { // it was removed before the lock was ours
		return 0, errs.NotFound
	}
	return n, err
}
