package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/convert"
	"slipway/internal/oci/accel/estargz"
	"slipway/internal/oci/accel/overlaybd"
	"slipway/internal/oci/accel/zstdchunked"
	"slipway/internal/oci/ref"
)

// AcceleratedSuffix is what the tag of an accelerated image has after that of the original.
const AcceleratedSuffix = "_accelerated"

// Accelerate says which image to convert into an accelerated one.
type Accelerate struct {
	Image  string
	Format Acceleration
	// Tag is a reference for the result. Default: the image's tag with AcceleratedSuffix.
	Tag    string
	Events build.Sink
}

// Acceleration is a format of accelerated images.
type Acceleration struct {
	// Name is one of AccelerationFormats.
	Name string
	// Level is the effort of compression, where the format has such. Default: the format's.
	Level int
	// Algorithm is the kind of compression, where the format has several. Default: the format's.
	Algorithm string
}

// defaultFormat is the one that every runtime takes.
const defaultFormat = "estargz"

// AccelerationFormats are the formats of accelerated images.
func AccelerationFormats() []string { return []string{"estargz", "zstdchunked", "overlaybd"} }

// format makes the format, which may have temporary files in dir, or returns an error of kind errs.Invalid.
func (f Acceleration) format(dir string) (accel.Format, error) {
	if f.Algorithm != "" && f.Name != "overlaybd" {
		return nil, fmt.Errorf("%s has one algorithm, and levels from 1 on: %w", f.Name, errs.Invalid)
	}
	if f.Level != 0 && f.Name == "overlaybd" {
		return nil, fmt.Errorf("overlaybd has no levels, but algorithms: %w", errs.Invalid)
	}
	switch f.Name {
	case "estargz":
		return estargz.New(estargz.Options{Level: f.Level})
	case "zstdchunked":
		return zstdchunked.New(zstdchunked.Options{Level: f.Level})
	case "overlaybd":
		return overlaybd.New(overlaybd.Options{Algorithm: f.Algorithm, Dir: dir})
	}
	return nil, fmt.Errorf("there is no format %q, only %s: %w", f.Name, strings.Join(AccelerationFormats(), ", "), errs.Invalid)
}

// defaultBuildLevel is the effort of a build that names none: somebody waits for it. It is that of plain gzip.
const defaultBuildLevel = 2

// format is the accelerated format of a build's layers; nil for ordinary ones.
func (r *Build) format() (accel.Format, error) {
	f := r.Acceleration
	if f.Name == "" {
		return nil, nil
	}
	if f.Name == "estargz" && f.Level == 0 {
		f.Level = defaultBuildLevel
	}
	format, err := f.format("")
	if err == nil && format.Stacked() {
		err := fmt.Errorf("compression %s: its layers cannot be made one by one: %w", f.Name, errs.Invalid)
		return nil, errs.Hint(err, "push the image, then run 'slipway accelerate --format "+f.Name+" REF'")
	}
	return format, err
}

// tellPlain tells of layers that a build took over as they are. A runtime fetches those whole before it starts.
func (a *App) tellPlain(r Build, f accel.Format, im *build.Image) {
	plain := 0
	for _, l := range im.Layers {
		if !f.Is(l) {
			plain++
		}
	}
	if plain > 0 && r.Events != nil {
		text := fmt.Sprintf("%d of %d layers come from the base image and are not %s; 'slipway accelerate' converts all layers of an image", plain, len(im.Layers), f.Name())
		r.Events(build.Event{Kind: build.Note, Time: a.opts.Now(), Text: text})
	}
}

// Validate returns an error of kind errs.Invalid if there is no such format or level.
func (f Acceleration) Validate() error {
	_, err := f.format("")
	return err
}

// Accelerated is an accelerated image.
type Accelerated struct {
	Image     string                `json:"image"` // with its tag
	Digest    oci.Digest            `json:"digest"`
	Original  oci.Digest            `json:"original"`
	Format    string                `json:"format"`
	Platforms []AcceleratedPlatform `json:"platforms"`
}

// AcceleratedPlatform is an accelerated image for one platform.
type AcceleratedPlatform struct {
	Platform string             `json:"platform,omitempty"` // os/arch[/variant], from an index
	Digest   oci.Digest         `json:"digest"`
	Original oci.Digest         `json:"original"`
	Layers   []AcceleratedLayer `json:"layers"`
}

// AcceleratedLayer is a layer of it.
type AcceleratedLayer struct {
	Digest       oci.Digest `json:"digest"`
	Size         int64      `json:"size"`
	Original     oci.Digest `json:"original"`
	OriginalSize int64      `json:"originalSize"`
	How          string     `json:"how"` // converted, remembered, already, kept
}

// Accelerate converts an image of a registry into an accelerated one, and pushes that.
func (a *App) Accelerate(ctx context.Context, r Accelerate) (_ *Accelerated, err error) {
	w, err := a.begin(ctx, r.Events)
	if err != nil {
		return nil, err
	}
	defer func() { err = a.hintFull(errors.Join(err, w.end(err != nil))) }()
	dir := a.home(acceleratedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	format, err := r.Format.format(dir)
	if err != nil {
		return nil, err
	}
	from, err := ref.Parse(r.Image)
	if err != nil {
		return nil, err
	}
	to, err := r.target(from)
	if err != nil {
		return nil, err
	}
	c := convert.New(convert.Options{
		Registry: a.registry, Blobs: w.blobs, Cache: accel.OpenCache(dir, w.blobs),
	})
	im, err := c.Image(ctx, convert.Request{From: from, To: to, Format: format, Steps: a.steps(r.Events)})
	if err != nil {
		return nil, err
	}
	return accelerated(to, r.Format, im), nil
}

// target is where the result goes.
func (r *Accelerate) target(from ref.Ref) (ref.Ref, error) {
	if r.Tag == "" {
		return acceleratedTag(from)
	}
	to, err := ref.Parse(r.Tag)
	if err == nil && to.Digest() != "" {
		err = fmt.Errorf("tag %s: a digest cannot be chosen: %w", r.Tag, errs.Invalid)
	}
	return to, err
}

// acceleratedTag is the original's tag with the suffix.
func acceleratedTag(from ref.Ref) (ref.Ref, error) {
	tag := from.Tag() + AcceleratedSuffix
	switch {
	case from.Tag() == "":
		err := fmt.Errorf("%s has no tag to derive one from: %w", from.Familiar(), errs.Invalid)
		return ref.Ref{}, errs.Hint(err, "name the result with --tag")
	case !ref.ValidTag(tag):
		err := fmt.Errorf("%s is too long for a tag: %w", tag, errs.Invalid)
		return ref.Ref{}, errs.Hint(err, "name the result with --tag")
	}
	return from.WithDigest("").WithTag(tag), nil
}

func accelerated(to ref.Ref, f Acceleration, im *convert.Image) *Accelerated {
	out := &Accelerated{Image: to.Familiar(), Digest: im.Manifest.Digest, Original: im.Original.Digest, Format: f.Name}
	for _, p := range im.Platforms {
		o := AcceleratedPlatform{Digest: p.Manifest.Digest, Original: p.Original.Digest}
		if p.Platform != nil {
			o.Platform = oci.FormatPlatform(*p.Platform)
		}
		for _, l := range p.Layers {
			o.Layers = append(o.Layers, AcceleratedLayer{
				Digest: l.Descriptor.Digest, Size: l.Descriptor.Size, Original: l.From.Digest, OriginalSize: l.From.Size, How: l.How,
			})
		}
		out.Platforms = append(out.Platforms, o)
	}
	return out
}
