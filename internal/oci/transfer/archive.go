package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
)

// Archive is a plain tar that a tool has saved images in: an OCI image layout, what docker save makes, or no image at all
// but the files of one.
type Archive struct {
	name  string
	data  io.ReaderAt
	files map[string]span
	links map[string]string
}

// span is where a file's content is in the tar.
type span struct{ offset, size int64 }

// maxArchiveFiles is more files than an archive of images has; one of a root file system may have more, which are not
// looked at.
const maxArchiveFiles = 100_000

// OpenArchive reads the headers of a tar of the given size. Errors call it name.
func OpenArchive(name string, data io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{name: name, data: data, files: map[string]span{}, links: map[string]string{}}
	in := io.NewSectionReader(data, 0, size)
	t := tar.NewReader(in)
	for n := 0; n < maxArchiveFiles; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, errs.Mark(err, errs.Corrupt))
		}
		at, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		p := path.Join("/", h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			a.files[p] = span{at, h.Size}
		case tar.TypeSymlink:
			a.links[p] = path.Join("/", path.Dir(p), h.Linkname)[1:]
		case tar.TypeLink:
			a.links[p] = path.Join("/", h.Linkname)[1:]
		}
	}
	return a, nil
}

// maxLinks is how many links lead to a file at most: docker save used to replace a layer that is there twice by one.
const maxLinks = 10

// open reads a file of the archive, or returns errs.NotFound.
func (a *Archive) open(name string) (*io.SectionReader, error) {
	p := path.Join("/", name)[1:]
	for range maxLinks {
		if s, ok := a.files[p]; ok {
			return io.NewSectionReader(a.data, s.offset, s.size), nil
		}
		to, ok := a.links[p]
		if !ok {
			break
		}
		p = to
	}
	return nil, fmt.Errorf("%s: file %s: %w", a.name, name, errs.NotFound)
}

func (a *Archive) read(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	data, err := readAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: file %s: %w", a.name, name, err)
	}
	return data, nil
}

func (a *Archive) has(name string) bool {
	_, ok := a.files[name]
	return ok
}

// Importing says how images are taken from an archive.
type Importing struct {
	// Store makes the image under a name in the store that takes it.
	Store func(name ref.Ref) *Store
	// Name is the image's. Default: the name that it has in the archive; an archive of several images gives each its own.
	Name ref.Ref
	// Platform of an image that is made of files. Its history says Now.
	Platform oci.Platform
	// Start tells of a part of the work. Default: nobody hears of it.
	Start func(name string) Step
}

// Imported is an image that was taken from an archive.
type Imported struct {
	Name   string     `json:"name"`
	Digest oci.Digest `json:"digest"`
}

// Import takes the images of an archive into a store.
func (a *Archive) Import(ctx context.Context, opts Importing) (_ []Imported, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("import %s: %w", a.name, err)
		}
	}()
	if opts.Start == nil {
		opts.Start = func(string) Step { return silent{} }
	}
	switch {
	case a.has(oci.ImageIndexFile):
		return a.importLayout(ctx, opts)
	case a.has("manifest.json"):
		return a.importDocker(ctx, opts)
	}
	return a.importFiles(ctx, opts)
}

// entry is an image of an archive that is a layout.
type entry struct {
	*Archive
	desc oci.Descriptor
}

var _ Source = (*entry)(nil)

func (e *entry) Repository() ref.Ref { return ref.Ref{} }

func (e *entry) String() string { return e.name }

func (e *entry) Root(ctx context.Context) (oci.Descriptor, []byte, error) {
	raw, err := e.Manifest(ctx, e.desc)
	return typed(e.desc, raw), raw, err
}

func blobName(d oci.Digest) string {
	return path.Join(oci.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (e *entry) Manifest(_ context.Context, desc oci.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	raw, err := e.read(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	return checked(desc, raw)
}

func (e *entry) Blob(_ context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := e.open(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	return verify(io.NopCloser(r), desc), nil
}

func (a *Archive) importLayout(ctx context.Context, opts Importing) ([]Imported, error) {
	data, err := a.read(oci.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	var index oci.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, errs.Mark(fmt.Errorf("%s: %w", oci.ImageIndexFile, err), errs.Corrupt)
	}
	if opts.Name != (ref.Ref{}) {
		desc, err := choose(index.Manifests, "", "")
		if err != nil {
			return nil, err
		}
		one, err := a.importEntry(ctx, opts, desc, opts.Name)
		return []Imported{one}, err
	}
	var all []Imported
	for _, desc := range index.Manifests {
		if desc.ArtifactType != "" {
			continue
		}
		name, err := fullName(desc)
		if err != nil {
			return all, err
		}
		one, err := a.importEntry(ctx, opts, desc, name)
		if err != nil {
			return all, err
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no image: %w", errs.NotFound)
	}
	return all, nil
}

// fullName is what an entry of an index is called.
func fullName(desc oci.Descriptor) (ref.Ref, error) {
	for _, name := range []string{desc.Annotations[annotationImageName], desc.Annotations[oci.AnnotationRefName]} {
		if strings.ContainsAny(name, "/:") {
			return ref.Parse(name)
		}
	}
	return ref.Ref{}, errNameless(desc.Digest.String())
}

func errNameless(which string) error {
	return errs.Hint(fmt.Errorf("image %s has no name: %w", which, errs.Invalid), "give it one, after the file")
}

func (a *Archive) importEntry(ctx context.Context, opts Importing, desc oci.Descriptor, name ref.Ref) (Imported, error) {
	report, err := Copy(ctx, &entry{a, desc}, opts.Store(name), Options{Start: opts.Start})
	return Imported{Name: name.Familiar(), Digest: report.Digest}, err
}

// saved is an entry of docker save's manifest.json.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *Archive) importDocker(ctx context.Context, opts Importing) ([]Imported, error) {
	data, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var images []saved
	if err := json.Unmarshal(data, &images); err != nil {
		return nil, errs.Mark(fmt.Errorf("manifest.json: %w", err), errs.Corrupt)
	}
	if opts.Name != (ref.Ref{}) && len(images) > 1 {
		return nil, errs.Hint(fmt.Errorf("there are %d images, which cannot have one name: %w", len(images), errs.Invalid), "leave the name out: they have their own")
	}
	var all []Imported
	for _, im := range images {
		names := []ref.Ref{opts.Name}
		if opts.Name == (ref.Ref{}) {
			if names, err = im.names(); err != nil {
				return all, err
			}
		}
		for _, name := range names {
			d, err := a.importSaved(ctx, opts, im, opts.Store(name))
			if err != nil {
				return all, err
			}
			all = append(all, Imported{Name: name.Familiar(), Digest: d})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no image: %w", errs.NotFound)
	}
	return all, nil
}

func (s *saved) names() ([]ref.Ref, error) {
	if len(s.RepoTags) == 0 {
		return nil, errNameless(s.Config)
	}
	names := make([]ref.Ref, len(s.RepoTags))
	for i, tag := range s.RepoTags {
		var err error
		if names[i], err = ref.Parse(tag); err != nil {
			return nil, errs.Mark(err, errs.Corrupt)
		}
	}
	return names, nil
}

// importSaved makes a manifest for an image that has none. Its config is as it was; its layers are held against it.
func (a *Archive) importSaved(ctx context.Context, opts Importing, im saved, to *Store) (oci.Digest, error) {
	raw, err := a.read(im.Config)
	if err != nil {
		return "", err
	}
	var config oci.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return "", errs.Mark(fmt.Errorf("config %s: %w", im.Config, err), errs.Corrupt)
	}
	if len(config.RootFS.DiffIDs) != len(im.Layers) {
		return "", fmt.Errorf("config %s: %d diff_ids for %d layers: %w", im.Config, len(config.RootFS.DiffIDs), len(im.Layers), errs.Corrupt)
	}
	var layers []oci.Descriptor
	for i, name := range im.Layers {
		r, err := a.open(name)
		if err != nil {
			return "", err
		}
		desc, diffID, err := pack(ctx, opts.Start("import layer "+name), r, to)
		if err == nil && diffID != config.RootFS.DiffIDs[i] {
			err = fmt.Errorf("the content is %s, the config says %s: %w", diffID, config.RootFS.DiffIDs[i], errs.Corrupt)
		}
		if err != nil {
			return "", fmt.Errorf("layer %s: %w", name, err)
		}
		layers = append(layers, desc)
	}
	return finish(ctx, raw, layers, to)
}

// pack brings the layer that r is the tar of, compressed or not, into a store.
func pack(ctx context.Context, st Step, r io.Reader, to *Store) (_ oci.Descriptor, _ oci.Digest, err error) {
	defer func() { st.End("", err) }()
	plain, err := layer.Decompress(r)
	if err != nil {
		return oci.Descriptor{}, "", err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	w, err := to.Blobs.Create(ctx)
	if err != nil {
		return oci.Descriptor{}, "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	res, err := layer.Compress(ctx, w, plain, layer.Compression{})
	if err != nil {
		return oci.Descriptor{}, "", err
	}
	_, err = w.Commit(ctx, res.Descriptor.Digest)
	return res.Descriptor, res.DiffID, err
}

// finish puts an image together and names it.
func finish(ctx context.Context, config []byte, layers []oci.Descriptor, to *Store) (oci.Digest, error) {
	desc := oci.Describe(oci.MediaTypeConfig, config)
	if err := to.PutManifest(ctx, desc, config); err != nil {
		return "", err
	}
	raw, err := oci.Marshal(oci.NewManifest(desc, layers, nil))
	if err != nil {
		return "", err
	}
	manifest := oci.Describe(oci.MediaTypeManifest, raw)
	return manifest.Digest, to.Name(ctx, manifest, raw)
}

// importFiles makes an image of one layer out of a tar of files.
func (a *Archive) importFiles(ctx context.Context, opts Importing) ([]Imported, error) {
	if len(a.files)+len(a.links) == 0 {
		return nil, fmt.Errorf("it has no files: %w", errs.Invalid)
	}
	if opts.Name == (ref.Ref{}) {
		return nil, errNameless("of files")
	}
	to := opts.Store(opts.Name)
	plain := io.NewSectionReader(a.data, 0, 1<<62)
	desc, diffID, err := pack(ctx, opts.Start("import files"), plain, to)
	if err != nil {
		return nil, err
	}
	now := to.Now().UTC()
	image := oci.Image{}
	image.Platform = opts.Platform
	image.Created = &now
	image.RootFS.Type, image.RootFS.DiffIDs = "layers", []oci.Digest{diffID}
	image.History = []oci.History{{Created: &now, CreatedBy: "slipway image import", Comment: "imported from files"}}
	config, err := oci.Marshal(image)
	if err != nil {
		return nil, err
	}
	d, err := finish(ctx, config, []oci.Descriptor{desc}, to)
	return []Imported{{Name: opts.Name.Familiar(), Digest: d}}, err
}

func memory(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }
