// Package image is the worker behind build-image-task: it checks the commit out, brings base images into a cache folder
// (warm), builds a Dockerfile and pushes the image (build).
//
// The keys it reads are warm and build in a task's context.data; either may be absent, and warm comes first. What
// builds is behind Builder, which the application satisfies with slipway's own engine.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
)

// Name is the name of the preset worker.
const Name = "build-image"

// Builder builds images and fills cache folders. Its methods may be called from several goroutines at once.
type Builder interface {
	// Build builds r's Dockerfile and pushes the image to r.Images. A RUN that ends badly gives an error with a method
	// ExitCode in its chain, a limit that is hit one of kind errs.Limit.
	Build(ctx context.Context, r Request) (Result, error)
	// Warm brings base images into a cache folder.
	Warm(ctx context.Context, r WarmRequest) error
	// Accelerate converts an image that was pushed into an accelerated one, and pushes that.
	Accelerate(ctx context.Context, r Acceleration) (Result, error)
	// Named returns the digest that a tag names now, or an error of kind errs.NotFound.
	Named(ctx context.Context, r ref.Ref) (string, error)
}

// Request is an image to build and push.
type Request struct {
	// Root is the folder with the repository's files, of this build alone and gone after it.
	Root string
	// Dockerfile and Context are paths below Root, slash separated; both exist and do not lead out of it.
	Dockerfile, Context string
	// Images are where to push, after MapRef; the first is the one that the file calls image.
	Images []ref.Ref
	// Args are build arguments; Target is the stage to build, "" for the last; Platforms are os/arch[/variant], none for
	// this machine's.
	Args      map[string]string
	Target    string
	Platforms []string
	// Network is for every RUN that asks for none itself, "host" or "none"; "" for the usual.
	Network string
	// Secrets are what RUN --mount=type=secret shows, by id.
	Secrets map[string][]byte
	// CacheFrom and CacheTo keep results of steps outside this machine.
	CacheFrom, CacheTo []Cache
	// CacheDir is a folder of this machine with base images, that Warm fills; empty for none.
	CacheDir string
	// MapRef says where an image named by the Dockerfile really is. Never nil.
	MapRef func(ref.Ref) ref.Ref
	// Limits bound the build, all but Timeout, which ctx carries. LimitsOf names them, as in "the default environment".
	Limits   pipeline.Limits
	LimitsOf string
	// Progress takes the builder's own events, for whoever knows their type.
	Progress func(event any)
}

// Result is what was pushed.
type Result struct {
	// Digest is that of the manifest, "sha256:…".
	Digest string
}

// WarmRequest is base images to bring into a folder.
type WarmRequest struct {
	// Images are the references after mapping.
	Images []ref.Ref
	// CacheDir is a folder of this machine; it exists.
	CacheDir string
	Progress func(event any)
}

// Options say what a Worker works with.
type Options struct {
	// Builder is required for Work.
	Builder Builder
	// MapRef says where an image that a pipeline or Dockerfile names really is. Default: where it says.
	MapRef func(ref.Ref) ref.Ref
	// Instance takes the ACR instance that a file names for the registry of an image, as written and as it is here, and says
	// what comes of it. Default: nothing does.
	Instance func(written, here ref.Ref, id string) string
	// Converts says whether an image is, as written and as it is here, in a registry that makes accelerated images itself
	// once it is known as an ACR instance. Default: none does.
	Converts func(written, here ref.Ref) bool
	// CheckFormat says what is wrong with a format of accelerated images and its level. Default: nothing is.
	CheckFormat func(format string, level int) error
	// Suffixes are what tags end with that ask for an accelerated image, longer ones before those that they end with.
	// Default: Suffixes().
	Suffixes []string
}

// Worker is the worker of build-image-task.
type Worker struct{ opts Options }

var _ pipeline.Worker = (*Worker)(nil)

// New returns a worker.
func New(opts Options) *Worker {
	if opts.MapRef == nil {
		opts.MapRef = func(r ref.Ref) ref.Ref { return r }
	}
	if opts.Instance == nil {
		opts.Instance = func(_, _ ref.Ref, id string) string { return "instanceID " + id + ": of no use here" }
	}
	if opts.Converts == nil {
		opts.Converts = func(_, _ ref.Ref) bool { return false }
	}
	if opts.CheckFormat == nil {
		opts.CheckFormat = func(string, int) error { return nil }
	}
	if len(opts.Suffixes) == 0 {
		opts.Suffixes = Suffixes()
	}
	return &Worker{opts: opts}
}

// MapRegistry returns the mapping that replaces registry hosts as m says: HOST to HOST, or to HOST/PREFIX, which puts
// every repository below the prefix.
func MapRegistry(m map[string]string) func(ref.Ref) ref.Ref {
	return func(r ref.Ref) ref.Ref {
		to, ok := m[r.Registry()]
		if !ok {
			return r
		}
		host, prefix, _ := strings.Cut(to, "/")
		return r.In(host, path.Join(prefix, r.Repository()))
	}
}

// Work warms, then builds; see pipeline.Worker.
func (w *Worker) Work(ctx context.Context, job *pipeline.Job) (pipeline.Output, error) {
	if warm := job.Task.Data.Get("warm"); !warm.Absent() {
		if err := w.warm(ctx, job, warm); err != nil {
			return pipeline.Output{}, fmt.Errorf("warm: %w", err)
		}
	}
	if build := job.Task.Data.Get("build"); !build.Absent() {
		return w.build(ctx, job, build)
	}
	return pipeline.Output{}, nil
}

func (w *Worker) warm(ctx context.Context, job *pipeline.Job, warm *pipeline.Value) error {
	dir, err := cacheDir(job, warm.Get("cacheDir"))
	if err != nil {
		return err
	}
	r := WarmRequest{CacheDir: dir, Progress: progress(job)}
	for _, name := range warm.Get("images").Items {
		image, err := w.locate(job, name, warm)
		if err != nil {
			return err
		}
		r.Images = append(r.Images, image)
	}
	if err := w.opts.Builder.Warm(ctx, r); err != nil {
		return err
	}
	return give(dir, job.Environment.Owner)
}

// give makes root's files in a folder those of an owner, which takes root. Files of others stay theirs.
func give(dir string, owner *pipeline.Owner) (err error) {
	if owner == nil || os.Geteuid() != 0 || owner.UID == 0 && owner.GID == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("give the cache folder away: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = root.Lstat(name)
		}
		if err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == 0 {
				err = root.Lchown(name, owner.UID, owner.GID)
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // a temporary file of somebody else who fills the folder
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("give the cache folder to %d:%d: %w", owner.UID, owner.GID, err)
	}
	return nil
}

func (w *Worker) build(ctx context.Context, job *pipeline.Job, build *pipeline.Value) (pipeline.Output, error) {
	image, err := w.locate(job, build.Get("image"), build)
	if err != nil {
		return pipeline.Output{}, err
	}
	cache, err := cacheDir(job, build.Get("cacheDir"))
	if err != nil {
		return pipeline.Output{}, err
	}
	root := filepath.Join(job.Dir, "repository")
	if err := os.Mkdir(root, 0o755); err != nil {
		return pipeline.Output{}, fmt.Errorf("make the checkout's folder: %w", err)
	}
	if err := job.Source.Checkout(ctx, root); err != nil {
		return pipeline.Output{}, err
	}
	dockerfile, folder, err := inputs(root, job.Task, build)
	if err != nil {
		return pipeline.Output{}, err
	}
	r := Request{
		Root: root, Dockerfile: dockerfile, Context: folder, CacheDir: cache, MapRef: w.opts.MapRef,
		Args: scalars(build.Get("args")), Target: build.Get("target").String(), Platforms: build.Get("platforms").Strings(),
		Network: job.Environment.Network, Limits: job.Environment.Limits, LimitsOf: job.Environment.Source(), Progress: progress(job),
	}
	named, err := tags(image, build, func(v *pipeline.Value) (ref.Ref, error) { return w.locate(job, v, build) })
	if err != nil {
		return pipeline.Output{}, err
	}
	asked, targets := w.targets(build, image, named)
	r.Images = plains(targets)
	if r.Secrets, err = secrets(job, root, build); err != nil {
		return pipeline.Output{}, err
	}
	if r.CacheFrom, r.CacheTo, err = caches(job, build); err != nil {
		return pipeline.Output{}, err
	}
	if job.Environment.Debug {
		job.Notice("debugMode: the build is this one: slipway build -f " + filepath.Join(root, dockerfile) + " " + filepath.Join(root, folder))
	}
	waits, err := w.look(ctx, asked, targets)
	if err != nil {
		return pipeline.Output{}, err
	}
	result, err := w.opts.Builder.Build(ctx, r)
	if err != nil {
		return pipeline.Output{}, fmt.Errorf("build %s: %w", image.Familiar(), err)
	}
	out := output(r.Images, result)
	out.Accelerated, err = w.accelerate(ctx, job, asked, targets, waits, result.Digest)
	return out, err
}

func output(images []ref.Ref, result Result) pipeline.Output {
	out := pipeline.Output{Image: images[0].String(), Digest: result.Digest}
	for _, r := range images[1:] {
		out.Also = append(out.Also, r.String())
	}
	return out
}

func progress(job *pipeline.Job) func(any) {
	return func(event any) { job.Emit(pipeline.Event{Kind: pipeline.Detail, Detail: event}) }
}

// locate parses a reference and maps it to where it really is. of is what names it, and the ACR instance, if any.
func (w *Worker) locate(job *pipeline.Job, v, of *pipeline.Value) (ref.Ref, error) {
	written, err := ref.Parse(v.String())
	if err != nil {
		return ref.Ref{}, at(v, job.Task, err)
	}
	here := w.opts.MapRef(written)
	if here != written {
		job.Notice(written.Familiar() + " is " + here.Familiar() + " here")
	}
	if id := of.Get("instanceID").String(); id != "" {
		job.Notice(w.opts.Instance(written, here, id))
	}
	return here, nil
}

// cacheDir finds the folder of this machine that a cacheDir inside the environment means, and makes it.
func cacheDir(job *pipeline.Job, v *pipeline.Value) (string, error) {
	if v.Absent() {
		return "", nil
	}
	inside := path.Clean(v.String())
	mount, below, ok := job.Environment.Inside(inside)
	var dir string
	switch {
	case !ok:
		dir = filepath.Join(job.Dir, "cache", filepath.FromSlash(inside))
		job.Notice("cacheDir " + inside + " is in no NAS mount: it is gone when the task ends")
	case mount.Folder == "":
		err := fmt.Errorf("cacheDir %s is on %s, which is no folder of this machine", inside, mount.Server)
		return "", errs.Hint(at(v, job.Task, err), "--map-nas "+mount.Server+"=DIR says which folder stands for it")
	default:
		dir = filepath.Join(mount.Folder, filepath.FromSlash(below))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	return dir, nil
}

// inputs finds the Dockerfile and the context in the checkout. A symbolic link that leads out of it is refused.
func inputs(root string, t *pipeline.Task, build *pipeline.Value) (dockerfile, folder string, err error) {
	dockerfile, folder = paths(build)
	files, err := os.OpenRoot(root)
	if err != nil {
		return "", "", fmt.Errorf("open the checkout: %w", err)
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	info, err := files.Stat(dockerfile)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", dockerfile)
	}
	if err != nil {
		return "", "", missing(build.Get("dockerfile"), t, "Dockerfile", dockerfile, err)
	}
	info, err = files.Stat(folder)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", folder)
	}
	if err != nil {
		return "", "", missing(build.Get("context"), t, "build context", folder, err)
	}
	return dockerfile, folder, nil
}

func missing(v *pipeline.Value, t *pipeline.Task, what, name string, err error) error {
	var cause *os.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	err = fmt.Errorf("the %s %s of the repository: %w", what, name, err)
	return errs.Hint(at(v, t, err), "is it committed? A run takes the files of the commit")
}

// paths returns the Dockerfile and the context as clean paths below the repository, defaults filled in.
func paths(build *pipeline.Value) (dockerfile, folder string) {
	dockerfile = "Dockerfile"
	if s := build.Get("dockerfile").String(); s != "" {
		dockerfile = path.Clean(s)
	}
	folder = path.Dir(dockerfile)
	if s := build.Get("context").String(); s != "" {
		folder = path.Clean(s)
	}
	return dockerfile, folder
}

// at puts the place of v before a mistake in the file that shows only when the task runs.
func at(v *pipeline.Value, t *pipeline.Task, err error) error {
	return errs.Mark(fmt.Errorf("%s: %w", v.At(t.Origin), err), errs.Invalid)
}
