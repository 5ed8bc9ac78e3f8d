// Package archive keeps cache mounts outside this machine, for machines that have none: in a repository of a registry,
// or in a folder that is carried from run to run.
//
// What is kept of a mount is an OCI artifact: its files as tars, split into packs so that a change in one place leaves
// the other packs what they were, and need not be sent again. It has one name, which its key gives. Whoever saves last
// wins, all of it at once: a name is only moved when everything behind it is there.
//
//	err := archive.Restore(ctx, place, archive.Restoring{Key: key, Dir: dir})
//	saved, err := archive.Save(ctx, place, archive.Saving{Key: key, ID: "npm", Dir: dir, Create: blobs.Create})
//
// The files come from strangers as much as those of a base image do: they never leave the folder, whatever they say, and
// are files, folders and links, nothing else. But a build believes them. What is kept elsewhere is no part of any step's
// key.
package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

// Media types of what is kept.
const (
	ArtifactType = "application/vnd.slipway.cache-mount.v1"
	ConfigType   = "application/vnd.slipway.cache-mount.config.v1+json"
)

// Place is where cache mounts are kept. Its methods may be called by several goroutines, and by several processes for
// the same place, at once.
type Place interface {
	// String names the place for people, and tells it from others.
	String() string
	// Load returns the manifest of what is kept under a key, or errs.NotFound.
	Load(ctx context.Context, key oci.Digest) ([]byte, error)
	// Open reads a blob that a manifest names. Its bytes are verified when the reader has returned io.EOF. A blob that is
	// gone, because another manifest took the place of that one, is errs.NotFound.
	Open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error)
	// Put brings a blob there, unless it is there.
	Put(ctx context.Context, src registry.Source) (registry.Pushed, error)
	// Store keeps a manifest under a key, in the place of the one before. Its blobs are there.
	Store(ctx context.Context, key oci.Digest, manifest []byte) error
}

// config is the config of an artifact. It is for people.
type config struct {
	ID string `json:"id"`
}

const (
	// maxPacks keeps a manifest well below what registries accept (4 MiB).
	maxPacks = 10_000
	// maxEntries is more files than any cache has.
	maxEntries = 20_000_000
)

// decode reads a stranger's manifest and returns its packs.
func decode(data []byte) ([]oci.Descriptor, error) {
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, errs.Mark(fmt.Errorf("manifest: %w", err), errs.Corrupt)
	}
	if m.ArtifactType != ArtifactType || m.Config.MediaType != ConfigType {
		return nil, fmt.Errorf("manifest of type %q: it keeps no cache mount: %w", m.ArtifactType, errs.Corrupt)
	}
	if len(m.Layers) > maxPacks {
		return nil, fmt.Errorf("manifest: %d packs are too many: %w", len(m.Layers), errs.Corrupt)
	}
	for _, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil {
			return nil, errs.Mark(fmt.Errorf("manifest: pack %q: %w", l.Digest, err), errs.Corrupt)
		}
		if l.MediaType != oci.MediaTypeLayerZstd || l.Size <= 0 {
			return nil, fmt.Errorf("manifest: pack %s of type %q and %d bytes: %w", l.Digest, l.MediaType, l.Size, errs.Corrupt)
		}
	}
	return m.Layers, nil
}

// noteName is the file beside a mount's folder in which it is noted what of it is kept where.
const noteName = "archived.json"

// note holds the fingerprint that the folder had when it was last restored from a place or saved there, by the name of
// the place.
type note map[string]string

// readNote returns an empty note when there is none that can be read: then everything is saved.
func readNote(dir string) note {
	var n note
	data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), noteName))
	if err != nil || json.Unmarshal(data, &n) != nil || n == nil {
		return note{}
	}
	return n
}

// write replaces the note. Whoever finds it half written takes it for none.
func (n note) write(dir string) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(filepath.Dir(dir), noteName), data, 0o600)
}

// clearFolder removes what is in a folder.
func clearFolder(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
