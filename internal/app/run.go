package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/solver"
	"slipway/internal/errs"
	"slipway/internal/forge/git"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/engine"
	"slipway/internal/pipeline/runner/local"
	"slipway/internal/pipeline/spec"
	"slipway/internal/task/image"
)

// Run says which pipeline to run, on what.
type Run struct {
	// File is the pipeline file.
	File string
	// Repo is a folder or an address. Default: the repository that holds File.
	Repo string
	// Ref is a branch, a tag or a commit. Default: HEAD.
	Ref string
	// Set gives variables and context data; Env adds to the tasks' environments.
	Set, Env map[string]string
	// Only names the tasks to run. Default: all.
	Only []string
}

// Prepared is a pipeline resolved against a commit, ready to run. Whoever got it closes it.
type Prepared struct {
	Pipeline *pipeline.Pipeline
	// Warnings are about the file; they stop nothing.
	Warnings spec.Errors
	// Repository is what the run is about; nil when there is none, which only a look at the pipeline forgives.
	Repository *git.Repository

	scratch *scratch
}

// Close removes what preparing and running left behind.
func (p *Prepared) Close() error {
	var err error
	if p.Repository != nil {
		err = p.Repository.Close()
	}
	return errors.Join(err, p.scratch.close())
}

// Prepare opens the repository and resolves the file. Mistakes in the file are a spec.Errors. A file that lies in no
// repository is resolved without one unless r names it.
//
// The home folder is where work is put aside for the time of the run.
func Prepare(ctx context.Context, home string, now time.Time, r Run) (p *Prepared, err error) {
	data, err := ReadPipeline(r.File)
	if err != nil {
		return nil, err
	}
	dir, err := newScratch(filepath.Join(home, "runs"))
	if err != nil {
		return nil, err
	}
	p = &Prepared{scratch: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	location := r.Repo
	if location == "" {
		location = filepath.Dir(r.File)
	}
	p.Repository, err = git.Open(ctx, location, git.Options{Ref: r.Ref, Dir: dir.path})
	if err != nil && (r.Repo != "" || r.Ref != "" || !errors.Is(err, errs.Invalid)) {
		return nil, err
	}
	p.Pipeline, p.Warnings, err = spec.Resolve([]*spec.File{spec.Parse(r.File, data)}, spec.Options{
		Variables: variables(p.Repository, now),
		Set:       r.Set,
		Env:       r.Env,
		Only:      r.Only,
		Checkers:  Checkers(),
	})
	return p, err
}

// ReadPipeline reads a pipeline file, within the size that one may have.
func ReadPipeline(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read the pipeline: %w", errs.Mark(err, errs.Invalid))
	}
	if info.Size() > spec.MaxSize {
		return nil, fmt.Errorf("read the pipeline: %s is larger than %d bytes: %w", name, spec.MaxSize, errs.Invalid)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the pipeline: %w", err)
	}
	return data, nil
}

// Checkers know what the tasks of each available worker need.
func Checkers() map[string]spec.Checker {
	return map[string]spec.Checker{image.Name: image.New(image.Options{})}
}

// variables are the values of <% %>. What is not known has none: an empty branch would make a broken tag, quietly.
func variables(repo *git.Repository, now time.Time) map[string]string {
	vars := map[string]string{"currentTimestampMs": strconv.FormatInt(now.UnixMilli(), 10)}
	if repo == nil {
		return vars
	}
	c := repo.Commit()
	for name, value := range map[string]string{
		"git.commitId": c.ID, "git.shortCommitId": c.Short(), "git.branch": c.Branch, "git.tag": c.Tag,
		"git.message": c.Message, "git.repository": repo.Name, "git.cloneUrl": repo.URL,
	} {
		if value != "" {
			vars[name] = value
		}
	}
	return vars
}

// Run runs a prepared pipeline on this machine; see engine.Run. A pipeline without a repository is not run.
func (a *App) Run(ctx context.Context, p *Prepared, events func(pipeline.Event)) (*pipeline.Run, error) {
	if p.Repository == nil {
		err := fmt.Errorf("run %s: its file lies in no git repository: %w", p.Pipeline.Name, errs.Invalid)
		return nil, errs.Hint(err, "name the repository with --repo")
	}
	machine, err := local.ThisMachine(a.opts.Home)
	if err != nil {
		return nil, err
	}
	worker := image.New(image.Options{
		Builder: imageBuilder{a},
		MapRef:  image.MapRegistry(a.opts.Config.MapRegistry),
	})
	return engine.Run(ctx, p.Pipeline, engine.Options{
		Runner: local.New(local.Options{
			Workers: map[string]pipeline.Worker{image.Name: worker},
			Source:  p.Repository,
			Dir:     p.scratch.path,
			Machine: machine,
			NAS:     a.opts.Config.MapNAS,
		}),
		Emit: events,
		Now:  a.opts.Now,
	})
}

// imageBuilder builds the images of build-image-task.
type imageBuilder struct{ app *App }

var _ image.Builder = imageBuilder{}

func (b imageBuilder) Build(ctx context.Context, r image.Request) (image.Result, error) {
	im, err := b.app.Build(ctx, Build{
		Context:  filepath.Join(r.Root, filepath.FromSlash(r.Context)),
		File:     filepath.Join(r.Root, filepath.FromSlash(r.Dockerfile)),
		Name:     r.Dockerfile,
		Tags:     []string{r.Image.String()},
		Push:     true,
		CacheDir: r.CacheDir,
		Limits:   solver.Limits{Memory: r.Limits.Memory, CPUs: r.Limits.CPUs, Disk: r.Limits.Disk, Of: r.LimitsOf},
		MapRef:   r.MapRef,
		Events:   func(e build.Event) { r.Progress(e) },
	})
	if err != nil {
		return image.Result{}, err
	}
	return image.Result{Digest: im.Manifest.Digest.String()}, nil
}

func (b imageBuilder) Warm(ctx context.Context, r image.WarmRequest) error {
	w := Warm{Dir: r.CacheDir, Events: func(e build.Event) { r.Progress(e) }}
	for _, i := range r.Images {
		w.Images = append(w.Images, i.String())
	}
	_, err := b.app.Warm(ctx, w)
	return err
}
