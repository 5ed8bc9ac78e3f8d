package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"slipway/internal/build"
	"slipway/internal/build/attest"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/mount/archive"
	"slipway/internal/build/output"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/build/warm"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/sign"
)

// Build says what `slipway build` was asked for.
type Build struct {
	// Context is a folder, "-" for Stdin, or the address of what is elsewhere: see address.ParseContext.
	Context string
	// File is the Dockerfile; "-" is Stdin. One that is not absolute is in the context when that is no folder. Default:
	// Dockerfile in the context, then Containerfile, then dockerfile.
	File string
	// Contexts are named contexts, each NAME=ADDRESS: see address.ParseNamed.
	Contexts []string
	// Name is what messages call the Dockerfile. Default: File.
	Name string
	// Stdin gives the Dockerfile when File is "-", or the context.
	Stdin io.Reader

	Tags []string
	Push bool
	// SkipPushCheck does not ask, before building, whether the push will be allowed.
	SkipPushCheck bool
	// Key signs what is pushed. Default: nothing is signed.
	Key *sign.Signer
	// Attest says what is stated of the image, beside it. Its Source is found out.
	Attest attest.Options
	// Describe asks for the image's Provenance.
	Describe    bool
	Outputs     []output.Output
	Target      string
	Args        map[string]string
	Labels      map[string]string
	Annotations []build.Annotation
	// DockerTypes states the image with Docker's media types instead of the OCI's.
	DockerTypes bool
	// Squash makes one layer of all that the build adds to its base image.
	Squash bool
	// Platform is os/arch[/variant], or several of them with commas, which make an index. Default: this machine's.
	Platform string
	NoCache  bool
	// NoCacheFilter names stages whose steps all run.
	NoCacheFilter []string
	// Explain tells of every step that runs why the cache did not answer it.
	Explain     bool
	CacheFrom   []remote.Spec
	CacheTo     []remote.Spec
	CacheMounts []archive.Spec
	Network     string
	Hosts       []solver.Host
	Secrets     []Secret
	SSH         []Agent
	Compression layer.Compression
	// Acceleration is a format for the layers that the build packs, in place of Compression. Default: none.
	Acceleration Acceleration
	// Epoch is seconds since 1970, "context" for the commit's time, or "none". Default: the argument SOURCE_DATE_EPOCH,
	// else none.
	Epoch    string
	CacheDir string
	Limits   solver.Limits
	// Allow is what the Dockerfile may ask for besides what a sandbox is for.
	Allow  solver.Grants
	MapRef func(ref.Ref) ref.Ref
	Events build.Sink

	// untagged are repositories that the image is pushed to by digest, as part of an index.
	untagged []ref.Ref
	// steps is how many numbers of steps were given before the solver begins.
	steps int
}

// FilesAlone says that only the image's files were asked for: then no image is made, and none comes back.
func (r *Build) FilesAlone() bool {
	return !r.Push && len(r.Outputs) > 0 &&
		!slices.ContainsFunc(r.Outputs, func(o output.Output) bool { return !output.HoldsFiles(o.Type) })
}

// sumsDir is where the sums of contexts' files are remembered, below the home folder.
const sumsDir = "sums"

// Build builds an image, pushes it to every tag when asked to, and writes its outputs.
func (a *App) Build(ctx context.Context, r Build) (image *build.Image, err error) {
	w, err := a.begin(ctx, r.Events)
	if err != nil {
		return nil, err
	}
	defer func() { err = a.hintFull(errors.Join(err, w.end(err != nil))) }()
	if err := r.checkTrust(); err != nil {
		return nil, err
	}
	if _, err := parseTags(r); err != nil { // before anything is fetched
		return nil, err
	}
	if err := r.inlineCache(); err != nil {
		return nil, err
	}
	index, err := r.makesIndex()
	if err != nil {
		return nil, err
	}
	ctx, cancel := r.Limits.Apply(ctx)
	defer cancel()
	in, closeInputs, err := w.open(ctx, &r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeInputs()) }()
	if index {
		platforms := cmp.Or(r.Platform, oci.FormatPlatform(machine()))
		image, err = w.buildIndex(ctx, r, in, strings.Split(platforms, ","))
	} else if err = r.checkOne(); err == nil {
		image, err = w.buildOne(ctx, r, in, r.local())
	}
	if err != nil {
		return nil, err
	}
	if err := w.name(r, image); err != nil {
		return nil, err
	}
	return image, a.sign(ctx, r, image)
}

// buildOne builds for one platform. With keep, every layer is in the blob store afterwards.
func (w *work) buildOne(ctx context.Context, r Build, in *inputs, keep bool) (*build.Image, error) {
	tags, err := parseTags(r)
	if err != nil {
		return nil, err
	}
	epoch, buildArgs, err := r.sourceEpoch(ctx, in)
	if err != nil {
		return nil, err
	}
	var platform oci.Platform
	if r.Platform != "" {
		if platform, err = oci.ParsePlatform(r.Platform); err != nil {
			return nil, err
		}
	}
	bases, err := w.bases(r)
	if err != nil {
		return nil, err
	}
	agents, err := w.agents(r.SSH)
	if err != nil {
		return nil, err
	}
	caches, err := w.caches(r)
	if err != nil {
		return nil, err
	}
	mounts, err := w.cacheMounts(r)
	if err != nil {
		return nil, err
	}
	last, err := w.lastFile(r, in.name)
	if err != nil {
		return nil, err
	}
	format, err := r.format()
	if err != nil {
		return nil, err
	}
	if err := w.used(last); err != nil {
		return nil, err
	}
	image, err := w.solver.Build(ctx, solver.Request{
		File: in.file,
		Plan: plan.Options{
			Target: r.Target, Args: buildArgs, Labels: r.Labels, Network: r.Network, Contexts: in.stand, Ignore: in.ignore,
			BuildPlatform: machine(), Platform: platform,
		},
		Context: in.tree, Sums: in.hasher, Contexts: in.contexts, Tags: tags, Push: r.Push, SkipPushCheck: r.SkipPushCheck, Shape: r.shape(platform), Attest: r.attest(ctx, in), Describe: r.Describe, Compression: r.Compression, Format: format,
		NoCache: r.NoCache, NoCacheFilter: r.NoCacheFilter, Explain: r.Explain, Last: last, CacheFrom: caches.from, CacheTo: caches.to, CacheInline: caches.inline, CacheMounts: mounts, Epoch: epoch, Hosts: r.Hosts, Secrets: in.secrets, SSH: agents, Limits: r.Limits, Allow: r.Allow, Bases: bases, MapRef: r.MapRef, Keep: keep, Outputs: r.Outputs, Events: r.Events, Steps: r.steps,
	})
	if err == nil && format != nil {
		w.tellPlain(r, format, image)
	}
	return image, err
}

// used notes that files which are only read now are used, if they are there.
func (w *work) used(files ...string) error {
	now := w.opts.Now()
	for _, f := range files {
		if err := os.Chtimes(f, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// bases opens the folder of base images that a build may use.
func (a *App) bases(r Build) (solver.Bases, error) {
	if r.CacheDir == "" {
		return nil, nil
	}
	return warm.Open(r.CacheDir, warm.Options{From: a.registry, Logger: a.opts.Logger, Found: func(manifest string) {
		if r.Events != nil {
			r.Events(build.Event{Kind: build.Note, Time: a.opts.Now(), Text: "Found manifest at " + manifest})
		}
	}})
}

func parseTags(r Build) ([]ref.Ref, error) {
	if r.Push && len(r.Tags)+len(r.untagged) == 0 {
		return nil, errs.Hint(fmt.Errorf("push: no tag says where to: %w", errs.Invalid), "add -t REGISTRY/REPOSITORY:TAG")
	}
	if len(r.untagged) > 0 {
		return r.untagged, nil
	}
	tags := make([]ref.Ref, len(r.Tags))
	for i, t := range r.Tags {
		p, err := ref.Parse(t)
		if err != nil {
			return nil, err
		}
		if p.Digest() != "" {
			return nil, fmt.Errorf("tag %s: a digest cannot be chosen: %w", t, errs.Invalid)
		}
		tags[i] = p
	}
	return tags, nil
}

// machine is the platform that processes run on here.
func machine() oci.Platform { return oci.Platform{OS: "linux", Architecture: runtime.GOARCH} }
