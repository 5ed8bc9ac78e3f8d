// Package convert makes accelerated images of images in registries.
//
//	c := convert.New(convert.Options{Registry: client, Blobs: blobs, Cache: cache})
//	image, err := c.Image(ctx, convert.Request{From: original, To: tag, Format: format})
//
// Layers are converted while they come in and sent while they are written; those whose conversion is remembered are not
// fetched at all. The image that results names the original as its subject, so that it is found among the original's
// referrers, and keeps its config but for the diffIDs. Of an index, every image is converted.
package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Options are what a Converter works with. All are needed.
type Options struct {
	Registry *registry.Client
	// Blobs keeps what layers are converted into.
	Blobs blob.Store
	// Cache remembers it.
	Cache *accel.Cache
}

// Converter converts images. Its methods may be called at once.
type Converter struct {
	Options
}

// New returns a Converter.
func New(opts Options) *Converter { return &Converter{opts} }

// Request says what to convert.
type Request struct {
	// From is the original.
	From ref.Ref
	// To is the tag of the result. It may be in another repository, or in another registry.
	To ref.Ref
	// Format is what layers are converted to.
	Format accel.Format
	// Steps hears what goes on. Default: nobody does.
	Steps Steps
}

// Steps hears of what takes time.
type Steps interface {
	// Start tells that something begins.
	Start(name string) Step
	// Note tells something that a user should know.
	Note(text string)
}

// Step is something that takes time.
type Step interface {
	// Progress tells how many of total bytes are done.
	Progress(n, total int64)
	// End tells what came of it.
	End(text string, err error)
}

// Image is an accelerated image.
type Image struct {
	// Original and Manifest describe the image that was converted and the one that it became, or their indexes.
	Original, Manifest oci.Descriptor
	// Platforms are the images, one unless there is an index.
	Platforms []Platform
}

// Platform is an accelerated image for one platform.
type Platform struct {
	// Platform is what an index says; nil without one.
	Platform *oci.Platform
	// Original and Manifest describe the manifests.
	Original, Manifest oci.Descriptor
	// Layers are the layers, the lowest first.
	Layers []Layer
}

// How a layer got into the image.
const (
	Converted  = "converted"
	Remembered = "remembered" // converted before
	Already    = "already"    // it was in the format
	Kept       = "kept"       // it does not fit the format
)

// Layer is a layer of an accelerated image.
type Layer struct {
	// From describes the original's layer.
	From oci.Descriptor
	accel.Layer
	// How is one of Converted, Remembered, Already and Kept.
	How string
}

// atOnce is how many layers are converted at a time, each on several processors.
const atOnce = 2

// Image converts an image. The error is of kind errs.Invalid when the reference names something else.
func (c *Converter) Image(ctx context.Context, r Request) (*Image, error) {
	if r.Steps == nil {
		r.Steps = silent{}
	}
	im, err := c.image(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("accelerate %s: %w", r.From.Familiar(), err)
	}
	return im, nil
}

func (c *Converter) image(ctx context.Context, r Request) (*Image, error) {
	if r.From.Name() == r.To.Name() && r.From.Tag() == r.To.Tag() {
		err := fmt.Errorf("the tag %s is the original's: %w", r.To.Tag(), errs.Invalid)
		return nil, errs.Hint(err, "the original stays where it is; choose another tag")
	}
	desc, raw, err := c.Registry.Resolve(ctx, r.From)
	if err != nil {
		return nil, err
	}
	im := &Image{Original: desc}
	if !oci.IsIndex(desc.MediaType) {
		p, raw, err := c.platform(ctx, r, desc, raw)
		if err != nil {
			return nil, err
		}
		im.Platforms = []Platform{p}
		im.Manifest, err = c.Registry.PushManifest(ctx, r.To, oci.MediaTypeManifest, raw)
		return im, err
	}
	index, err := c.index(ctx, r, im, raw)
	if err != nil {
		return nil, err
	}
	im.Manifest, err = c.Registry.PushManifest(ctx, r.To, oci.MediaTypeIndex, index)
	return im, err
}

// index converts the images of an index, one after the other.
func (c *Converter) index(ctx context.Context, r Request, im *Image, raw []byte) ([]byte, error) {
	var index oci.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("read index: %w", errs.Mark(err, errs.Corrupt))
	}
	out := oci.NewIndex(nil, index.Annotations)
	out.Subject = bare(im.Original)
	for _, d := range index.Manifests {
		if !oci.IsManifest(d.MediaType) || d.Platform != nil && d.Platform.OS == "unknown" {
			r.Steps.Note("Left out " + d.Digest.String() + ": what is stated of the original is found beside the original")
			continue
		}
		_, raw, err := c.Registry.Resolve(ctx, r.From.WithDigest(d.Digest))
		if err != nil {
			return nil, err
		}
		p, raw, err := c.platform(ctx, r, d, raw)
		if err != nil {
			return nil, err
		}
		if _, err := c.Registry.PushManifest(ctx, r.To.WithTag(""), oci.MediaTypeManifest, raw); err != nil {
			return nil, err
		}
		p.Platform = d.Platform
		listed := p.Manifest
		listed.Platform, listed.Annotations = d.Platform, d.Annotations
		out.Manifests = append(out.Manifests, listed)
		im.Platforms = append(im.Platforms, p)
	}
	if len(im.Platforms) == 0 {
		return nil, fmt.Errorf("the index lists no image: %w", errs.Invalid)
	}
	return oci.Marshal(out)
}

// bare is what a subject says of an original.
func bare(d oci.Descriptor) *oci.Descriptor {
	return &oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// platform converts one image up to its manifest, which is returned.
func (c *Converter) platform(ctx context.Context, r Request, desc oci.Descriptor, raw []byte) (Platform, []byte, error) {
	p := Platform{Original: desc}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return p, nil, fmt.Errorf("read manifest: %w", errs.Mark(err, errs.Corrupt))
	}
	if m.Config.MediaType != oci.MediaTypeConfig && m.Config.MediaType != oci.DockerConfig {
		return p, nil, errs.Mark(fmt.Errorf("%s is no image: its config is %s", desc.Digest, m.Config.MediaType), errs.Invalid)
	}
	config, diffIDs, err := c.config(ctx, r.From, m)
	if err != nil {
		return p, nil, err
	}
	if p.Layers, err = c.layers(ctx, r, m.Layers, diffIDs); err != nil {
		return p, nil, err
	}
	out := oci.NewManifest(oci.Descriptor{}, nil, m.Annotations)
	for i, l := range p.Layers {
		out.Layers, diffIDs[i] = append(out.Layers, l.Descriptor), l.DiffID
	}
	newConfig, err := config.with(diffIDs)
	if err != nil {
		return p, nil, err
	}
	out.Config = oci.Describe(oci.MediaTypeConfig, newConfig)
	out.Subject = bare(desc)
	r.Format.Finish(&out)
	if err := c.pushBytes(ctx, r.To, out.Config, newConfig); err != nil {
		return p, nil, err
	}
	data, err := oci.Marshal(out)
	p.Manifest = oci.Describe(oci.MediaTypeManifest, data)
	p.Manifest.ArtifactType = out.ArtifactType
	return p, data, err
}

func (c *Converter) pushBytes(ctx context.Context, to ref.Ref, d oci.Descriptor, data []byte) error {
	_, err := c.Registry.PushBlob(ctx, to, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return d, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	})
	return err
}

// maxConfig bounds what is read as an image's config.
const maxConfig = 8 << 20

// config is an image's config as it was written: it may have fields that this program does not know.
type config map[string]json.RawMessage

// config reads the config of an image, and the diffIDs in it.
func (c *Converter) config(ctx context.Context, from ref.Ref, m oci.Manifest) (_ config, _ []oci.Digest, err error) {
	if m.Config.Size > maxConfig {
		return nil, nil, errs.Mark(fmt.Errorf("config has %d bytes", m.Config.Size), errs.Limit)
	}
	r, err := c.Registry.Blob(ctx, from, m.Config)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, err
	}
	var known struct {
		RootFS struct {
			DiffIDs []oci.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	var all config
	if err := errors.Join(json.Unmarshal(data, &known), json.Unmarshal(data, &all)); err != nil {
		return nil, nil, fmt.Errorf("read config: %w", errs.Mark(err, errs.Corrupt))
	}
	if len(known.RootFS.DiffIDs) != len(m.Layers) {
		return nil, nil, errs.Mark(fmt.Errorf("config has %d diffIDs, manifest has %d layers", len(known.RootFS.DiffIDs), len(m.Layers)), errs.Corrupt)
	}
	return all, known.RootFS.DiffIDs, nil
}

// with returns the config with other diffIDs.
func (c config) with(diffIDs []oci.Digest) ([]byte, error) {
	rootfs, err := oci.Marshal(struct {
		Type    string       `json:"type"`
		DiffIDs []oci.Digest `json:"diff_ids"`
	}{"layers", diffIDs})
	if err != nil {
		return nil, err
	}
	c["rootfs"] = rootfs
	return oci.Marshal(c)
}

// layers converts the layers of an image.
func (c *Converter) layers(ctx context.Context, r Request, descs []oci.Descriptor, diffIDs []oci.Digest) ([]Layer, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	if r.Format.Stacked() {
		group.SetLimit(1) // each needs those below
	}
	again, _ := r.Format.(accel.Rereader)
	sources := make([]*source, len(descs))
	for i, d := range descs {
		sources[i] = &source{
			c: c, from: r.From, desc: d, diffID: diffIDs[i], local: again != nil && again.Rereads(),
		}
	}
	done := make([]Layer, len(descs))
	for i := range descs {
		group.Go(func() (err error) {
			j := &job{Converter: c, r: r, sources: sources[:i+1], below: done[:i], desc: descs[i], diffID: diffIDs[i]}
			if done[i], err = j.run(ctx); err != nil {
				return fmt.Errorf("layer %s: %w", descs[i].Digest, err)
			}
			return nil
		})
	}
	return done, group.Wait()
}

// silent tells nobody.
type silent struct{}

func (silent) Start(string) Step     { return silent{} }
func (silent) Note(string)           {}
func (silent) Progress(_, _ int64)   {}
func (silent) End(_ string, _ error) {}
