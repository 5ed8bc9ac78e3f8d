package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build/address"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/ref"
)

// Layout is an image in a folder that is an OCI image layout. Its methods may be called at once.
type Layout struct {
	where address.Context
	root  *os.Root
	image oci.Descriptor

	mu      sync.Mutex
	trusted map[oci.Digest]bool // blobs whose content was held against their digest
}

// OpenLayout finds the image that the address of a layout names: by its digest, by its tag, or the only one that there
// is. It must be closed.
func OpenLayout(c address.Context) (_ *Layout, err error) {
	root, err := os.OpenRoot(c.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Word, errs.Mark(err, errs.Invalid))
	}
	l := &Layout{where: c, root: root, trusted: map[oci.Digest]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", c.Word, err), root.Close())
		}
	}()
	data, err := l.small(oci.ImageIndexFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("no OCI image layout: it has no %s: %w", oci.ImageIndexFile, errs.Invalid)
		}
		return nil, err
	}
	var index oci.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", oci.ImageIndexFile, errs.Mark(err, errs.Corrupt))
	}
	if l.image, err = choose(index.Manifests, c); err != nil {
		return nil, err
	}
	return l, nil
}

// Close lets go of the folder. Blobs that are open stay so.
func (l *Layout) Close() error { return l.root.Close() }

// choose finds the manifest that a tag or a digest names.
func choose(manifests []oci.Descriptor, c address.Context) (oci.Descriptor, error) {
	if c.Digest != "" {
		d, err := digest.Parse(c.Digest)
		if err != nil {
			return oci.Descriptor{}, fmt.Errorf("digest %q: %w", c.Digest, errs.Mark(err, errs.Invalid))
		}
		return oci.Descriptor{Digest: d}, nil // of what is in an index, too
	}
	if c.Tag == "" && len(manifests) == 1 {
		return manifests[0], nil
	}
	tag := c.Tag
	if tag == "" {
		tag = "latest"
	}
	for _, m := range manifests {
		name := m.Annotations[oci.AnnotationRefName]
		if name == tag {
			return m, nil
		}
		if r, err := ref.Parse(name); err == nil && strings.Contains(name, ":") && r.Tag() == tag { // a whole reference
			return m, nil
		}
	}
	err := fmt.Errorf("it has %d images and none with the tag %s: %w", len(manifests), tag, errs.NotFound)
	return oci.Descriptor{}, errs.Hint(err, "name one by its tag, as oci-layout://DIR:TAG, or its digest, as oci-layout://DIR@sha256:…")
}

// maxIndexes is how many indexes may be inside each other.
const maxIndexes = 4

// Base returns the image's manifest for a platform.
func (l *Layout) Base(ctx context.Context, _ ref.Ref, p oci.Platform) (oci.Descriptor, []byte, error) {
	desc := l.image
	for range maxIndexes {
		raw, err := l.manifest(ctx, desc.Digest)
		if err != nil {
			return oci.Descriptor{}, nil, err
		}
		desc = oci.DescribeManifest(raw)
		if !oci.IsIndex(desc.MediaType) {
			return desc, raw, nil
		}
		if desc, err = oci.Choose(raw, p); err != nil {
			return oci.Descriptor{}, nil, err
		}
	}
	return oci.Descriptor{}, nil, fmt.Errorf("more than %d indexes inside each other: %w", maxIndexes, errs.Invalid)
}

func (l *Layout) manifest(ctx context.Context, d oci.Digest) (_ []byte, err error) {
	r, err := l.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() > oci.MaxManifestBytes {
		return nil, fmt.Errorf("manifest %s: %d bytes are too many: %w", d, r.Size(), errs.Invalid)
	}
	return io.ReadAll(r)
}

// Open reads a blob, after it was held against its digest.
func (l *Layout) Open(ctx context.Context, d oci.Digest) (_ blob.Reader, err error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", d, errs.Mark(err, errs.Corrupt))
	}
	f, err := l.root.Open(path.Join(oci.ImageBlobsDir, d.Algorithm().String(), d.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.Mark(err, errs.NotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("blob %s is no file: %w", d, errs.Corrupt)
	}
	if err == nil {
		err = l.trust(ctx, d, f)
	}
	if err != nil {
		return nil, err
	}
	return &layoutBlob{File: f, size: info.Size()}, nil
}

// trust compares a blob with its digest, once.
func (l *Layout) trust(ctx context.Context, d oci.Digest, f *os.File) error {
	l.mu.Lock()
	trusted := l.trusted[d]
	l.mu.Unlock()
	if trusted {
		return nil
	}
	v := d.Verifier()
	if _, err := io.Copy(v, &interruptible{ctx, f}); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	if !v.Verified() {
		return fmt.Errorf("blob %s has another content than its digest says: %w", d, errs.Corrupt)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trusted[d] = true
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// interruptible is a reader that ends when a context does.
type interruptible struct {
	ctx context.Context //nolint:containedctx // of the reading
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(p)
}

// small reads a file of the layout that is no blob.
func (l *Layout) small(name string) (_ []byte, err error) {
	f, err := l.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxManifestBytes+1))
	if err == nil && len(data) > oci.MaxManifestBytes {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, oci.MaxManifestBytes, errs.Invalid)
	}
	return data, err
}

// layoutBlob is a blob.Reader of a file.
type layoutBlob struct {
	*os.File
	size int64
}

// Size implements blob.Reader.
func (b *layoutBlob) Size() int64 { return b.size }
