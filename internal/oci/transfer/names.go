package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/tempfile"
)

// Names is a folder of names for images whose blobs are in a store: a file for each, replaced by rename. Its methods may
// be called by several goroutines and processes at once.
type Names struct{ dir string }

// Named is an image with a name.
type Named struct {
	Name       string         `json:"name"`
	Descriptor oci.Descriptor `json:"descriptor"`
	Created    time.Time      `json:"created"` // when it got the name
	// Used is when it was last given or looked up.
	Used time.Time `json:"-"`
}

// OpenNames returns the names in dir, which is made when the first is given.
func OpenNames(dir string) *Names { return &Names{dir: dir} }

const namePrefix = ".name-"

func (n *Names) file(r ref.Ref) string {
	sum := sha256.Sum256([]byte(r.String()))
	return filepath.Join(n.dir, hex.EncodeToString(sum[:16]))
}

// Set gives an image a name, which another one loses.
func (n *Names) Set(r ref.Ref, desc oci.Descriptor, now time.Time) error {
	if err := n.set(r, desc, now); err != nil {
		return fmt.Errorf("name image %s: %w", r.Familiar(), err)
	}
	return nil
}

func (n *Names) set(r ref.Ref, desc oci.Descriptor, now time.Time) (err error) {
	if old, err := n.read(n.file(r)); err == nil && old.Descriptor.Digest == desc.Digest {
		return n.touch(r, now)
	}
	data, err := json.Marshal(Named{Name: r.String(), Descriptor: desc, Created: now.UTC()})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	tmp, err := tempfile.Create(n.dir, namePrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: Recover takes what is closed for abandoned
	if _, err = tmp.Write(data); err == nil {
		err = os.Rename(tmp.Name(), n.file(r))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return n.touch(r, now)
}

func (n *Names) touch(r ref.Ref, now time.Time) error {
	err := os.Chtimes(n.file(r), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Get returns the image with a name, or errs.NotFound. It counts as a use.
func (n *Names) Get(r ref.Ref, now time.Time) (Named, error) {
	named, err := n.read(n.file(r))
	if err == nil {
		err = n.touch(r, now)
	}
	if err != nil {
		return Named{}, fmt.Errorf("image %s: %w", r.Familiar(), err)
	}
	return named, nil
}

// read takes a file that cannot be read as one for none.
func (n *Names) read(file string) (Named, error) {
	var named Named
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return named, errs.NotFound
	}
	if err != nil {
		return named, err
	}
	if json.Unmarshal(data, &named) != nil || named.Descriptor.Digest.Validate() != nil {
		return Named{}, errs.NotFound
	}
	info, err := os.Stat(file)
	if err == nil {
		named.Used = info.ModTime()
	}
	return named, nil
}

// Remove takes an image its name, and nothing else. If there is none the error is of kind errs.NotFound.
func (n *Names) Remove(r ref.Ref) error {
	err := os.Remove(n.file(r))
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.NotFound
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", r.Familiar(), err)
	}
	return nil
}

// List returns all names, in order.
func (n *Names) List(ctx context.Context) ([]Named, error) {
	files, err := os.ReadDir(n.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []Named
	for _, f := range files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if strings.HasPrefix(f.Name(), ".") { // which is being written
			continue
		}
		named, err := n.read(filepath.Join(n.dir, f.Name()))
		if errors.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		all = append(all, named)
	}
	slices.SortFunc(all, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Recover removes what processes that died left half written. It may run at any time.
func (n *Names) Recover() error {
	if _, err := tempfile.Recover(n.dir, namePrefix); err != nil {
		return fmt.Errorf("names of images: %w", err)
	}
	return nil
}
