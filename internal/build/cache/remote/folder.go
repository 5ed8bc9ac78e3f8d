package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Folder is a cache in an OCI image layout on a file system. The folder may hold images, too; they are left alone.
type Folder struct{ dir string }

var _ Place = (*Folder)(nil)

// NewFolder returns the cache in dir, which Save and Put make when it is missing.
func NewFolder(dir string) *Folder { return &Folder{dir: dir} }

// String implements Place.
func (c *Folder) String() string { return c.dir }

// Ref implements Place.
func (c *Folder) Ref() ref.Ref { return ref.Ref{} }

func (c *Folder) blob(d oci.Digest) string {
	return filepath.Join(c.dir, oci.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Load implements Place.
func (c *Folder) Load(context.Context) (Records, error) {
	_, m, err := c.manifest()
	if err != nil {
		return nil, fmt.Errorf("read cache %s: %w", c, err)
	}
	records, err := c.records(m)
	if err != nil {
		return nil, fmt.Errorf("read cache %s: %w", c, err)
	}
	return records, nil
}

func (c *Folder) records(m oci.Manifest) (Records, error) {
	data, err := c.readBlob(m.Config)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

// manifest returns the folder's index and the cache's manifest, or errs.NotFound.
func (c *Folder) manifest() (oci.Index, oci.Manifest, error) {
	index := oci.NewIndex(nil, nil)
	data, err := os.ReadFile(filepath.Join(c.dir, oci.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, oci.Manifest{}, errs.NotFound
	}
	if err == nil {
		err = errs.Mark(json.Unmarshal(data, &index), errs.Corrupt)
	}
	if err != nil {
		return index, oci.Manifest{}, fmt.Errorf("index: %w", err)
	}
	i := slices.IndexFunc(index.Manifests, isCacheDescriptor)
	if i < 0 {
		return index, oci.Manifest{}, errs.NotFound
	}
	if data, err = c.readBlob(index.Manifests[i]); err != nil {
		return index, oci.Manifest{}, err
	}
	m, err := decodeManifest(data)
	return index, m, err
}

func isCacheDescriptor(d oci.Descriptor) bool { return d.ArtifactType == ArtifactType }

// readBlob reads a small blob and holds it against its digest.
func (c *Folder) readBlob(desc oci.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	if desc.Size > maxRecordsBytes {
		return nil, fmt.Errorf("blob %s: %d bytes are too many: %w", desc.Digest, desc.Size, errs.Corrupt)
	}
	data, err := os.ReadFile(c.blob(desc.Digest))
	if err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	if desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("blob %s: its content has another digest: %w", desc.Digest, errs.Corrupt)
	}
	return data, nil
}

// Has implements Place.
func (c *Folder) Has(_ context.Context, d oci.Digest) (bool, error) {
	_, err := os.Stat(c.blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Open implements Place.
func (c *Folder) Open(_ context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	f, err := os.Open(c.blob(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.NotFound
	}
	if err != nil {
		return nil, fmt.Errorf("cache %s: blob %s: %w", c, desc.Digest, err)
	}
	return &verified{File: f, verifier: desc.Digest.Verifier(), name: desc.Digest.String()}, nil
}

// verified reads a file that must have a digest.
type verified struct {
	*os.File
	verifier interface {
		io.Writer
		Verified() bool
	}
	name string
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.File.Read(p)
	_, _ = v.verifier.Write(p[:n]) // a hash never fails
	if errors.Is(err, io.EOF) && !v.verifier.Verified() {
		err = fmt.Errorf("blob %s: its content has another digest: %w", v.name, errs.Corrupt)
	}
	return n, err
}

// Put implements Place. A blob appears when it is whole.
func (c *Folder) Put(ctx context.Context, src registry.Source) (p registry.Pushed, err error) {
	desc, err := src.Descriptor(ctx)
	if err != nil {
		return p, err
	}
	p.Descriptor = desc
	if info, err := os.Stat(c.blob(desc.Digest)); err == nil && info.Size() == desc.Size {
		p.Existed = true
		return p, c.touch(desc.Digest)
	}
	r, err := src.Open(0)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := c.store(desc, r); err != nil {
		return p, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	p.Bytes = desc.Size
	return p, nil
}

// touch keeps a blob that is there from being removed by whoever saves next.
func (c *Folder) touch(d oci.Digest) error {
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	return os.NewSyscallError("utimensat "+c.blob(d), unix.UtimesNanoAt(unix.AT_FDCWD, c.blob(d), []unix.Timespec{now, now}, 0))
}

func (c *Folder) store(desc oci.Descriptor, r io.Reader) error {
	return c.write(c.blob(desc.Digest), func(w io.Writer) error {
		verifier := desc.Digest.Verifier()
		n, err := io.Copy(io.MultiWriter(w, verifier), r)
		if err == nil && (n != desc.Size || !verifier.Verified()) {
			err = fmt.Errorf("its content has another digest: %w", errs.Corrupt)
		}
		return err
	})
}

// write replaces a file by one that is whole.
func (c *Folder) write(name string, fill func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(c.dir, ".blob-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = fill(tmp)
	if err == nil {
		err = tmp.Chmod(0o644) // others may carry the folder away
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// Save implements Place.
func (c *Folder) Save(ctx context.Context, u Update) error {
	if err := c.save(ctx, u); err != nil {
		return fmt.Errorf("write cache %s: %w", c, err)
	}
	return nil
}

// save merges under a lock: blobs first, the index last, and then what nobody needs any more goes.
func (c *Folder) save(ctx context.Context, u Update) (err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	index, old, err := c.manifest()
	var records Records
	if err == nil {
		records, err = c.records(old)
	}
	if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Corrupt) {
		return err
	}
	records, changed := u.apply(records)
	if !changed {
		return nil
	}
	manifest, config, err := records.encode()
	if err != nil {
		return err
	}
	desc := oci.Describe(oci.MediaTypeManifest, manifest)
	for _, data := range [][]byte{config, manifest} {
		if err := c.write(c.blob(oci.Describe("", data).Digest), bytesOf(data)); err != nil {
			return err
		}
	}
	desc.ArtifactType = ArtifactType
	index.Manifests = append(slices.DeleteFunc(index.Manifests, isCacheDescriptor), desc)
	if err := c.writeIndex(index); err != nil {
		return err
	}
	return c.sweep(u.Now, index)
}

func bytesOf(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func (c *Folder) writeIndex(index oci.Index) error {
	data, err := oci.Marshal(index)
	if err != nil {
		return err
	}
	layout := []byte(`{"imageLayoutVersion":"` + oci.ImageLayoutVersion + `"}`)
	if err := c.write(filepath.Join(c.dir, oci.ImageLayoutFile), bytesOf(layout)); err != nil {
		return err
	}
	return c.write(filepath.Join(c.dir, oci.ImageIndexFile), bytesOf(data))
}

// unsaved is how long a blob may wait for the record that names it: another build may be about to save one.
const unsaved = 24 * time.Hour

// sweep removes blobs that no manifest of the folder leads to. It only knows caches: beside anything else it leaves all
// as it is.
func (c *Folder) sweep(now time.Time, index oci.Index) error {
	if len(index.Manifests) != 1 {
		return nil
	}
	_, m, err := c.manifest()
	if err != nil {
		return err
	}
	keep := map[string]bool{c.blob(index.Manifests[0].Digest): true, c.blob(m.Config.Digest): true}
	for _, l := range m.Layers {
		keep[c.blob(l.Digest)] = true
	}
	all, err := filepath.Glob(filepath.Join(c.dir, oci.ImageBlobsDir, "*", "*"))
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(c.dir, ".blob-*"))
	if err != nil {
		return err
	}
	for _, file := range append(all, left...) {
		info, err := os.Stat(file)
		if keep[file] || err != nil || now.Sub(info.ModTime()) < unsaved {
			continue
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lockPause is how often a folder that another process saves to is tried.
const lockPause = 10 * time.Millisecond

// lock keeps other writers out until unlock is called, or this process ends.
func (c *Folder) lock(ctx context.Context) (unlock func() error, err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(c.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPause):
		}
	}
}
