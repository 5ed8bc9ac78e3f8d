package transfer

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
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/tempfile"
)

// Layout is an image in an OCI image layout: a folder that other tools read and write, too.
type Layout struct {
	dir    string
	tag    string
	digest oci.Digest
}

var (
	_ Source = (*Layout)(nil)
	_ Target = (*Layout)(nil)
)

// ParseLayout reads DIR[:TAG][@DIGEST]. A folder whose own name has a colon needs a tag after it.
func ParseLayout(s string) (*Layout, error) {
	dir, d, _ := strings.Cut(s, "@")
	l := &Layout{dir: dir, digest: oci.Digest(d)}
	if d != "" {
		if err := l.digest.Validate(); err != nil {
			return nil, errs.Mark(fmt.Errorf("layout %q: digest %q: %w", s, d, err), errs.Invalid)
		}
	}
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		l.dir, l.tag = dir[:i], dir[i+1:]
		if !ref.ValidTag(l.tag) {
			return nil, fmt.Errorf("layout %q: %q is no tag: %w", s, l.tag, errs.Invalid)
		}
	}
	if l.dir == "" {
		return nil, fmt.Errorf("layout %q: the folder is missing: %w", s, errs.Invalid)
	}
	return l, nil
}

// String implements Source and Target.
func (l *Layout) String() string {
	s := "oci-layout:" + l.dir
	if l.tag != "" {
		s += ":" + l.tag
	}
	if l.digest != "" {
		s += "@" + l.digest.String()
	}
	return s
}

// Repository implements Source.
func (l *Layout) Repository() ref.Ref { return ref.Ref{} }

// annotationImageName is where containerd and BuildKit keep an image's full name; the specification's own annotation
// has the tag alone.
const annotationImageName = "io.containerd.image.name"

// index reads index.json; an empty one if there is none.
func (l *Layout) index() (oci.Index, error) {
	index := oci.NewIndex(nil, nil)
	f, err := os.Open(filepath.Join(l.dir, oci.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	defer f.Close() // only read
	data, err := readAll(f)
	if err == nil {
		err = errs.Mark(json.Unmarshal(data, &index), errs.Corrupt)
	}
	if err != nil {
		return index, fmt.Errorf("%s: %w", oci.ImageIndexFile, err)
	}
	return index, nil
}

// Root implements Source.
func (l *Layout) Root(ctx context.Context) (oci.Descriptor, []byte, error) {
	if _, err := os.Stat(filepath.Join(l.dir, oci.ImageLayoutFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s is no OCI image layout: it has no file %s: %w", l.dir, oci.ImageLayoutFile, errs.NotFound)
		}
		return oci.Descriptor{}, nil, err
	}
	index, err := l.index()
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	desc, err := choose(index.Manifests, l.tag, l.digest)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	raw, err := l.Manifest(ctx, desc)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	return typed(desc, raw), raw, nil
}

// typed completes a descriptor whose media type only the manifest tells.
func typed(desc oci.Descriptor, raw []byte) oci.Descriptor {
	if !oci.IsIndex(desc.MediaType) && !oci.IsManifest(desc.MediaType) {
		desc.MediaType = oci.DescribeManifest(raw).MediaType
	}
	return desc
}

// choose finds the image in an index by its tag or digest, or the only one that there is.
func choose(all []oci.Descriptor, tag string, d oci.Digest) (oci.Descriptor, error) {
	var found []oci.Descriptor
	var names []string
	for _, m := range all {
		if m.Digest == d && d != "" {
			return m, nil
		}
		name := nameOf(m)
		if tag != "" && name == tag {
			return m, nil
		}
		if m.ArtifactType != "" { // attached to one of the others
			continue
		}
		if name != "" {
			names = append(names, name)
		}
		if !slices.ContainsFunc(found, func(o oci.Descriptor) bool { return o.Digest == m.Digest }) {
			found = append(found, m)
		}
	}
	slices.Sort(names)
	has := errs.Hint(errs.NotFound, "it has "+strings.Join(slices.Compact(names), ", "))
	switch {
	case d != "":
		return oci.Descriptor{}, fmt.Errorf("no image %s: %w", d, errs.NotFound)
	case tag != "":
		return oci.Descriptor{}, fmt.Errorf("no image %q: %w", tag, has)
	case len(found) == 0:
		return oci.Descriptor{}, fmt.Errorf("there is no image: %w", errs.NotFound)
	case len(found) > 1:
		return oci.Descriptor{}, errs.Hint(fmt.Errorf("there are %d images: %w", len(found), errs.Invalid), "say which: "+strings.Join(slices.Compact(names), ", "))
	}
	return found[0], nil
}

// nameOf is the tag of an entry of an index.
func nameOf(d oci.Descriptor) string {
	name := d.Annotations[oci.AnnotationRefName]
	if name == "" {
		if r, err := ref.Parse(d.Annotations[annotationImageName]); err == nil {
			return r.Tag()
		}
	}
	if r, err := ref.Parse(name); err == nil && strings.ContainsAny(name, "/:") { // some tools keep the full name there
		return r.Tag()
	}
	return name
}

func (l *Layout) path(d oci.Digest) string {
	return filepath.Join(l.dir, oci.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Manifest implements Source.
func (l *Layout) Manifest(ctx context.Context, desc oci.Descriptor) (_ []byte, err error) {
	f, err := l.open(desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	raw, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	return checked(desc, raw)
}

func (l *Layout) open(desc oci.Descriptor) (*os.File, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, errs.Mark(fmt.Errorf("digest %q: %w", desc.Digest, err), errs.Corrupt)
	}
	f, err := os.Open(l.path(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errs.NotFound)
	}
	return f, err
}

// Blob implements Source.
func (l *Layout) Blob(_ context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	f, err := l.open(desc)
	if err != nil {
		return nil, err
	}
	return verify(f, desc), nil
}

// Has implements Target.
func (l *Layout) Has(_ context.Context, d oci.Digest) (bool, error) {
	index, err := l.index()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(index.Manifests, func(m oci.Descriptor) bool { return m.Digest == d && nameOf(m) == l.tag }), nil
}

// PutBlob implements Target.
func (l *Layout) PutBlob(_ context.Context, desc oci.Descriptor, _ ref.Ref, open func() (io.ReadCloser, error)) (_ int64, err error) {
	if info, err := os.Stat(l.path(desc.Digest)); err == nil && info.Size() == desc.Size {
		return 0, nil
	}
	r, err := open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var n int64
	err = l.write(l.path(desc.Digest), func(w io.Writer) (err error) {
		n, err = io.Copy(w, verify(r, desc)) // nobody looks at it again
		return err
	})
	return n, err
}

// PutManifest implements Target.
func (l *Layout) PutManifest(_ context.Context, desc oci.Descriptor, raw []byte) error {
	return l.write(l.path(desc.Digest), bytesOf(raw))
}

// Name implements Target. Images under other names stay.
func (l *Layout) Name(ctx context.Context, desc oci.Descriptor, raw []byte) (err error) {
	if l.digest != "" && l.digest != desc.Digest {
		return fmt.Errorf("the image is %s, not %s: %w", desc.Digest, l.digest, errs.Invalid)
	}
	if err := l.PutManifest(ctx, desc, raw); err != nil {
		return err
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	index, err := l.index()
	if err != nil {
		return err
	}
	named := oci.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: int64(len(raw)), Platform: desc.Platform}
	if l.tag != "" {
		named.Annotations = map[string]string{oci.AnnotationRefName: l.tag}
	}
	index.Manifests = append(slices.DeleteFunc(index.Manifests, func(old oci.Descriptor) bool {
		return nameOf(old) == l.tag && (l.tag != "" || old.Digest == desc.Digest)
	}), named)
	data, err := oci.Marshal(index)
	if err != nil {
		return err
	}
	version, err := oci.Marshal(map[string]string{"imageLayoutVersion": oci.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := l.write(filepath.Join(l.dir, oci.ImageLayoutFile), bytesOf(version)); err != nil {
		return err
	}
	return l.write(filepath.Join(l.dir, oci.ImageIndexFile), bytesOf(data))
}

// lock keeps other writers of the index out. It locks the folder itself, which leaves nothing in it.
func (l *Layout) lock() (unlock func() error, err error) {
	f, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX) // for as long as it takes to write a small file
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", l.dir, err), f.Close())
		}
	}
}

func bytesOf(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// tempPrefix begins the name of a file that is being written.
const tempPrefix = ".slipway-"

// write replaces a file by one that is whole.
func (l *Layout) write(name string, fill func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp, err := tempfile.Create(filepath.Dir(name), tempPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: what is closed is taken for abandoned
	err = fill(tmp)
	if err == nil {
		err = errors.Join(tmp.Chmod(0o644), tmp.Sync())
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
