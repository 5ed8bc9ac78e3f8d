// Package last remembers what the keys of a build were taken over, until the next build of the same Dockerfile, so that
// one can say why a step of that one ran: which file, argument or base image is another.
//
// There is one file for each Dockerfile, context and target. It is small beside what it describes, a few bytes for each
// file of the context, and is written only when a key has changed.
package last

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/tempfile"
)

// Build is what is remembered of one.
type Build struct {
	// Stages are those that the target needed.
	Stages []Stage `json:"stages"`
	// Files are the paths of the context that steps read. A digest is cut short: it tells files apart, and proves
	// nothing.
	Files map[string]Sum `json:"-"`
}

// Stage is a stage of a build.
type Stage struct {
	Name string `json:"name"` // or its number
	// Base is the image that it stood on, with its digest, if it stood on one.
	Base string `json:"base,omitempty"`
	// Steps are its operations.
	Steps []Step `json:"steps"`
}

// Step is an operation of a build.
type Step struct {
	Name string     `json:"name"` // as displayed
	Key  oci.Digest `json:"key"`
	// Parts is what the key was taken over, as JSON.
	Parts json.RawMessage `json:"parts"`
}

// Sum is the beginning of a file's digest.
type Sum [8]byte

// ID stands for all keys of a build.
func (b *Build) ID() [sha256.Size]byte {
	h := sha256.New()
	for _, s := range b.Stages {
		for _, st := range s.Steps {
			h.Write(append([]byte(st.Key), '\n'))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

const (
	magic = "slipway-last-1\n"
	// maxBytes is more than a build of a million files takes.
	maxBytes = 256 << 20
	prefix   = ".last-"
)

// Same says whether file remembers a build with this ID. It reads no more than the beginning.
func Same(file string, id [sha256.Size]byte) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	head := make([]byte, len(magic)+len(id))
	_, err = io.ReadFull(f, head)
	return errors.Join(err, f.Close()) == nil && bytes.Equal(head, append([]byte(magic), id[:]...))
}

// Read returns what file remembers. A file that is not there, or not whole, remembers nothing: errs.NotFound.
func Read(file string) (*Build, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the last build: %w", err)
	}
	if err == nil && len(data) <= maxBytes {
		if b, err := decode(data); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("last build: %w", errs.NotFound)
}

// Write remembers a build in file, in the place of the one before.
func (b *Build) Write(file string) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("remember the build: %w", err)
	}
	tmp, err := tempfile.Create(filepath.Dir(file), prefix)
	if err != nil {
		return fmt.Errorf("remember the build: %w", err)
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: what is closed is taken for abandoned
	if err = b.encode(tmp); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remember the build: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// Recover removes the files in dir that processes which died left half written. It may run at any time.
func Recover(dir string) error {
	_, err := tempfile.Recover(dir, prefix)
	return err
}

// encode writes the magic, the ID, the stages as JSON with their length before them, and the files in order, each with
// how many bytes its path has in common with the one before.
func (b *Build) encode(to io.Writer) error {
	stages, err := json.Marshal(b.Stages)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(to)
	id := b.ID()
	head := append([]byte(magic), id[:]...)
	head = append(binary.AppendUvarint(head, uint64(len(stages))), stages...)
	if _, err := w.Write(binary.AppendUvarint(head, uint64(len(b.Files)))); err != nil {
		return err
	}
	before := ""
	var buf []byte
	for _, p := range slices.Sorted(maps.Keys(b.Files)) {
		n := common(before, p)
		buf = binary.AppendUvarint(buf[:0], uint64(n))
		buf = append(binary.AppendUvarint(buf, uint64(len(p)-n)), p[n:]...)
		sum := b.Files[p]
		if _, err := w.Write(append(buf, sum[:]...)); err != nil {
			return err
		}
		before = p
	}
	return w.Flush()
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

var errFormat = errors.New("not what a build left")

func decode(data []byte) (*Build, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(rest) < sha256.Size {
		return nil, errFormat
	}
	d := &decoder{rest: rest[sha256.Size:]}
	b := &Build{Files: map[string]Sum{}}
	if err := json.Unmarshal(d.bytes(d.number()), &b.Stages); err != nil {
		return nil, err
	}
	before := ""
	for range d.number() {
		n := d.number()
		if d.failed || n > uint64(len(before)) {
			return nil, errFormat
		}
		before = before[:n] + string(d.bytes(d.number()))
		var sum Sum
		copy(sum[:], d.bytes(uint64(len(sum))))
		b.Files[before] = sum
	}
	if d.failed || len(d.rest) > 0 {
		return nil, errFormat
	}
	return b, nil
}

// decoder takes values off bytes. After it has failed it gives zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.failed = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if d.failed || n > uint64(len(d.rest)) {
		d.failed = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
