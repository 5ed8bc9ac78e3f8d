package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/registry"
)

// Saving says what to save.
type Saving struct {
	Key oci.Digest
	// ID is what the user calls the mount.
	ID string
	// Dir is the mount's folder. Beside it is noted what was saved.
	Dir string
	// Create begins a blob, in which a pack is made before it is sent. None is committed.
	Create func(ctx context.Context) (blob.Writer, error)
}

// Saved says what came of it.
type Saved struct {
	// Unchanged: nothing has changed since this folder was last restored from there or saved there. Empty: there is
	// nothing to save. Then nothing was done.
	Unchanged, Empty bool
	// Packs is how many there are, Sent how many of them were not there, Bytes what was sent.
	Packs, Sent int
	Bytes       int64
}

// Save brings a mount's folder to a place, if it has changed. An error of kind errs.Conflict says that somebody changed
// files while they were read.
func Save(ctx context.Context, p Place, s Saving) (Saved, error) {
	saved, err := s.save(ctx, p)
	if err != nil {
		return saved, fmt.Errorf("save cache mount %s to %s: %w", s.ID, p, err)
	}
	return saved, nil
}

func (s *Saving) save(ctx context.Context, p Place) (Saved, error) {
	sum, n, err := fingerprint(ctx, s.Dir)
	if err != nil || n == 0 {
		return Saved{Empty: n == 0}, err
	}
	known := readNote(s.Dir)
	there, err := p.Load(ctx, s.Key)
	if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Corrupt) {
		return Saved{}, err
	}
	if err == nil && known[p.String()] == sum { // others may have saved theirs since, which is no reason to
		return Saved{Unchanged: true}, nil
	}
	saved, manifest, err := s.packs(ctx, p)
	if err != nil {
		return saved, err
	}
	if !bytes.Equal(there, manifest) {
		if err := p.Store(ctx, s.Key, manifest); err != nil {
			return saved, err
		}
	}
	// What changed since sum was taken has another one, and is saved the next time.
	known[p.String()] = sum
	return saved, known.write(s.Dir)
}

// sendsAtOnce is how many packs are on their way while the next is being made.
const sendsAtOnce = 4

// packs makes and sends the packs and the config, and returns the manifest.
func (s *Saving) packs(ctx context.Context, p Place) (saved Saved, manifest []byte, err error) {
	next, stop := iter.Pull2(layer.Upper(ctx, s.Dir))
	defer stop()
	pk := &packer{next: next}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sendsAtOnce)
	var (
		mu     sync.Mutex
		layers []oci.Descriptor
	)
	send := func(src registry.Source) error {
		pushed, err := p.Put(gctx, src)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && !pushed.Existed && !pushed.Mounted {
			saved.Sent++
			saved.Bytes += pushed.Bytes
		}
		return err
	}
	for !pk.done && gctx.Err() == nil {
		w, desc, err := s.pack(gctx, pk)
		if err == nil && len(layers) == maxPacks {
			err = errors.Join(fmt.Errorf("more than %d packs: %w", maxPacks, errs.Limit), w.Close())
		}
		if err != nil {
			return saved, nil, errors.Join(err, g.Wait())
		}
		if w == nil {
			continue
		}
		layers = append(layers, desc)
		g.Go(func() error {
			return errors.Join(send(registry.Source{
				Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
				Open:       func(offset int64) (io.ReadCloser, error) { return follow(w, offset, desc.Size), nil },
			}), w.Close())
		})
	}
	if err := g.Wait(); err != nil {
		return saved, nil, err
	}
	data, err := oci.Marshal(config{ID: s.ID})
	if err != nil {
		return saved, nil, err
	}
	desc := oci.Describe(ConfigType, data)
	_, err = p.Put(ctx, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	})
	if err != nil {
		return saved, nil, err
	}
	m := oci.NewManifest(desc, layers, nil)
	m.ArtifactType = ArtifactType
	saved.Packs = len(layers)
	manifest, err = oci.Marshal(m)
	return saved, manifest, err
}

// follow reads a whole blob that is never committed, and of which a follower would wait for more.
func follow(w blob.Writer, offset, size int64) io.ReadCloser {
	f := w.Follow(offset)
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, size-offset), f}
}

// pack makes the next pack; the writer is nil when there are no more files. The caller closes it.
func (s *Saving) pack(ctx context.Context, pk *packer) (_ blob.Writer, _ oci.Descriptor, err error) {
	w, err := s.Create(ctx)
	if err != nil {
		return nil, oci.Descriptor{}, err
	}
	res, err := layer.Write(ctx, w, pk.files(), layer.Options{Compression: layer.Compression{Algorithm: "zstd"}})
	if err != nil || res.Entries == 0 {
		return nil, oci.Descriptor{}, errors.Join(err, w.Close())
	}
	return w, res.Descriptor, nil
}

// packer splits a sequence of files into packs.
type packer struct {
	next func() (layer.File, error, bool)
	done bool
}

const (
	// packSize is how large a pack gets before it may end, packMost where it ends at the next file.
	packSize = 8 << 20
	packMost = 64 << 20
	// packFiles is how many files it gets before it may end, however small they are.
	packFiles = 10_000
)

// files yields those of the next pack. Where it ends is decided by the name of its last file, so that a file more or
// less moves no other files than its neighbours from pack to pack.
func (pk *packer) files() iter.Seq2[layer.File, error] {
	return func(yield func(layer.File, error) bool) {
		var size int64
		for n := 1; ; n++ {
			f, err, ok := pk.next()
			if !ok || err != nil {
				pk.done = true
				if err != nil {
					yield(f, err)
				}
				return
			}
			if !keeps(&f) {
				continue
			}
			if !yield(f, nil) {
				pk.done = true
				return
			}
			size += f.Size
			if size >= packMost || (size >= packSize || n >= packFiles) && mayEnd(f.Path) {
				return
			}
		}
	}
}

// mayEnd is true of one name in four.
func mayEnd(path string) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(path)) // never fails
	return h.Sum32()%4 == 0
}

// keeps says whether a file is kept: files, folders and links are. What an overlay would take for a mark of its own
// has no meaning in a mount.
func keeps(f *layer.File) bool {
	f.Opaque = false
	if f.Whiteout {
		return false
	}
	switch f.Mode.Type() {
	case 0, fs.ModeDir, fs.ModeSymlink:
		return true
	}
	return false
}

// fingerprint is a digest over all that is known of a folder's files without reading them, and how many there are. Times
// count in whole seconds, which is what is kept of them.
func fingerprint(ctx context.Context, dir string) (sum string, n int, err error) {
	h := sha256.New()
	for f, err := range layer.Upper(ctx, dir) {
		if err != nil {
			return "", 0, err
		}
		if !keeps(&f) {
			continue
		}
		n++
		e := &f.Entry
		size, mtime := e.Size, e.ModTime.Unix()
		if e.IsDir() {
			size = 0
		}
		if e.Hard {
			size, mtime = 0, 0
		}
		_, _ = fmt.Fprintf(h, "%q %o %d %d %d %d %q %t\n", e.Path, e.Mode, e.UID, e.GID, size, mtime, e.Link, e.Hard) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}
