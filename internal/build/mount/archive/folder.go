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
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/registry"
	"slipway/internal/tempfile"
)

// Folder keeps mounts in a folder:
//
//	KEY.json               the manifest of what is kept under a key; replaced by rename
//	blobs/sha256/<hex>     packs and configs; held by who is about to store a manifest that names them
//	.lock                  locked by who stores a manifest
//
// Blobs that no manifest names and nobody holds are removed when something is stored.
type Folder struct {
	dir   string
	blobs *dir.Store
	kept  *blob.Keeper
}

var _ Place = (*Folder)(nil)

// NewFolder returns the place in a folder, which is made when it is missing.
func NewFolder(path string) (*Folder, error) {
	// Other machines read the folder, and this one's boot says nothing about theirs: blobs are synced.
	blobs, err := dir.Open(path, dir.Options{Sync: true})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Folder{dir: path, blobs: blobs, kept: blob.NewKeeper(blobs)}, nil
}

// String implements Place.
func (p *Folder) String() string { return p.dir }

// manifestSuffix ends the names of manifests.
const manifestSuffix = ".json"

// Load implements Place.
func (p *Folder) Load(_ context.Context, key oci.Digest) ([]byte, error) {
	f, err := os.Open(filepath.Join(p.dir, key.Encoded()+manifestSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	return io.ReadAll(io.LimitReader(f, oci.MaxManifestBytes))
}

// Open implements Place.
func (p *Folder) Open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := p.blobs.Open(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if r.Size() != desc.Size {
		return nil, errors.Join(fmt.Errorf("blob %s has %d bytes, not %d: %w", desc.Digest, r.Size(), desc.Size, errs.Corrupt), r.Close())
	}
	return &verified{Reader: r, verifier: desc.Digest.Verifier()}, nil
}

// verified holds what is read against its digest. The store does so only with blobs that it does not know: this folder
// has been elsewhere, and marks travel with it.
type verified struct {
	blob.Reader
	verifier interface {
		io.Writer
		Verified() bool
	}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	_, _ = v.verifier.Write(p[:n]) // a hash never fails
	if errors.Is(err, io.EOF) && !v.verifier.Verified() {
		err = fmt.Errorf("its content has another digest: %w", errs.Corrupt)
	}
	return n, err
}

// Put implements Place. The blob stays until Store.
func (p *Folder) Put(ctx context.Context, src registry.Source) (pushed registry.Pushed, err error) {
	desc, err := src.Descriptor(ctx)
	if err != nil {
		return pushed, err
	}
	pushed.Descriptor = desc
	if size, err := p.kept.Stat(ctx, desc.Digest); err == nil && size == desc.Size {
		pushed.Existed = true
		return pushed, nil
	}
	r, err := src.Open(0)
	if err != nil {
		return pushed, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := p.kept.Create(ctx)
	if err != nil {
		return pushed, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if pushed.Bytes, err = io.Copy(w, r); err != nil {
		return pushed, err
	}
	_, err = w.Commit(ctx, desc.Digest)
	return pushed, err
}

// tempPrefix begins the name of a manifest that is being written.
const tempPrefix = ".manifest-"

// Store implements Place.
func (p *Folder) Store(ctx context.Context, key oci.Digest, manifest []byte) (err error) {
	lock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := p.replace(key, manifest); err != nil {
		return err
	}
	// Under the lock: who sweeps must have seen the manifest before he finds that nobody holds its blobs.
	if err := p.kept.Close(); err != nil {
		return err
	}
	return p.sweep(ctx)
}

// lockPause is how often a lock that another process has is tried.
const lockPause = 10 * time.Millisecond

func (p *Folder) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(p.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPause):
		}
	}
}

func (p *Folder) replace(key oci.Digest, manifest []byte) (err error) {
	tmp, err := tempfile.Create(p.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: Recover takes what is closed for abandoned
	_, err = tmp.Write(manifest)
	if err == nil {
		err = tmp.Chmod(0o644) // others may carry the folder away
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(p.dir, key.Encoded()+manifestSuffix))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// sweep removes the blobs that no manifest names and that no process holds, and what processes that died left.
func (p *Folder) sweep(ctx context.Context) error {
	if _, err := tempfile.Recover(p.dir, tempPrefix); err != nil {
		return err
	}
	if err := p.blobs.Recover(ctx); err != nil {
		return err
	}
	needed, err := p.needed()
	if err != nil {
		return err
	}
	for d, err := range p.blobs.List(ctx) {
		if err != nil {
			return err
		}
		if needed[d] {
			continue
		}
		if err := p.blobs.Delete(ctx, d); err != nil && !errors.Is(err, errs.Conflict) {
			return err
		}
	}
	return nil
}

// needed are the blobs that manifests name. One that cannot be read names none.
func (p *Folder) needed() (map[oci.Digest]bool, error) {
	files, err := filepath.Glob(filepath.Join(p.dir, "*"+manifestSuffix))
	if err != nil {
		return nil, err
	}
	needed := map[oci.Digest]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var m oci.Manifest
		if json.Unmarshal(data, &m) != nil {
			continue
		}
		needed[m.Config.Digest] = true
		for _, l := range m.Layers {
			needed[l.Digest] = true
		}
	}
	return needed, nil
}
