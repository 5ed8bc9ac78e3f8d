package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/solver"
	"slipway/internal/errs"
	"slipway/internal/forge/git"
	"slipway/internal/notify"
	"slipway/internal/notify/dingtalk"
	"slipway/internal/oci/ref"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/engine"
	"slipway/internal/pipeline/runner/local"
	"slipway/internal/pipeline/spec"
	"slipway/internal/task/approval"
	"slipway/internal/task/image"
	"slipway/internal/task/serverless"
)

// Run says which pipeline to run, on what.
type Run struct {
	// Files are pipeline files and folders of them, which together hold one Pipeline and the templates it names. When
	// the first is a file with a Pipeline, that one is run, whatever others there are.
	Files []string
	// Repo is a folder or an address. Default: the repository that holds the first of Files.
	Repo string
	// Ref is a branch, a tag or a commit. Default: HEAD.
	Ref string
	// Set gives variables and context data; Env adds to the tasks' environments.
	Set, Env map[string]string
	// Parallel bounds how many tasks run at once. Default: as many as the graph allows.
	Parallel int
	// Approved names need-approval tasks that need not ask any more; "*" is all of them.
	Approved []string
	// Only names the tasks to run. Default: all.
	Only []string
	// Secrets are what steps know as ${{ secrets.ID }}.
	Secrets []Secret
}

// keptDir, below the home folder, has the environments of tasks in debugMode, and keepFor is how long.
const (
	keptDir = "kept"
	keepFor = time.Hour
)

// Prepared is a pipeline resolved against a commit, ready to run. Whoever got it closes it.
type Prepared struct {
	Pipeline *pipeline.Pipeline
	// Warnings are about the file; they stop nothing.
	Warnings spec.Errors
	// Repository is what the run is about; nil when there is none, which only a look at the pipeline forgives.
	Repository *git.Repository

	approved []string
	secrets  []Secret
	parallel int
	scratch  *scratch
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
	files, err := PipelineFiles(r.Files)
	if err != nil {
		return nil, err
	}
	dir, err := newScratch(filepath.Join(home, "runs"))
	if err != nil {
		return nil, err
	}
	if err := local.Expire(filepath.Join(home, keptDir), now); err != nil {
		return nil, errors.Join(fmt.Errorf("remove environments that were kept: %w", err), dir.close())
	}
	p = &Prepared{scratch: dir, approved: r.Approved, secrets: r.Secrets, parallel: r.Parallel}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	location := r.Repo
	if location == "" {
		location = where(r.Files)
	}
	p.Repository, err = git.Open(ctx, location, git.Options{Ref: r.Ref, Dir: dir.path})
	if err != nil && (r.Repo != "" || r.Ref != "" || !errors.Is(err, errs.Invalid)) {
		return nil, err
	}
	p.Pipeline, p.Warnings, err = spec.Resolve(files, spec.Options{
		Prefer:    r.Files[0],
		Variables: variables(p.Repository, now),
		Set:       r.Set,
		Env:       r.Env,
		Only:      r.Only,
		Approved:  r.Approved,
		Checkers:  checkers(serverless.Options{Secrets: secretNames(r.Secrets)}),
		Every:     EveryTask(),
	})
	return p, err
}

// Checkers know what the tasks of each available worker need.
func Checkers() map[string]spec.Checker { return checkers(serverless.Options{}) }

func checkers(steps serverless.Options) map[string]spec.Checker {
	return map[string]spec.Checker{
		image.Name:      image.New(image.Options{CheckFormat: checkFormat}),
		approval.Name:   approval.New(approval.Options{}),
		serverless.Name: serverless.New(steps),
	}
}

// EveryTask knows what all tasks need, whatever their workers.
func EveryTask() []spec.Checker { return []spec.Checker{notify.Checker{}} }

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

// Listener is who a run speaks to.
type Listener struct {
	// Events gets every event, one at a time. Required.
	Events func(pipeline.Event)
	// Ask puts the question of a need-approval task to a person. Default: nobody can be asked.
	Ask func(ctx context.Context, q approval.Question) (approved bool, err error)
}

// Run runs a prepared pipeline on this machine; see engine.Run. A pipeline without a repository is not run, nor is one
// that would come to wait for an approval that nobody can give.
func (a *App) Run(ctx context.Context, p *Prepared, to Listener) (*pipeline.Run, error) {
	if p.Repository == nil {
		err := fmt.Errorf("run %s: its file lies in no git repository: %w", p.Pipeline.Name, errs.Invalid)
		return nil, errs.Hint(err, "name the repository with --repo")
	}
	approver := approval.New(approval.Options{Approved: p.approved, Ask: to.Ask})
	if err := canDecide(p.Pipeline, approver); err != nil {
		return nil, err
	}
	machine, err := local.ThisMachine(a.opts.Home)
	if err != nil {
		return nil, err
	}
	mapped, public := image.MapRegistry(a.opts.Config.MapRegistry), a.network.public(ctx)
	mapRef := func(r ref.Ref) ref.Ref { return public(mapped(r)) }
	worker := image.New(image.Options{
		Builder:  imageBuilder{a},
		MapRef:   mapRef,
		Instance: a.useInstance, Converts: converts, CheckFormat: checkFormat, Suffixes: a.opts.Config.AcceleratedSuffixes,
	})
	steps, err := a.stepWorker(p, mapRef)
	if err != nil {
		return nil, err
	}
	events, end, err := a.events(ctx, p.Pipeline, to.Events)
	if err != nil {
		return nil, err
	}
	defer end()
	return engine.Run(ctx, p.Pipeline, engine.Options{
		Runner: local.New(local.Options{
			Workers: map[string]pipeline.Worker{image.Name: worker, approval.Name: approver, serverless.Name: steps},
			Source:  p.Repository,
			Dir:     p.scratch.path,
			Machine: machine,
			NAS:     a.opts.Config.MapNAS, MountDir: filepath.Join(a.opts.Home, "nas"),
			Networks: a.opts.Config.MapNetwork,
			Logs:     a.opts.Config.MapLogs,
			Kept:     filepath.Join(a.opts.Home, keptDir), KeepFor: keepFor, Now: a.opts.Now,
		}),
		Emit:     events,
		Now:      a.opts.Now,
		Parallel: p.parallel,
	})
}

// events sends a run's events to its listener and to whoever else wants to hear of them. end waits for what those have
// begun, and is called when the run is over.
func (a *App) events(ctx context.Context, p *pipeline.Pipeline, to func(pipeline.Event)) (events func(pipeline.Event), end func(), err error) {
	written, err := openLogs(ctx, p, a.opts.Config.MapLogs)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex // the engine's events come one at a time, what others have to say comes between them
	say := func(e pipeline.Event) {
		mu.Lock()
		defer mu.Unlock()
		written.event(e)
		to(e)
	}
	notice := func(text string) { say(pipeline.Event{Kind: pipeline.Notice, Time: a.opts.Now(), Text: text}) }
	notifier := notify.New(p, notify.Options{
		DingTalk: &dingtalk.Client{Now: a.opts.Now},
		Failed: func(task string, err error) {
			notice("the notification about " + task + " was not sent: " + err.Error())
		},
	})
	events = func(e pipeline.Event) {
		say(e)
		notifier.Event(ctx, e)
	}
	end = func() {
		notifier.Close()
		if err := written.close(); err != nil { // a log is not the run
			notice(err.Error())
		}
	}
	return events, end, nil
}

// canDecide refuses, before anything runs, what would end in a question that nobody hears.
func canDecide(p *pipeline.Pipeline, approver *approval.Worker) error {
	for i := range p.Tasks {
		t := &p.Tasks[i]
		if t.Worker == approval.Name && t.Skip == "" && !approver.CanDecide(t.Name) {
			err := fmt.Errorf("%s: the task %s waits for an approval, and there is no terminal to ask on: %w", t.Origin, t.Name, errs.Invalid)
			return errs.Hint(err, "approve it beforehand with --approve "+t.Name+", or switch it off: enable: false")
		}
	}
	return nil
}

// imageBuilder builds the images of build-image-task.
type imageBuilder struct{ app *App }

var _ image.Builder = imageBuilder{}

func (b imageBuilder) Build(ctx context.Context, r image.Request) (image.Result, error) {
	request := Build{
		Context:   filepath.Join(r.Root, filepath.FromSlash(r.Context)),
		File:      filepath.Join(r.Root, filepath.FromSlash(r.Dockerfile)),
		Name:      r.Dockerfile,
		Push:      true,
		CacheDir:  r.CacheDir,
		Args:      r.Args,
		Target:    r.Target,
		Network:   r.Network,
		Platform:  strings.Join(r.Platforms, ","),
		CacheFrom: cacheSpecs(r.CacheFrom), CacheTo: cacheSpecs(r.CacheTo),
		Limits: solver.Limits{Memory: r.Limits.Memory, CPUs: r.Limits.CPUs, Disk: r.Limits.Disk, Of: r.LimitsOf},
		MapRef: r.MapRef,
		Events: func(e build.Event) { r.Progress(e) },
	}
	for _, to := range r.Images {
		request.Tags = append(request.Tags, to.String())
	}
	for _, id := range slices.Sorted(maps.Keys(r.Secrets)) {
		request.Secrets = append(request.Secrets, Secret{ID: id, Value: append([]byte{}, r.Secrets[id]...)})
	}
	im, err := b.app.Build(ctx, request)
	if err != nil {
		return image.Result{}, err
	}
	return image.Result{Digest: im.Manifest.Digest.String()}, nil
}

func (b imageBuilder) Accelerate(ctx context.Context, r image.Acceleration) (image.Result, error) {
	im, err := b.app.Accelerate(ctx, Accelerate{
		Image: r.From.String(), Tag: r.To.String(), Format: taskFormat(r.Format, r.Level), Events: func(e build.Event) { r.Progress(e) },
	})
	if err != nil {
		return image.Result{}, err
	}
	return image.Result{Digest: im.Digest.String()}, nil
}

func (b imageBuilder) Named(ctx context.Context, r ref.Ref) (string, error) {
	desc, err := b.app.registry.Head(ctx, r)
	return desc.Digest.String(), err
}

// taskFormat is the format that a task asks for.
func taskFormat(name string, level int) Acceleration {
	return Acceleration{Name: cmp.Or(name, defaultFormat), Level: level}
}

func checkFormat(name string, level int) error { return taskFormat(name, level).Validate() }

func cacheSpecs(caches []image.Cache) []remote.Spec {
	var specs []remote.Spec
	for _, c := range caches {
		s := remote.Spec{Type: remote.InRegistry, Ref: c.Ref, Dir: c.Dir, Max: c.Max}
		switch {
		case c.Inline:
			s.Type = remote.InImage
		case c.Dir != "":
			s.Type = remote.InFolder
		}
		specs = append(specs, s)
	}
	return specs
}

func (b imageBuilder) Warm(ctx context.Context, r image.WarmRequest) error {
	w := Warm{Dir: r.CacheDir, Events: func(e build.Event) { r.Progress(e) }}
	for _, i := range r.Images {
		w.Images = append(w.Images, i.String())
	}
	_, err := b.app.Warm(ctx, w)
	return err
}
