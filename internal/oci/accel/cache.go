package accel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/tempfile"
)

// Cache remembers what layers were converted into. The converted blobs are in a blob store; a record whose blob is gone
// counts as none. Its methods may be called by several goroutines and processes at once.
type Cache struct {
	dir   string
	blobs blob.Store
}

// tempPrefix begins the name of a record that is being written.
const tempPrefix = ".record-"

// OpenCache returns the cache in dir, which is made when something is first remembered.
func OpenCache(dir string, blobs blob.Store) *Cache { return &Cache{dir: dir, blobs: blobs} }

// Key is what the conversion of the last of layers is remembered under. Layers are named by the digests of their blobs:
// a diffID is only what an image says of itself, and one that lies must not answer for another.
func Key(f Format, layers []oci.Digest) oci.Digest {
	if !f.Stacked() {
		layers = layers[len(layers)-1:]
	}
	var b strings.Builder
	b.WriteString(f.Name() + "\n" + f.Settings() + "\n")
	for _, d := range layers {
		b.WriteString(d.String() + "\n")
	}
	return digest.FromString(b.String())
}

// Lookup returns the conversion that is remembered under key, or errs.NotFound.
func (c *Cache) Lookup(ctx context.Context, key oci.Digest) (Layer, error) {
	data, err := os.ReadFile(c.file(key))
	if errors.Is(err, fs.ErrNotExist) {
		return Layer{}, errs.NotFound
	}
	if err != nil {
		return Layer{}, fmt.Errorf("look up converted layer: %w", err)
	}
	var l Layer
	if json.Unmarshal(data, &l) != nil || l.Descriptor.Digest.Validate() != nil || l.DiffID.Validate() != nil {
		return Layer{}, errs.NotFound // damaged by a crash: it is converted again
	}
	size, err := c.blobs.Stat(ctx, l.Descriptor.Digest)
	if err != nil {
		return Layer{}, err
	}
	if size != l.Descriptor.Size {
		return Layer{}, errs.NotFound
	}
	return l, nil
}

// Store remembers a conversion whose blob is in the store.
func (c *Cache) Store(_ context.Context, key oci.Digest, l Layer) error {
	if err := c.store(key, l); err != nil {
		return fmt.Errorf("remember converted layer %s: %w", l.Descriptor.Digest, err)
	}
	return nil
}

func (c *Cache) store(key oci.Digest, l Layer) (err error) {
	data, err := oci.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if _, err := tempfile.Recover(c.dir, tempPrefix); err != nil {
		return err
	}
	f, err := tempfile.Create(c.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // after the renaming: what is closed is taken for abandoned
	if _, err = f.Write(data); err == nil {
		err = os.Rename(f.Name(), c.file(key))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (c *Cache) file(key oci.Digest) string { return filepath.Join(c.dir, key.Encoded()) }
