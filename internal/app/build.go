package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"slipway/internal/build"
	"slipway/internal/build/attest"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/mount/archive"
	"slipway/internal/build/output"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/build/tree"
	"slipway/internal/build/warm"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/sign"
)

// Build says what `slipway build` was asked for.
type Build struct {
	// Context is a folder.
	Context string
	// File is the Dockerfile; "-" is Stdin. Default: Dockerfile in the context, then Containerfile.
	File string
	// Name is what messages call the Dockerfile. Default: File.
	Name string
	// Stdin gives the Dockerfile when File is "-".
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
	if err := r.checkContext(); err != nil {
		return nil, err
	}
	if err := r.inlineCache(); err != nil {
		return nil, err
	}
	index, err := r.makesIndex()
	if err != nil {
		return nil, err
	}
	if index {
		platforms := cmp.Or(r.Platform, oci.FormatPlatform(machine()))
		image, err = w.buildIndex(ctx, r, strings.Split(platforms, ","))
	} else if err = r.checkOne(); err == nil {
		image, err = w.buildOne(ctx, r, false)
	}
	if err != nil {
		return nil, err
	}
	return image, a.sign(ctx, r, image)
}

// checkContext refuses contexts that are no folders.
func (r *Build) checkContext() error {
	if r.Context == "-" || strings.Contains(r.Context, "://") || strings.HasPrefix(r.Context, "git@") {
		err := fmt.Errorf("build context %s: only folders are read as contexts: %w", r.Context, errs.Invalid)
		return errs.Hint(err, "unpack or clone it first, and name the folder")
	}
	return nil
}

// buildOne builds for one platform. With keep, every layer is in the blob store afterwards.
func (w *work) buildOne(ctx context.Context, r Build, keep bool) (*build.Image, error) {
	tags, err := parseTags(r)
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(r.Context)
	if err != nil {
		return nil, err
	}
	file, ignore, err := readDockerfile(r, root)
	if err != nil {
		return nil, err
	}
	matcher, err := newIgnoring(ignore)
	if err != nil {
		return nil, err
	}
	folder, err := tree.NewFolder(root, tree.FolderOptions{Ignore: matcher, AsRoot: true})
	if err != nil {
		return nil, fmt.Errorf("build context: %w", errs.Mark(err, errs.Invalid))
	}
	epoch, buildArgs, err := r.sourceEpoch(ctx, folder.Root())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(folder.Root()))
	sums := filepath.Join(w.home(sumsDir), hex.EncodeToString(sum[:16]))
	hasher := tree.OpenHasher(sums, w.opts.Now())
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
	secrets, err := w.secrets(r.Secrets)
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
	last, err := w.lastFile(r, folder.Root())
	if err != nil {
		return nil, err
	}
	format, err := r.format()
	if err != nil {
		return nil, err
	}
	if err := w.used(sums, last); err != nil {
		return nil, err
	}
	image, err := w.solver.Build(ctx, solver.Request{
		File: file,
		Plan: plan.Options{
			Target: r.Target, Args: buildArgs, Labels: r.Labels, Network: r.Network, Ignore: ignore,
			BuildPlatform: machine(), Platform: platform,
		},
		Context: folder, Sums: hasher, Tags: tags, Push: r.Push, SkipPushCheck: r.SkipPushCheck, Shape: r.shape(platform), Attest: r.attest(ctx, folder.Root(), file.Name), Describe: r.Describe, Compression: r.Compression, Format: format,
		NoCache: r.NoCache, NoCacheFilter: r.NoCacheFilter, Explain: r.Explain, Last: last, CacheFrom: caches.from, CacheTo: caches.to, CacheInline: caches.inline, CacheMounts: mounts, Epoch: epoch, Hosts: r.Hosts, Secrets: secrets, SSH: agents, Limits: r.Limits, Allow: r.Allow, Bases: bases, MapRef: r.MapRef, Keep: keep, Outputs: r.Outputs, Events: r.Events,
	})
	if err == nil && format != nil {
		w.tellPlain(r, format, image)
	}
	return image, errors.Join(err, hasher.Save())
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

// dockerfileNames are tried in order.
func dockerfileNames() []string { return []string{"Dockerfile", "Containerfile"} }

// maxDockerfile bounds what is read as one.
const maxDockerfile = 16 << 20

// readDockerfile reads the Dockerfile and the ignore file that belongs to it.
func readDockerfile(r Build, root string) (*dockerfile.File, *dockerfile.Ignore, error) {
	name, data, err := dockerfileBytes(r, root)
	if err != nil {
		return nil, nil, err
	}
	file, err := dockerfile.ParseWithArgs(cmp.Or(r.Name, name), data, r.Args)
	if err != nil {
		return file, nil, err
	}
	candidates := []string{filepath.Join(root, dockerfile.DefaultIgnoreFile)}
	if r.File != "-" {
		candidates = append([]string{dockerfile.IgnoreFile(name)}, candidates...)
	}
	for _, c := range candidates {
		text, err := os.ReadFile(c)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		ignore, err := dockerfile.ParseIgnore(c, text)
		return file, ignore, err
	}
	return file, nil, nil
}

func dockerfileBytes(r Build, root string) (string, []byte, error) {
	switch r.File {
	case "-":
		data, err := io.ReadAll(io.LimitReader(r.Stdin, maxDockerfile))
		return "<stdin>", data, err
	case "":
		for _, n := range dockerfileNames() {
			name := filepath.Join(r.Context, n)
			data, err := os.ReadFile(filepath.Join(root, n))
			if !errors.Is(err, fs.ErrNotExist) {
				return name, data, err
			}
		}
		err := fmt.Errorf("no Dockerfile in %s: %w", r.Context, errs.Mark(fs.ErrNotExist, errs.Invalid))
		return "", nil, errs.Hint(err, "name it with --file")
	default:
		data, err := os.ReadFile(r.File)
		if errors.Is(err, fs.ErrNotExist) {
			err = errs.Mark(err, errs.Invalid)
		}
		return r.File, data, err
	}
}

// ignoring answers a tree's questions from an ignore file, folder by folder.
type ignoring struct {
	mu   sync.Mutex
	dirs map[string]*dockerfile.IgnoreDir
}

// newIgnoring returns nil when nothing is ignored.
func newIgnoring(ig *dockerfile.Ignore) (tree.Ignore, error) {
	if ig == nil {
		return nil, nil
	}
	root, err := ig.Root()
	if err != nil {
		return nil, err
	}
	return &ignoring{dirs: map[string]*dockerfile.IgnoreDir{".": root}}, nil
}

// Ignored implements tree.Ignore.
func (i *ignoring) Ignored(p string, isDir bool) (out, below bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d, err := i.dir(filepath.Dir(p))
	if err != nil {
		return false, false, err
	}
	m, err := d.Match(filepath.Base(p), isDir)
	if err == nil && isDir {
		i.dirs[p] = m.Dir
	}
	return m.Hidden, m.Skip, err
}

// dir finds what matched a folder, which has been asked about before unless a path was named directly.
func (i *ignoring) dir(p string) (*dockerfile.IgnoreDir, error) {
	if d, ok := i.dirs[p]; ok {
		return d, nil
	}
	up, err := i.dir(filepath.Dir(p))
	if err != nil {
		return nil, err
	}
	m, err := up.Match(filepath.Base(p), true)
	if err != nil {
		return nil, err
	}
	i.dirs[p] = m.Dir
	return m.Dir, nil
}
