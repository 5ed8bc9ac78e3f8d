package app

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/build/warm"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// Warm says which base images to bring into a folder.
type Warm struct {
	Images []string
	// Dockerfile adds the images that a Dockerfile stands on or copies from, with Args as its build arguments.
	Dockerfile string
	Args       map[string]string
	Dir        string
	Platform   string // Default: this machine's
	MapRef     func(ref.Ref) ref.Ref
	Events     build.Sink
}

// Warmed is one image of a warmed folder.
type Warmed struct {
	Image  string     `json:"image"`
	Digest oci.Digest `json:"digest"`
	Hit    bool       `json:"hit"` // it was there already
}

// warmAtOnce is how many images are fetched side by side; the layers of each are, too.
const warmAtOnce = 2

// Warm fills a folder of base images. Every image is tried; the error tells of all that failed.
func (a *App) Warm(ctx context.Context, w Warm) ([]Warmed, error) {
	platform := machine()
	if w.Platform != "" {
		var err error
		if platform, err = oci.ParsePlatform(w.Platform); err != nil {
			return nil, err
		}
	}
	images, err := w.images(platform)
	if err != nil {
		return nil, err
	}
	dir, err := warm.Open(w.Dir, warm.Options{From: a.registry, Logger: a.opts.Logger})
	if err != nil {
		return nil, err
	}
	done := make([]Warmed, len(images))
	failed := make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(warmAtOnce)
	for i, image := range images {
		g.Go(func() error {
			done[i], failed[i] = a.warmOne(ctx, w, dir, image, platform)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return done, joinErrors(failed)
}

func (a *App) warmOne(ctx context.Context, w Warm, dir *warm.Dir, image string, p oci.Platform) (Warmed, error) {
	r, err := ref.Parse(image)
	if err != nil {
		return Warmed{}, err
	}
	if w.MapRef != nil {
		r = w.MapRef(r)
	}
	began := a.opts.Now()
	send := func(e build.Event) {
		if w.Events != nil {
			e.Time = a.opts.Now()
			w.Events(e)
		}
	}
	digest, hit, err := dir.Fill(ctx, r, p)
	switch {
	case err != nil:
		send(build.Event{Kind: build.Warning, Text: "warm " + image + ": " + err.Error()})
		return Warmed{}, fmt.Errorf("warm %s: %w", image, err)
	case hit:
		send(build.Event{Kind: build.Note, Text: "Image already in cache: " + image})
	default:
		took := a.opts.Now().Sub(began).Round(1e6)
		send(build.Event{Kind: build.Note, Text: fmt.Sprintf("Wrote %s to %s in %s", image, dir.Manifest(digest), took)})
	}
	return Warmed{Image: image, Digest: digest, Hit: hit}, nil
}

// images lists what is to be fetched, each once.
func (w Warm) images(p oci.Platform) ([]string, error) {
	images := append([]string{}, w.Images...)
	if w.Dockerfile != "" {
		name, data, err := dockerfileBytes(&Build{File: w.Dockerfile}, "")
		if err != nil {
			return nil, err
		}
		file, err := dockerfile.Parse(name, data)
		if err != nil {
			return nil, err
		}
		needs, err := plan.Images(file, plan.Options{Args: w.Args, BuildPlatform: machine(), Platform: p, Supports: solver.Features()})
		if err != nil {
			return nil, err
		}
		for _, n := range needs {
			images = append(images, n.Ref)
		}
	}
	if len(images) == 0 {
		return nil, errs.Hint(fmt.Errorf("nothing to warm: %w", errs.Invalid), "name images with --image, or a Dockerfile with --dockerfile")
	}
	seen := map[string]bool{}
	unique := images[:0]
	for _, image := range images {
		if !seen[image] {
			seen[image] = true
			unique = append(unique, image)
		}
	}
	return unique, nil
}
