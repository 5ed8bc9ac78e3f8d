package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Sums gives the digest of a regular file's content and extended attributes. A Hasher remembers them between builds.
type Sums interface {
	Sum(t Tree, e layer.Entry) ([sha256.Size]byte, error)
}

// Digest identifies what a COPY reads: for each source the paths it matches, and below them every name, mode, owner,
// link and content that its filter takes. Times are left out, so that a fresh checkout gives the same digest. A source
// without wildcards that is not there is an error; wildcards that match nothing are not.
func Digest(t Tree, sources []Source, sums Sums) ([sha256.Size]byte, error) {
	h := sha256.New()
	all, err := gather(t, sources, func(match string, files int) {
		writeString(h, "source")
		writeString(h, match)
		writeInt(h, uint64(files))
	})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	content, err := sumAll(t, all, sums)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	for i, e := range all {
		writeEntry(h, e)
		h.Write(content[i][:])
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// File is a path that a COPY reads, with a digest over all that Digest takes of it.
type File struct {
	Path string
	Sum  [sha256.Size]byte
}

// Files lists what Digest is taken over, for those who want to know which file makes two digests differ. A path that
// several sources take is there several times.
func Files(t Tree, sources []Source, sums Sums) ([]File, error) {
	all, err := gather(t, sources, func(string, int) {})
	if err != nil {
		return nil, err
	}
	content, err := sumAll(t, all, sums)
	if err != nil {
		return nil, err
	}
	files := make([]File, len(all))
	h := sha256.New()
	for i, e := range all {
		h.Reset()
		writeEntry(h, e)
		h.Write(content[i][:])
		files[i].Path = e.Path
		h.Sum(files[i].Sum[:0])
	}
	return files, nil
}

// gather returns the files that sources take. It tells of each match and how many of them it stands for.
func gather(t Tree, sources []Source, each func(match string, files int)) ([]layer.Entry, error) {
	var all []layer.Entry
	for _, s := range sources {
		matches, filter, err := s.Find(t)
		if err != nil {
			return nil, err
		}
		for _, m := range matches {
			e, err := source(t, m)
			if err != nil {
				return nil, err
			}
			n := len(all)
			if all, err = walk(t, e, &sieve{filter: filter}, true, all); err != nil {
				return nil, err
			}
			each(m, len(all)-n)
		}
	}
	return all, nil
}

// source finds the file that a path named as source stands for.
func source(t Tree, p string) (layer.Entry, error) {
	real, err := Resolve(t, p, true)
	if err != nil {
		return layer.Entry{}, err
	}
	e, err := t.Lstat(real)
	if notExist(err) {
		return e, fmt.Errorf("%q: %w", "/"+clean(p), errs.NotFound)
	}
	return e, err
}

// walk appends e and what is taken below it. A folder that is not taken is appended when something in it is.
func walk(t Tree, e layer.Entry, s *sieve, taken bool, to []layer.Entry) ([]layer.Entry, error) {
	if !e.Mode.IsDir() {
		if taken {
			to = append(to, e)
		}
		return to, nil
	}
	to = append(to, e)
	n := len(to)
	children, err := t.ReadDir(e.Path)
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		v, err := s.child(path.Base(c.Path))
		if err != nil {
			return nil, err
		}
		if !v.taken && v.prune {
			continue
		}
		if to, err = walk(t, c, &v.below, v.taken, to); err != nil {
			return nil, err
		}
	}
	if !taken && len(to) == n {
		to = to[:n-1]
	}
	return to, nil
}

// sumWorkers is enough to keep two cores hashing while a third call waits for the disk.
const sumWorkers = 3

func sumAll(t Tree, all []layer.Entry, sums Sums) ([][sha256.Size]byte, error) {
	content := make([][sha256.Size]byte, len(all))
	var g errgroup.Group
	for w := range sumWorkers {
		g.Go(func() error {
			for i := w; i < len(all); i += sumWorkers {
				if !all[i].Mode.IsRegular() {
					continue
				}
				sum, err := sums.Sum(t, all[i])
				if err != nil {
					return fmt.Errorf("%q: %w", "/"+all[i].Path, err)
				}
				content[i] = sum
			}
			return nil
		})
	}
	return content, g.Wait()
}

func writeEntry(h hash.Hash, e layer.Entry) {
	writeString(h, e.Path)
	writeInt(h, uint64(e.Mode))
	writeInt(h, uint64(e.UID))
	writeInt(h, uint64(e.GID))
	if e.Mode.Type() == fs.ModeSymlink {
		writeString(h, e.Link)
	}
	if e.Mode&fs.ModeDevice != 0 {
		writeInt(h, uint64(e.Major)<<32|uint64(e.Minor))
	}
}

// writeString frames what it writes, so that no two sequences of strings hash alike.
func writeString(w io.Writer, s string) {
	writeInt(w, uint64(len(s)))
	io.WriteString(w, s) //nolint:errcheck // a hash never fails
}

func writeInt(w io.Writer, n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	w.Write(b[:]) //nolint:errcheck // a hash never fails
}

const copyBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// sumFile reads a regular file's content and extended attributes.
func sumFile(t Tree, e layer.Entry) ([sha256.Size]byte, error) {
	var zero [sha256.Size]byte
	host, err := t.HostPath(e.Path)
	if err != nil {
		return zero, err
	}
	var attrs map[string]string
	if host != "" {
		if attrs, err = xattrs(host); err != nil {
			return zero, err
		}
	}
	r, err := t.Open(e.Path)
	if err != nil {
		return zero, err
	}
	defer r.Close()
	h := sha256.New()
	buf, _ := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, buf[:])
	if err != nil {
		return zero, err
	}
	writeInt(h, uint64(n))
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		writeString(h, k)
		writeString(h, attrs[k])
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Plain is the Sums that reads every file every time.
type Plain struct{}

// Sum implements Sums.
func (Plain) Sum(t Tree, e layer.Entry) ([sha256.Size]byte, error) { return sumFile(t, e) }
