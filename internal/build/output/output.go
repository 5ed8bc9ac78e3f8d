// Package output writes finished images where registries are not: as an OCI image layout, in a folder or in a tar.
//
// A folder is filled so that it is a valid layout at every moment: blobs first, each under a temporary name until it
// is whole, the index last. A tar goes to a temporary name and is renamed when it is complete.
package output

import (
	"archive/tar"
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
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Open reads a layer's blob.
type Open func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error)

// Output is where an image goes besides registries.
type Output struct {
	Type string // "oci": a tar of a layout; "layout": a folder
	Dest string // a path; "-" is Stdout
	// Stdout takes an output whose Dest is "-".
	Stdout io.Writer
	// Names are the image's references, kept in the index.
	Names []string
}

// Types are the values that Type takes.
func Types() []string { return []string{"oci", "layout"} }

// HoldsIndex says whether a type of output can hold images for several platforms.
func HoldsIndex(kind string) bool { return kind == "oci" || kind == "layout" }

// Parse reads the value of --output: type=TYPE,dest=PATH.
func Parse(s string) (Output, error) {
	var o Output
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return o, fmt.Errorf("output %q: %q is not key=value: %w", s, field, errs.Invalid)
		}
		switch strings.ToLower(k) {
		case "type":
			o.Type = v
		case "dest":
			o.Dest = v
		default:
			return o, errs.Hint(fmt.Errorf("output %q: unknown key %q: %w", s, k, errs.Invalid), "the keys are type and dest")
		}
	}
	if !slices.Contains(Types(), o.Type) {
		return o, errs.Hint(fmt.Errorf("output %q: type %q is not supported: %w", s, o.Type, errs.Invalid), "the types are "+strings.Join(Types(), ", "))
	}
	if o.Dest == "" {
		return o, fmt.Errorf("output %q: dest is missing: %w", s, errs.Invalid)
	}
	if o.Dest == "-" && o.Type == "layout" {
		return o, errs.Hint(fmt.Errorf("output %q: a folder cannot go to standard output: %w", s, errs.Invalid), "use type=oci")
	}
	return o, nil
}

// Write writes an image.
func (o Output) Write(ctx context.Context, im *build.Image, open Open) error {
	var err error
	switch {
	case o.Type == "layout":
		err = o.writeLayout(ctx, im, open)
	case o.Dest == "-":
		err = o.writeTar(ctx, o.Stdout, im, open)
	default:
		err = replaceFile(o.Dest, func(w io.Writer) error { return o.writeTar(ctx, w, im, open) })
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", o.Dest, err)
	}
	return nil
}

// part is a file of a layout.
type part struct {
	name string
	size int64
	open func(ctx context.Context) (io.ReadCloser, error)
}

func memory(name string, data []byte) part {
	return part{name: name, size: int64(len(data)), open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(data))), nil
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
	for _, p := range im.Platforms {
		parts = append(parts, collect(p, open, seen)...)
	}
	return parts
}

// descriptors are the entries of an index for an image: one for each name, or one without any.
func (o Output) descriptors(im *build.Image) []oci.Descriptor {
	if len(o.Names) == 0 {
		return []oci.Descriptor{im.Manifest}
	}
	list := make([]oci.Descriptor, len(o.Names))
	for i, name := range o.Names {
		list[i] = im.Manifest
		list[i].Annotations = map[string]string{oci.AnnotationRefName: name}
	}
	return list
}

func (o Output) writeTar(ctx context.Context, w io.Writer, im *build.Image, open Open) error {
	index, err := oci.Marshal(oci.NewIndex(o.descriptors(im), nil))
	if err != nil {
		return err
	}
	version, err := oci.Marshal(map[string]string{"imageLayoutVersion": oci.ImageLayoutVersion})
	if err != nil {
		return err
	}
	parts := append([]part{memory(oci.ImageLayoutFile, version), memory(oci.ImageIndexFile, index)}, blobs(im, open)...)
	t := tar.NewWriter(w)
	for _, p := range parts {
		if err := writePart(ctx, t, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return t.Close()
}

func writePart(ctx context.Context, t *tar.Writer, p part) (err error) {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.name, Size: p.size, Mode: 0o644}); err != nil {
		return err
	}
	r, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.Copy(t, r)
	return err
}

func (o Output) writeLayout(ctx context.Context, im *build.Image, open Open) error {
	if err := os.MkdirAll(filepath.Join(o.Dest, oci.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	for _, p := range blobs(im, open) {
		to := filepath.Join(o.Dest, filepath.FromSlash(p.name))
		if info, err := os.Stat(to); err == nil && info.Size() == p.size {
			continue
		}
		if err := replaceFile(to, func(w io.Writer) (err error) {
			r, err := p.open(ctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			_, err = io.Copy(w, r)
			return err
		}); err != nil {
			return err
		}
	}
	version, err := oci.Marshal(map[string]string{"imageLayoutVersion": oci.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := replaceWith(filepath.Join(o.Dest, oci.ImageLayoutFile), version); err != nil {
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
	added := o.descriptors(im)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d oci.Descriptor) bool {
		name := d.Annotations[oci.AnnotationRefName]
		if name == "" {
			return d.Digest == im.Manifest.Digest
		}
		return slices.Contains(o.Names, name)
	})
	index.Manifests = append(index.Manifests, added...)
	if data, err = oci.Marshal(index); err != nil {
		return err
	}
	return replaceWith(file, data)
}

func replaceWith(file string, data []byte) error {
	return replaceFile(file, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// replaceFile writes a file under a temporary name beside it, syncs it, and renames it. What is there and is no file, a
// pipe or /dev/null, is written to and stays.
func replaceFile(file string, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return writeInto(file, write)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := write(tmp); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func writeInto(file string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}
