package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/transfer"
)

// Prefixes of places that are no registries.
const (
	inLayout = "oci-layout:"
	inStore  = "local:"
)

// imagesDir is where the names of images in the local store are, below the home folder.
const imagesDir = "images"

// imagePlace is where an image can be read and written.
type imagePlace interface {
	transfer.Source
	transfer.Target
}

// imagePlace opens what a user calls an image: REF in a registry, oci-layout:DIR[:TAG][@DIGEST], or local:NAME.
func (w *work) imagePlace(word string) (imagePlace, error) {
	if s, ok := strings.CutPrefix(word, inLayout); ok {
		return transfer.ParseLayout(s)
	}
	if s, ok := strings.CutPrefix(word, inStore); ok {
		r, err := parseName(s)
		if err != nil {
			return nil, err
		}
		return w.stored(r), nil
	}
	for prefix, hint := range map[string]string{
		"oci:": "write " + inLayout + "DIR:TAG", "dir:": "write " + inLayout + "DIR:TAG", "docker://": "leave docker:// out",
		"oci-archive:": "take it into the local store with 'slipway image import'", "docker-archive:": "take it into the local store with 'slipway image import'",
		"docker-daemon:": "save it with docker save, and take it into the local store with 'slipway image import'",
	} {
		if strings.HasPrefix(word, prefix) {
			return nil, errs.Hint(fmt.Errorf("%s: images are in registries, in %sDIR or in %sNAME: %w", word, inLayout, inStore, errs.Invalid), hint)
		}
	}
	r, err := ref.Parse(word)
	if err != nil {
		return nil, err
	}
	return transfer.NewRegistry(w.registry, r), nil
}

// parseName reads the name of an image in the local store.
func parseName(s string) (ref.Ref, error) {
	r, err := ref.Parse(s)
	if err == nil && r.Digest() != "" {
		err = fmt.Errorf("image %s: names in the local store have no digest: %w", s, errs.Invalid)
	}
	return r, err
}

// stored is the image with a name in the local store, as far as this work goes.
func (w *work) stored(r ref.Ref) *transfer.Store {
	return &transfer.Store{Blobs: w.blobs, Names: w.names, Ref: r, Now: w.opts.Now}
}

// Copied is an image that was copied.
type Copied struct {
	From string `json:"from"`
	To   string `json:"to"`
	transfer.Report
}

// CopyImage copies an image, for all its platforms and with its digest, from one place to another.
func (a *App) CopyImage(ctx context.Context, from, to string, events build.Sink) (_ Copied, err error) {
	w, err := a.begin(ctx, events)
	if err != nil {
		return Copied{}, err
	}
	defer func() { err = a.hintFull(errors.Join(err, w.end(err != nil))) }()
	src, err := w.imagePlace(from)
	if err != nil {
		return Copied{}, err
	}
	dst, err := w.imagePlace(to)
	if err != nil {
		return Copied{}, err
	}
	if r, err := ref.Parse(to); err == nil && r.Digest() != "" && !strings.HasPrefix(to, inLayout) {
		return Copied{}, fmt.Errorf("%s: a digest cannot be chosen: %w", to, errs.Invalid)
	}
	steps := a.steps(events)
	report, err := transfer.Copy(registry.WithNotice(ctx, steps.Note), src, dst, transfer.Options{Start: steps.part})
	return Copied{From: src.String(), To: dst.String(), Report: report}, err
}

// part begins a part of a transfer.
func (s *steps) part(name string) transfer.Step { return s.Start(name) }

// InspectedImage is what an image is.
type InspectedImage struct {
	Name        string            `json:"name"`
	Digest      oci.Digest        `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Images are those for the platforms: one, unless it is an index.
	Images []InspectedPlatform `json:"images"`
	// Raw is the manifest or index itself.
	Raw []byte `json:"-"`
}

// InspectedPlatform is an image for one platform.
type InspectedPlatform struct {
	Platform  string     `json:"platform,omitempty"` // os/arch[/variant]
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"mediaType"`
	// ArtifactType is set when it is no image.
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int64             `json:"size"` // of the layers, as they are stored
	Layers       []oci.Descriptor  `json:"layers"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	// Config is the image's; nil when it is no image.
	Config *oci.Image `json:"config,omitempty"`
}

// InspectImage says what an image is. A platform, os/arch[/variant], chooses one of an index; "" is all of them.
func (a *App) InspectImage(ctx context.Context, name, platform string) (_ *InspectedImage, err error) {
	w, err := a.enter(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.end(false)) }()
	src, err := w.imagePlace(name)
	if err != nil {
		return nil, err
	}
	var only *oci.Platform
	if platform != "" {
		p, err := oci.ParsePlatform(platform)
		if err != nil {
			return nil, err
		}
		only = &p
	}
	im, err := inspect(ctx, src, only)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", src, err)
	}
	return im, nil
}

// inspectsAtOnce is how many manifests and configs are read side by side.
const inspectsAtOnce = 4

func inspect(ctx context.Context, src transfer.Source, only *oci.Platform) (*InspectedImage, error) {
	desc, raw, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	im := &InspectedImage{Name: src.String(), Digest: desc.Digest, MediaType: desc.MediaType, Raw: raw}
	manifests := []oci.Descriptor{desc}
	if oci.IsIndex(desc.MediaType) {
		var index oci.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, errs.Mark(err, errs.Corrupt)
		}
		manifests, im.Annotations = index.Manifests, index.Annotations
		if only != nil {
			one, err := oci.Choose(raw, *only)
			if err != nil {
				return nil, err
			}
			manifests = []oci.Descriptor{one}
		}
	}
	im.Images = make([]InspectedPlatform, len(manifests))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inspectsAtOnce)
	for i, m := range manifests {
		g.Go(func() (err error) {
			data := raw
			if m.Digest != desc.Digest {
				if data, err = src.Manifest(ctx, m); err != nil {
					return err
				}
			}
			im.Images[i], err = inspectOne(ctx, src, m, data)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if only != nil && len(im.Images) == 1 && im.Images[0].Config != nil && !oci.SamePlatform(im.Images[0].Config.Platform, *only) {
		return nil, fmt.Errorf("it is for %s, not for %s: %w", im.Images[0].Platform, oci.FormatPlatform(*only), errs.NotFound)
	}
	return im, nil
}

func inspectOne(ctx context.Context, src transfer.Source, desc oci.Descriptor, raw []byte) (p InspectedPlatform, err error) {
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return p, fmt.Errorf("manifest %s: %w", desc.Digest, errs.Mark(err, errs.Corrupt))
	}
	p = InspectedPlatform{
		Digest: desc.Digest, MediaType: desc.MediaType, ArtifactType: m.ArtifactType, Layers: m.Layers, Annotations: m.Annotations,
	}
	if desc.Platform != nil {
		p.Platform = oci.FormatPlatform(*desc.Platform)
	}
	for _, l := range m.Layers {
		p.Size += l.Size
	}
	if m.Config.MediaType != oci.MediaTypeConfig && m.Config.MediaType != oci.DockerConfig {
		p.ArtifactType = cmp.Or(p.ArtifactType, m.Config.MediaType)
		return p, nil
	}
	r, err := src.Blob(ctx, m.Config)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, oci.MaxManifestBytes))
	if err != nil {
		return p, err
	}
	p.Config = &oci.Image{}
	if err := json.Unmarshal(data, p.Config); err != nil {
		return p, fmt.Errorf("config %s: %w", m.Config.Digest, errs.Mark(err, errs.Corrupt))
	}
	if p.Platform == "" && p.Config.OS != "" {
		p.Platform = oci.FormatPlatform(p.Config.Platform)
	}
	return p, nil
}

// StoredImage is an image that has a name in the local store.
type StoredImage struct {
	Name    string     `json:"name"`
	Digest  oci.Digest `json:"digest"`
	Created time.Time  `json:"created"` // when it got the name
	Used    time.Time  `json:"lastUsed"`
	Size    int64      `json:"size"` // of its blobs
}

// Images lists the images that have a name in the local store.
func (a *App) Images(ctx context.Context) ([]StoredImage, error) {
	named, err := a.names.List(ctx)
	if err != nil {
		return nil, err
	}
	list := []StoredImage{}
	for _, n := range named {
		r, err := ref.Parse(n.Name)
		if err != nil {
			return nil, err
		}
		im := StoredImage{Name: r.Familiar(), Digest: n.Descriptor.Digest, Created: n.Created, Used: n.Used}
		all, err := transfer.Reach(ctx, a.blobs, n.Descriptor)
		if err != nil {
			return nil, err
		}
		slices.Sort(all)
		for _, d := range slices.Compact(all) {
			size, err := a.blobs.Stat(ctx, d)
			if err != nil && !errors.Is(err, errs.NotFound) {
				return nil, err
			}
			im.Size += size
		}
		list = append(list, im)
	}
	return list, nil
}

// RemoveImages takes names from images in the local store. What nothing names any more goes when room is wanted.
func (a *App) RemoveImages(names []string) error {
	refs := make([]ref.Ref, len(names))
	for i, name := range names {
		var err error
		if refs[i], err = parseName(strings.TrimPrefix(name, inStore)); err != nil {
			return err
		}
	}
	var all []error
	for _, r := range refs {
		all = append(all, a.names.Remove(r))
	}
	return joinErrors(all)
}

// ImportImages says what is imported.
type ImportImages struct {
	// File is an archive; "-" is Stdin.
	File  string
	Stdin io.Reader
	// Name in the local store. Default: the archive's own.
	Name string
	// Platform of an image that is made of files. Default: this machine's.
	Platform string
	Events   build.Sink
}

// ImportImages takes the images of an archive, or one of the files in it, into the local store.
func (a *App) ImportImages(ctx context.Context, r ImportImages) (_ []transfer.Imported, err error) {
	w, err := a.begin(ctx, r.Events)
	if err != nil {
		return nil, err
	}
	defer func() { err = a.hintFull(errors.Join(err, w.end(err != nil))) }()
	opts := transfer.Importing{Store: w.stored, Platform: machine(), Start: a.steps(r.Events).part}
	if r.Name != "" {
		if opts.Name, err = parseName(strings.TrimPrefix(r.Name, inStore)); err != nil {
			return nil, err
		}
	}
	if r.Platform != "" {
		if opts.Platform, err = oci.ParsePlatform(r.Platform); err != nil {
			return nil, err
		}
	}
	file, err := a.plainArchive(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	archive, err := transfer.OpenArchive(r.File, file, info.Size())
	if err != nil {
		return nil, err
	}
	return archive.Import(ctx, opts)
}

// plainArchive opens an archive as a file that can be read anywhere. One that cannot, or is compressed, is copied to one
// without a name first.
func (a *App) plainArchive(ctx context.Context, r ImportImages) (_ *os.File, err error) {
	in := r.Stdin
	if r.File != "-" {
		f, err := os.Open(r.File)
		if err != nil {
			return nil, errs.Mark(err, errs.Invalid)
		}
		plain, err := isPlain(f)
		if err == nil && plain {
			return f, nil
		}
		defer f.Close() // only read
		if err != nil {
			return nil, err
		}
		in = f
	}
	plain, err := layer.Decompress(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.File, err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	tmp, err := os.CreateTemp(a.opts.Home, ".import-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close())
		}
	}()
	if err := os.Remove(tmp.Name()); err != nil { // it goes with the process
		return nil, err
	}
	_, err = io.Copy(tmp, &interrupted{ctx, plain})
	return tmp, err
}

// isPlain says whether f is a regular file that begins as a tar does.
func isPlain(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	const magicAt, magic = 257, "ustar"
	var head [len(magic)]byte
	_, err = f.ReadAt(head[:], magicAt)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return string(head[:]) == magic, err
}

// interrupted is a reader that ends when ctx does.
type interrupted struct {
	ctx context.Context //nolint:containedctx // of the read under way
	io.Reader
}

func (i *interrupted) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.Reader.Read(p)
}

// local says whether a build's image stays here, under its tags: nothing else was asked for.
func (r *Build) local() bool { return len(r.Tags) > 0 && !r.Push && len(r.Outputs) == 0 }

// name gives a build's image its tags as names in the local store.
func (w *work) name(r Build, im *build.Image) error {
	if !r.local() {
		return nil
	}
	tags, err := parseTags(r)
	if err != nil {
		return err
	}
	for _, t := range tags {
		if err := w.names.Set(t, im.Manifest, w.opts.Now()); err != nil {
			return err
		}
	}
	return nil
}

// localImage is the reference by digest of an image that is named local:NAME; any other stays as it is.
func (w *work) localImage(name string) (string, error) {
	s, ok := strings.CutPrefix(name, inStore)
	if !ok {
		return name, nil
	}
	r, err := parseName(s)
	if err != nil {
		return "", err
	}
	named, err := w.names.Get(r, w.opts.Now())
	if err != nil {
		return "", err
	}
	return r.WithDigest(named.Descriptor.Digest).String(), nil
}
