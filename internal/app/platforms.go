package app

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/build/output"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// buildIndex builds for several platforms side by side and lists the images in an index. They share base images, the
// context's digests, and every layer that is the same.
func (w *work) buildIndex(ctx context.Context, r Build, in *inputs, platforms []string) (*build.Image, error) {
	tags, err := parseTags(r)
	if err != nil {
		return nil, err
	}
	parsed, err := distinctPlatforms(platforms)
	if err != nil {
		return nil, err
	}
	if err := r.checkShape(parsed); err != nil {
		return nil, err
	}
	ofIndex, err := indexOutputs(r.Outputs)
	if err != nil {
		return nil, err
	}
	index := &build.Image{Platforms: make([]*build.Image, len(parsed))}
	var told sync.Map
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range parsed {
		g.Go(func() (err error) {
			one := r
			one.Platform, one.Outputs, one.Tags, one.untagged = oci.FormatPlatform(p), platformOutputs(r.Outputs, p), nil, repositories(tags)
			one.Events = platformEvents(r.Events, i, p, &told)
			one.SkipPushCheck = r.SkipPushCheck || i > 0 // all of them go to the same places
			index.Platforms[i], err = w.buildOne(gctx, one, in, len(ofIndex) > 0 || r.local())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if r.FilesAlone() {
		for _, im := range index.Platforms {
			add(&index.Stats, im.Stats)
		}
		return &build.Image{Stats: index.Stats}, nil
	}
	if err := r.list(index, parsed); err != nil {
		return nil, err
	}
	if _, err := w.blobs.Put(ctx, index.Raw); err != nil {
		return nil, err
	}
	if err := w.writeIndex(ctx, ofIndex, tags, index); err != nil {
		return nil, err
	}
	return index, w.pushIndex(ctx, r, tags, index)
}

// distinctPlatforms reads platforms, each of which may be named once.
func distinctPlatforms(words []string) ([]oci.Platform, error) {
	var parsed []oci.Platform
	for _, w := range words {
		p, err := oci.ParsePlatform(strings.TrimSpace(w))
		if err != nil {
			return nil, err
		}
		for _, other := range parsed {
			if oci.SamePlatform(p, other) {
				return nil, fmt.Errorf("platform %s is named twice: %w", w, errs.Invalid)
			}
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// repositories are the places of tags, each once, without the tags: what an index lists is pushed by digest.
func repositories(tags []ref.Ref) []ref.Ref {
	var repos []ref.Ref
	seen := map[string]bool{}
	for _, t := range tags {
		if !seen[t.Name()] {
			seen[t.Name()] = true
			repos = append(repos, t.WithTag(""))
		}
	}
	return repos
}

// stepsPerPlatform keeps the step numbers of platforms that are built at once apart.
const stepsPerPlatform = 1_000_000

// platformEvents tells which platform a step is for, and what is said of all of them only once.
func platformEvents(sink build.Sink, i int, p oci.Platform, told *sync.Map) build.Sink {
	if sink == nil {
		return nil
	}
	return func(e build.Event) {
		if e.Kind == build.Warning || e.Kind == build.Note {
			if _, again := told.LoadOrStore(e.Text, true); again {
				return
			}
		}
		if e.Step != 0 {
			e.Step += i * stepsPerPlatform
			e.Name = oci.FormatPlatform(p) + " " + e.Name
		}
		sink(e)
	}
}

// list fills in an index over its images.
func (r *Build) list(index *build.Image, platforms []oci.Platform) error {
	var images, statements []oci.Descriptor
	for i, im := range index.Platforms {
		desc := im.Manifest
		if desc.Platform == nil {
			desc.Platform = &platforms[i]
		}
		images = append(images, desc)
		for j := range im.Attached {
			if im.Attached[j].Listed {
				statements = append(statements, im.Attached[j].Manifest)
			}
		}
		add(&index.Stats, im.Stats)
	}
	ix := oci.NewIndex(append(images, statements...), build.Annotations(r.Annotations, build.OnIndex, oci.Platform{}))
	if r.DockerTypes {
		ix.MediaType = oci.DockerManifestList
	}
	raw, err := oci.Marshal(ix)
	if err != nil {
		return err
	}
	index.Raw, index.Manifest = raw, oci.Describe(ix.MediaType, raw)
	index.Manifest.Annotations = build.Annotations(r.Annotations, build.OnIndexDescriptor, oci.Platform{})
	return nil
}

func add(sum *build.Stats, s build.Stats) {
	sum.Steps += s.Steps
	sum.Cached += s.Cached
	sum.LayersPacked += s.LayersPacked
	sum.BytesPacked += s.BytesPacked
	sum.BlobsPushed += s.BlobsPushed
	sum.BytesPushed += s.BytesPushed
	sum.BlobsMounted += s.BlobsMounted
	sum.BlobsExisting += s.BlobsExisting
	sum.Took = max(sum.Took, s.Took)
}

// indexOutputs are the outputs that take the index. Files go to a folder for each platform (see platformOutputs).
func indexOutputs(all []output.Output) ([]output.Output, error) {
	var list []output.Output
	for _, o := range all {
		switch {
		case output.HoldsIndex(o.Type):
			list = append(list, o)
		case o.Type != output.Local:
			return nil, errs.Hint(fmt.Errorf("output type=%s holds one platform: %w", o.Type, errs.Invalid), "use type=oci, layout or local")
		}
	}
	return list, nil
}

// platformOutputs are those of one platform: its files in a folder of its own, OS_ARCH[_VARIANT] as buildx has it.
func platformOutputs(all []output.Output, p oci.Platform) []output.Output {
	var list []output.Output
	for _, o := range all {
		if o.Type == output.Local {
			o.Dest = filepath.Join(o.Dest, strings.ReplaceAll(oci.FormatPlatform(p), "/", "_"))
			list = append(list, o)
		}
	}
	return list
}

func (w *work) writeIndex(ctx context.Context, outputs []output.Output, tags []ref.Ref, index *build.Image) error {
	open := func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) { return w.blobs.Open(ctx, d.Digest) }
	for _, o := range outputs {
		for _, t := range tags {
			o.Names = append(o.Names, t.String())
		}
		if err := o.Write(ctx, index, open); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) pushIndex(ctx context.Context, r Build, tags []ref.Ref, index *build.Image) error {
	if !r.Push {
		return nil
	}
	return w.solver.PushTags(ctx, tags, index, r.Events)
}
