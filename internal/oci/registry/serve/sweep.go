package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"slipway/internal/oci"
)

// Sweep frees what nobody can want any more: in each repository the blobs that no manifest there points at and that
// nobody has pushed, mounted or asked for within UploadTTL, and the content that no repository has. It returns the
// number of bytes freed. Pushes wait while it runs. A started Registry sweeps by itself now and then.
func (r *Registry) Sweep(ctx context.Context) (freed int64, err error) {
	r.names.Lock()
	defer r.names.Unlock()
	cutoff := time.Now().Add(-r.opts.UploadTTL)
	kept := make(map[oci.Digest]bool)
	err = r.files.repositories(func(repository string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.sweepRepository(repository, cutoff, kept)
	})
	if err != nil {
		return 0, fmt.Errorf("sweep registry: %w", err)
	}
	freed, err = r.sweepContent(ctx, kept)
	if err != nil {
		return freed, fmt.Errorf("sweep registry: %w", err)
	}
	return freed, nil
}

// sweepRepository drops the old links that no manifest needs, and adds the others to kept.
func (r *Registry) sweepRepository(repository string, cutoff time.Time, kept map[oci.Digest]bool) error {
	needed, err := r.needed(repository)
	if err != nil {
		return err
	}
	return r.files.digests(repositoryPath(repository, "_blobs"), func(d oci.Digest, entry fs.DirEntry) error {
		if !needed[d] {
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if info.ModTime().Before(cutoff) {
				return r.files.remove(linkPath(repository, d))
			}
		}
		kept[d] = true
		return nil
	})
}

// needed returns all that the repository's manifests point at.
func (r *Registry) needed(repository string) (map[oci.Digest]bool, error) {
	needed := make(map[oci.Digest]bool)
	err := r.files.digests(repositoryPath(repository, "_manifests"), func(d oci.Digest, _ fs.DirEntry) error {
		data, err := r.files.root.ReadFile(manifestPath(repository, d))
		if err != nil {
			return err
		}
		var m manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return fmt.Errorf("manifest %s of %s: %w", d, repository, err)
		}
		for _, child := range m.children() {
			needed[child.Digest] = true
		}
		return nil
	})
	return needed, err
}

// sweepContent removes the blobs that are not kept. Bytes without a link are also what a process leaves that is killed
// between the two.
func (r *Registry) sweepContent(ctx context.Context, kept map[oci.Digest]bool) (freed int64, err error) {
	err = fs.WalkDir(r.files.root.FS(), "blobs", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return errors.Join(err, context.Cause(ctx))
		}
		algorithm, _, _ := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/")
		if kept[oci.Digest(algorithm+":"+path.Base(name))] {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		freed += info.Size()
		return r.files.remove(name)
	})
	return freed, err
}

// digests visits the files that are named by digest in folder/ALGORITHM/.
func (f *files) digests(folder string, visit func(d oci.Digest, entry fs.DirEntry) error) error {
	algorithms, err := f.list(folder)
	for _, algorithm := range algorithms {
		entries, listErr := f.list(path.Join(folder, algorithm.Name()))
		err = errors.Join(err, listErr)
		for _, entry := range entries {
			if d := oci.Digest(algorithm.Name() + ":" + entry.Name()); d.Validate() == nil {
				err = errors.Join(err, visit(d, entry))
			}
		}
	}
	return err
}
