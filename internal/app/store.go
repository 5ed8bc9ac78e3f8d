package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/cache"
	"slipway/internal/build/garbage"
	"slipway/internal/build/mount"
	"slipway/internal/disk"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/transfer"
	"slipway/internal/snapshot"
	"slipway/internal/snapshot/overlay"
)

// realm is what belongs to one way of isolation in the home folder.
type realm struct {
	snapshots *overlay.Overlay
	cache     *cache.Local
	mounts    *mount.Store
}

// realms are those that the home folder has, whichever is this process's. Who is not root outside of a user namespace
// can do nothing about what was made inside of one.
func (a *App) realms() ([]realm, error) {
	if os.Geteuid() != 0 {
		return []realm{{a.snapshots, a.cache, a.mounts}}, nil
	}
	folders, err := filepath.Glob(filepath.Join(a.opts.Home, snapshotsDir+"*"))
	if err != nil {
		return nil, err
	}
	var all []realm
	for _, folder := range folders {
		state := strings.TrimPrefix(filepath.Base(folder), snapshotsDir)
		r := realm{mounts: mount.Open(filepath.Join(a.opts.Home, mountsDir+state))}
		if r.snapshots, err = overlay.Open(folder, overlay.Options{Logger: a.opts.Logger}); err != nil {
			return nil, err
		}
		if r.cache, err = cache.Open(filepath.Join(a.opts.Home, cacheDir+state)); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// forget removes the records whose blobs and folders are gone.
func (r realm) forget(ctx context.Context, blobs *dir.Store) error {
	_, err := r.cache.Forget(ctx, func(rec build.Record) (bool, error) {
		if rec.Empty() {
			return false, nil
		}
		there, err := r.has(ctx, blobs, rec)
		if errors.Is(err, errs.Invalid) { // it names what cannot be there
			return true, nil
		}
		return !there, err
	})
	return err
}

// has says whether a record's blob or folder is there.
func (r realm) has(ctx context.Context, blobs *dir.Store, rec build.Record) (bool, error) {
	if rec.Layer != nil {
		path, err := blobs.Path(rec.Layer.Digest)
		if err != nil {
			return false, err
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	if rec.Folder == "" {
		return false, nil
	}
	_, err := r.snapshots.Lookup(ctx, rec.Folder)
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// forget removes the records of this way of isolation whose blobs and folders are gone.
func (a *App) forget(ctx context.Context) error {
	return realm{snapshots: a.snapshots, cache: a.cache}.forget(ctx, a.blobs)
}

// stores are all that the home folder keeps. What names knows is called so. With spare, what is named images' stays.
func (a *App) stores(ctx context.Context, realms []realm, names map[oci.Digest]string, spare bool) ([]garbage.Store, error) {
	pins, err := a.pins(ctx, names)
	if err != nil {
		return nil, err
	}
	var stores []garbage.Store
	for _, r := range realms {
		stores = append(stores, stepStore{r.cache, names}, layerStore{r.snapshots, names}, mountStore{r.mounts})
	}
	file := func(kind garbage.Kind, name string) fileStore { return fileStore{kind, a.home(name)} }
	return append(stores, imageStore{a.names}, blobStore{a.blobs, names, pins, spare}, file(garbage.Step, acceleratedDir),
		file(garbage.Context, sumsDir), file(garbage.Context, lastDir),
		file(garbage.Fetched, fetchedDir), file(garbage.Fetched, placesDir)), nil
}

// pins are the blobs of named images, and when one of these was last used: as long as it has its name they are used, too.
// Those that have no name of their own are called by the image's, if names is given.
func (a *App) pins(ctx context.Context, names map[oci.Digest]string) (map[oci.Digest]time.Time, error) {
	images, err := a.names.List(ctx)
	if err != nil {
		return nil, err
	}
	pins := map[oci.Digest]time.Time{}
	for _, im := range images {
		all, err := transfer.Reach(ctx, a.blobs, im.Descriptor)
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			if im.Used.After(pins[d]) {
				pins[d] = im.Used
			}
			if names != nil && names[d] == "" {
				names[d] = "of image " + im.Name
			}
		}
	}
	return pins, nil
}

// names are what people call the steps with certain keys, and what they left.
func names(ctx context.Context, realms []realm) (map[oci.Digest]string, error) {
	names := map[oci.Digest]string{}
	for _, realm := range realms {
		all, err := realm.cache.Usage(ctx)
		if err != nil {
			return nil, err
		}
		for _, u := range all {
			r, err := realm.cache.Peek(ctx, u.Key)
			if errors.Is(err, errs.NotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			names[u.Key], names[r.Identity()] = r.Name, r.Name
			if r.Layer != nil {
				names[r.Layer.Digest] = r.Name
			}
		}
	}
	return names, nil
}

type imageStore struct{ names *transfer.Names }

func (s imageStore) Items(ctx context.Context) ([]garbage.Item, error) {
	all, err := s.names.List(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, n := range all {
		items = append(items, garbage.Item{Kind: garbage.Image, ID: n.Name, Name: n.Descriptor.Digest.String(), Used: n.Used})
	}
	return items, nil
}

func (s imageStore) Remove(_ context.Context, item garbage.Item) error {
	r, err := ref.Parse(item.ID)
	if err != nil {
		return err
	}
	return s.names.Remove(r)
}

type blobStore struct {
	blobs *dir.Store
	names map[oci.Digest]string
	pins  map[oci.Digest]time.Time
	spare bool // what is pinned stays
}

func (s blobStore) Items(ctx context.Context) ([]garbage.Item, error) {
	all, err := s.blobs.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, u := range all {
		used, pinned := s.pins[u.Digest]
		if u.Used.After(used) {
			used = u.Used
		}
		items = append(items, garbage.Item{
			Kind: garbage.Blob, ID: u.Digest.String(), Name: s.names[u.Digest], Size: u.Size, Used: used,
			InUse: u.Held || pinned && s.spare,
		})
	}
	return items, nil
}

func (s blobStore) Remove(ctx context.Context, item garbage.Item) error {
	return s.blobs.Delete(ctx, oci.Digest(item.ID))
}

type layerStore struct {
	snapshots *overlay.Overlay
	names     map[oci.Digest]string
}

func (s layerStore) Items(ctx context.Context) ([]garbage.Item, error) {
	all, err := s.snapshots.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, u := range all {
		item := garbage.Item{Kind: garbage.Layer, ID: string(u.ID), Size: u.Size, Used: u.Used, InUse: u.Held}
		for _, key := range u.Keys {
			if name := s.names[key]; name != "" {
				item.Name = name
			}
		}
		items = append(items, item)
	}
	return items, nil
}

func (s layerStore) Remove(ctx context.Context, item garbage.Item) error {
	return s.snapshots.PutAside(ctx, snapshot.ID(item.ID))
}

type stepStore struct {
	cache *cache.Local
	names map[oci.Digest]string
}

func (s stepStore) Items(ctx context.Context) ([]garbage.Item, error) {
	all, err := s.cache.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, u := range all {
		items = append(items, garbage.Item{Kind: garbage.Step, ID: u.Key.String(), Name: s.names[u.Key], Size: u.Size, Used: u.Used})
	}
	return items, nil
}

func (s stepStore) Remove(ctx context.Context, item garbage.Item) error {
	return s.cache.Remove(ctx, oci.Digest(item.ID))
}

type mountStore struct{ mounts *mount.Store }

func (s mountStore) Items(ctx context.Context) ([]garbage.Item, error) {
	all, err := s.mounts.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, u := range all {
		items = append(items, garbage.Item{Kind: garbage.Mount, ID: u.Name, Name: u.ID, Size: u.Size, Used: u.Used, InUse: u.Held})
	}
	return items, nil
}

func (s mountStore) Remove(_ context.Context, item garbage.Item) error {
	return s.mounts.Remove(item.ID)
}

// fileStore is a folder of small files that are replaced by rename, or may be torn: whoever finds one gone does without.
type fileStore struct {
	kind garbage.Kind
	dir  string
}

func (s fileStore) Items(ctx context.Context) ([]garbage.Item, error) {
	var items []garbage.Item
	err := filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") { // which is being written
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		id, err := filepath.Rel(filepath.Dir(s.dir), p)
		if err != nil {
			return err
		}
		items = append(items, garbage.Item{Kind: s.kind, ID: id, Size: disk.Size(info), Used: info.ModTime()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("usage of %s: %w", s.dir, err)
	}
	return items, nil
}

func (s fileStore) Remove(_ context.Context, item garbage.Item) error {
	err := os.Remove(filepath.Join(filepath.Dir(s.dir), item.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return errs.NotFound
	}
	return err
}
