package output

import (
	"archive/tar"
	"bytes"
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

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// annotationImageName is where containerd and BuildKit keep an image's full name; the specification's own annotation
// has the tag alone.
const annotationImageName = "io.containerd.image.name"

// part is a file of a layout.
type part struct {
	name string
	size int64
	open func(ctx context.Context) (io.ReadCloser, error)
}

func memory(name string, data []byte) part {
	return part{name: name, size: int64(len(data)), open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

func blobName(d oci.Digest) string {
	return oci.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// blobs are an image's blobs, each once, and those of the images that an index lists.
func blobs(im *build.Image, open Open) []part {
	seen := map[oci.Digest]bool{}
	parts := collect(im, open, seen)
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.name, b.name) })
	return parts
}

func collect(im *build.Image, open Open, seen map[oci.Digest]bool) []part {
	var parts []part
	add := func(d oci.Digest, p part) {
		if !seen[d] {
			seen[d] = true
			parts = append(parts, p)
		}
	}
	add(im.Manifest.Digest, memory(blobName(im.Manifest.Digest), im.Raw))
	if im.RawConfig != nil {
		add(im.Config.Digest, memory(blobName(im.Config.Digest), im.RawConfig))
	}
	for _, l := range im.Layers {
		add(l.Digest, part{name: blobName(l.Digest), size: l.Size, open: func(ctx context.Context) (io.ReadCloser, error) {
			return open(ctx, l)
		}})
	}
	for i := range im.Attached {
		a := &im.Attached[i]
		add(a.Manifest.Digest, memory(blobName(a.Manifest.Digest), a.Raw))
		add(a.Config.Digest, memory(blobName(a.Config.Digest), a.RawConfig))
		for _, s := range a.Statements {
			add(s.Layer.Digest, memory(blobName(s.Layer.Digest), s.Data))
		}
	}
	for _, p := range im.Platforms {
		parts = append(parts, collect(p, open, seen)...)
	}
	return parts
}

// descriptors are the entries of an index for an image: one for each name, or one without any, and one for each artifact
// that is attached to it.
func (o Output) descriptors(im *build.Image) ([]oci.Descriptor, error) {
	named, err := o.named(im)
	return append(named, attached(im)...), err
}

func attached(im *build.Image) []oci.Descriptor {
	var list []oci.Descriptor
	for i := range im.Attached {
		if !im.Attached[i].Listed { // the image's own index has it
			list = append(list, im.Attached[i].Manifest)
		}
	}
	for _, p := range im.Platforms {
		list = append(list, attached(p)...)
	}
	return list
}

func (o Output) named(im *build.Image) ([]oci.Descriptor, error) {
	if len(o.Names) == 0 {
		return []oci.Descriptor{im.Manifest}, nil
	}
	list := make([]oci.Descriptor, len(o.Names))
	for i, name := range o.Names {
		r, err := ref.Parse(name)
		if err != nil {
			return nil, err
		}
		list[i] = im.Manifest
		list[i].Annotations = map[string]string{annotationImageName: r.String(), oci.AnnotationRefName: r.Tag()}
		for k, v := range im.Manifest.Annotations {
			list[i].Annotations[k] = v
		}
	}
	return list, nil
}

func layoutVersion() ([]byte, error) {
	return oci.Marshal(map[string]string{"imageLayoutVersion": oci.ImageLayoutVersion})
}

// writeArchive writes a layout as a tar, what describes it before the blobs.
func (o Output) writeArchive(ctx context.Context, w io.Writer, im *build.Image, open Open) error {
	parts, err := o.heads(im)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, p := range append(parts, blobs(im, open)...) {
		if err := writePart(ctx, t, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return t.Close()
}

// heads are the files of an archive that say what is in it.
func (o Output) heads(im *build.Image) ([]part, error) {
	entries, err := o.descriptors(im)
	if err != nil {
		return nil, err
	}
	index, err := oci.Marshal(oci.NewIndex(entries, nil))
	if err != nil {
		return nil, err
	}
	version, err := layoutVersion()
	if err != nil {
		return nil, err
	}
	parts := []part{memory(oci.ImageLayoutFile, version), memory(oci.ImageIndexFile, index)}
	if o.Type != Docker {
		return parts, nil
	}
	load, err := o.dockerManifest(im)
	return append(parts, memory("manifest.json", load)), err
}

// dockerManifest is the manifest.json of `docker save`.
func (o Output) dockerManifest(im *build.Image) ([]byte, error) {
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobName(im.Config.Digest), Layers: []string{}}
	for _, name := range o.Names {
		r, err := ref.Parse(name)
		if err != nil {
			return nil, err
		}
		entry.RepoTags = append(entry.RepoTags, r.Familiar())
	}
	for _, l := range im.Layers {
		entry.Layers = append(entry.Layers, blobName(l.Digest))
	}
	return oci.Marshal([]any{entry})
}

func writePart(ctx context.Context, t *tar.Writer, p part) (err error) {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.name, Size: p.size, Mode: 0o644}); err != nil {
		return err
	}
	return p.copyTo(ctx, t)
}

func (p part) copyTo(ctx context.Context, w io.Writer) (err error) {
	r, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.Copy(w, r)
	return err
}

// writeLayout adds an image to a layout in a folder, which is made if there is none.
func (o Output) writeLayout(ctx context.Context, im *build.Image, open Open) error {
	if err := os.MkdirAll(filepath.Join(o.Dest, oci.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	for _, p := range blobs(im, open) {
		to := filepath.Join(o.Dest, filepath.FromSlash(p.name))
		if info, err := os.Stat(to); err == nil && info.Size() == p.size {
			continue
		}
		if err := replaceFile(to, func(w io.Writer) error { return p.copyTo(ctx, w) }); err != nil {
			return err
		}
	}
	version, err := layoutVersion()
	if err != nil {
		return err
	}
	if err := ReplaceFile(filepath.Join(o.Dest, oci.ImageLayoutFile), version); err != nil {
		return err
	}
	return o.updateIndex(im)
}

// updateIndex adds an image to a layout's index. An entry of the same name, or the same image without one, is replaced.
func (o Output) updateIndex(im *build.Image) error {
	file := filepath.Join(o.Dest, oci.ImageIndexFile)
	index := oci.NewIndex(nil, nil)
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", oci.ImageIndexFile, err)
	}
	added, err := o.descriptors(im)
	if err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(old oci.Descriptor) bool {
		return slices.ContainsFunc(added, func(d oci.Descriptor) bool { return replaces(d, old) })
	})
	index.Manifests = append(index.Manifests, added...)
	if data, err = oci.Marshal(index); err != nil {
		return err
	}
	return ReplaceFile(file, data)
}

// replaces says whether an entry of an index takes an older one's place: it has the same name, or the older one is the
// same image without a name.
func replaces(d, old oci.Descriptor) bool {
	tag := old.Annotations[oci.AnnotationRefName]
	if name := old.Annotations[annotationImageName]; name != "" {
		return name == d.Annotations[annotationImageName]
	}
	if tag != "" { // written by a tool that knows no full names
		return tag == d.Annotations[oci.AnnotationRefName]
	}
	return old.Digest == d.Digest
}
