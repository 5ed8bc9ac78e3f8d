// Package places remembers which repositories have which blobs, so that a blob which goes to another repository of the
// same registry is mounted there instead of being sent again.
//
// What it remembers may have become untrue: a registry that lacks the blob meanwhile refuses the mount, and the blob is
// sent. So nothing here needs to survive, and nothing is flushed to disk.
package places

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// Places is a folder with a small file for each blob. Its methods may be called by several goroutines and processes at
// once; when two remember places of one blob in the same moment, one of the places is forgotten.
type Places struct{ dir string }

// kept is how many repositories are remembered of a blob; the last ones that got it.
const kept = 4

// Open returns the memory in dir, which is made when something is first remembered.
func Open(dir string) *Places { return &Places{dir: dir} }

func (p *Places) file(d oci.Digest) string {
	hex := d.Encoded()
	return filepath.Join(p.dir, hex[:2], hex[2:])
}

// Of returns the repositories of a registry that had a blob when last heard of, the latest first. A Places that is nil
// knows none.
func (p *Places) Of(registry string, d oci.Digest) ([]ref.Ref, error) {
	if p == nil {
		return nil, nil
	}
	names, err := p.read(d)
	if err != nil {
		return nil, err
	}
	var found []ref.Ref
	for _, name := range names {
		if r, err := ref.Parse(name); err == nil && r.Registry() == registry {
			found = append(found, r)
		}
	}
	return found, nil
}

func (p *Places) read(d oci.Digest) ([]string, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(p.file(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("places of %s: %w", d, err)
	}
	return strings.Fields(string(data)), nil
}

// Add remembers that a repository has a blob.
func (p *Places) Add(d oci.Digest, r ref.Ref) error {
	if p == nil {
		return nil
	}
	names, err := p.read(d)
	if err != nil {
		return err
	}
	name := r.Name()
	if len(names) > 0 && names[0] == name {
		return nil
	}
	names = append([]string{name}, slices.DeleteFunc(names, func(n string) bool { return n == name })...)
	names = names[:min(len(names), kept)]
	if err := p.write(d, strings.Join(names, "\n")+"\n"); err != nil {
		return fmt.Errorf("remember the places of %s: %w", d, err)
	}
	return nil
}

// write replaces a file in place. Whoever reads it half written, or after its writer was killed, finds fewer places, or
// words that are none.
func (p *Places) write(d oci.Digest, text string) error {
	file := p.file(d)
	err := os.WriteFile(file, []byte(text), 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	return err
}
