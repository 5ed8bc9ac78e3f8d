package app

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"slipway/internal/build/cache/remote"
	"slipway/internal/build/mount/archive"
	"slipway/internal/build/solver"
	"slipway/internal/errs"
	"slipway/internal/oci/ref"
)

// caches are the caches outside this machine that a build reads and writes.
type caches struct {
	from   []remote.Place
	to     []solver.Export
	inline bool
}

// caches opens what --cache-from and --cache-to name. What is both read and written is one place.
func (a *App) caches(r Build) (c caches, err error) {
	places := map[string]remote.Place{}
	for _, s := range r.CacheFrom {
		p, err := a.cachePlace(r, s, places)
		if err != nil {
			return c, fmt.Errorf("--cache-from: %w", err)
		}
		c.from = append(c.from, p)
	}
	for _, s := range r.CacheTo {
		if s.Type == remote.InImage {
			c.inline = true
			continue
		}
		p, err := a.cachePlace(r, s, places)
		if err == nil && p.Ref().Digest() != "" {
			err = fmt.Errorf("%s: a digest cannot be chosen: %w", s.Ref, errs.Invalid)
		}
		if err != nil {
			return c, fmt.Errorf("--cache-to: %w", err)
		}
		c.to = append(c.to, solver.Export{Place: p, Max: s.Max, TTL: s.TTL, IgnoreError: s.IgnoreError})
	}
	return c, nil
}

func (a *App) cachePlace(r Build, s remote.Spec, places map[string]remote.Place) (remote.Place, error) {
	var p remote.Place
	if s.Type == remote.InFolder {
		dir, err := filepath.Abs(s.Dir)
		if err != nil {
			return nil, err
		}
		p = remote.NewFolder(dir)
	} else {
		name, err := ref.Parse(s.Ref)
		if err != nil {
			return nil, err
		}
		if r.MapRef != nil {
			name = r.MapRef(name)
		}
		p = remote.NewRegistry(a.registry, name)
	}
	if same, ok := places[p.String()]; ok {
		return same, nil
	}
	places[p.String()] = p
	return p, nil
}

// cacheMounts opens what --cache-mount names.
func (a *App) cacheMounts(r Build) ([]solver.MountPlace, error) {
	var places []solver.MountPlace
	for _, s := range r.CacheMounts {
		p := solver.MountPlace{For: s.For, ReadOnly: s.ReadOnly, IgnoreError: s.IgnoreError}
		if s.Type == archive.InFolder {
			dir, err := filepath.Abs(s.Dir)
			if err != nil {
				return nil, err
			}
			if p.Place, err = archive.NewFolder(dir); err != nil {
				return nil, fmt.Errorf("--cache-mount: %w", err)
			}
		} else {
			repo, err := ref.Parse(s.Ref)
			if err != nil {
				return nil, fmt.Errorf("--cache-mount: %w", err)
			}
			if r.MapRef != nil {
				repo = r.MapRef(repo)
			}
			p.Place = archive.NewRegistry(a.registry, repo)
		}
		places = append(places, p)
	}
	return places, nil
}

// lastDir is where builds note what their keys were taken over, below the home folder.
const lastDir = "last"

// lastFile is where builds of a Dockerfile in a context, for a target and a platform, note that.
func (a *App) lastFile(r Build, root string) (string, error) {
	file := r.File
	if file != "" && file != "-" {
		var err error
		if file, err = filepath.Abs(file); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", root, file, r.Target, r.Platform))
	return filepath.Join(a.opts.Home, lastDir, hex.EncodeToString(sum[:16])), nil
}
