package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/solver"
	"slipway/internal/debian"
	"slipway/internal/errs"
	"slipway/internal/forge/git"
	"slipway/internal/isolation"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
	"slipway/internal/task/image"
	"slipway/internal/task/serverless"
)

// stepWorker returns the worker of serverless-runner-task.
func (a *App) stepWorker(p *Prepared, mapRef func(ref.Ref) ref.Ref) (*serverless.Worker, error) {
	values, err := a.secrets(p.secrets)
	if err != nil {
		return nil, err
	}
	opts := serverless.Options{
		Rooms: rooms{a}, Git: gitFacts(variables(p.Repository, a.opts.Now())),
		Secrets: map[string]string{}, CloudSecrets: map[string]string{},
		Account: serverless.Account{
			ID:              a.opts.Getenv("ALIBABA_CLOUD_ACCOUNT_ID"),
			AccessKeyID:     a.opts.Getenv("ALIBABA_CLOUD_ACCESS_KEY_ID"),
			AccessKeySecret: a.opts.Getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
			SecurityToken:   a.opts.Getenv("ALIBABA_CLOUD_SECURITY_TOKEN"),
		},
		Deployer: deployer{Functions(a.opts.Home), mapRef},
		Fetcher:  fetcher{}, Cache: filepath.Join(a.opts.Home, "step-cache"), Now: a.opts.Now,
	}
	for id, value := range values {
		opts.Secrets[id] = strings.TrimSuffix(strings.TrimSuffix(string(value), "\n"), "\r") // of a file's last line
	}
	return serverless.New(opts), nil
}

// gitFacts are the variables git.x, by x.
func gitFacts(variables map[string]string) map[string]string {
	facts := map[string]string{}
	for name, value := range variables {
		if x, ok := strings.CutPrefix(name, "git."); ok {
			facts[x] = value
		}
	}
	return facts
}

// fetcher fetches repositories for checkout.
type fetcher struct{}

var _ serverless.Fetcher = fetcher{}

func (fetcher) Fetch(ctx context.Context, f serverless.Fetch, dir string) error {
	return git.FetchInto(ctx, git.Fetch{URL: f.URL, Ref: f.Ref, Commit: f.Commit, User: f.User, Token: f.Token}, dir)
}

func (fetcher) Head(ctx context.Context, dir string) (string, error) { return git.Head(ctx, dir) }

// rooms are the root file systems of steps: an image's, or one made of this machine's own packages.
type rooms struct{ app *App }

var _ serverless.Rooms = rooms{}

func (r rooms) Open(ctx context.Context, o serverless.OpenRoom) (_ serverless.Room, err error) {
	events := func(e build.Event) { o.Progress(e) }
	w, err := r.app.begin(ctx, events)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = r.app.hintFull(errors.Join(err, w.end(true)))
		}
	}()
	open := solver.OpenSession{
		Platform: machine(), Counted: o.Counted, Events: events,
		Limits: solver.Limits{Memory: o.Limits.Memory, CPUs: o.Limits.CPUs, Disk: o.Limits.Disk, Of: o.LimitsOf},
	}
	for _, b := range o.Binds {
		open.Mounts = append(open.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: b.Folder, Target: b.Dir})
	}
	if r.app.opts.Isolation.Kind == isolation.PrivateRoot && len(o.Binds) > ownBinds {
		err := errors.New("isolation chroot cannot show network folders to steps: what it mounts it moves")
		return nil, errs.Hint(errs.Mark(err, errs.Invalid), "run with --isolation namespaces; see slipway doctor")
	}
	if name := r.app.opts.Config.RunnerImage; name != "" {
		written, err := ref.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("runner image: %w", errs.Mark(err, errs.Invalid))
		}
		open.Image = image.MapRegistry(r.app.opts.Config.MapRegistry)(written).String()
	} else if open.Root, err = r.app.machineRoot(ctx, w, o.Notice); err != nil {
		return nil, err
	}
	session, err := w.solver.Open(ctx, open)
	if err != nil {
		return nil, err
	}
	return &room{app: r.app, session: session, work: w}, nil
}

// ownBinds is how many folders every room has: the workspace, and the files of the step.
const ownBinds = 2

// machineRoot returns a layer folder made of the Debian packages of this machine, and makes it when it is missing.
func (a *App) machineRoot(ctx context.Context, w *work, notice func(string)) (_ snapshot.ID, err error) {
	db, err := debian.Read("/")
	if errors.Is(err, errs.NotFound) || errors.Is(err, fs.ErrPermission) {
		err := fmt.Errorf("this machine has no Debian packages to make one of: %w", errs.Mark(err, errs.Invalid))
		return "", errs.Hint(err, "name an image with --runner-image, or runnerImage in config.yaml")
	}
	if err != nil {
		return "", err
	}
	packages := db.Select(a.opts.Tools)
	key := digest.NewDigestFromEncoded(digest.SHA256, debian.Key(packages))
	id, err := a.snapshots.Lookup(ctx, key)
	if err == nil || !errors.Is(err, errs.NotFound) {
		return id, err
	}
	unlock, err := w.solver.Lock(ctx, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	id, err = a.snapshots.Lookup(ctx, key) // somebody else may have made it meanwhile
	if err == nil || !errors.Is(err, errs.NotFound) {
		return id, err
	}
	notice(fmt.Sprintf("making a root file system of %d Debian packages of this machine, once", len(packages)))
	return a.copyPackages(ctx, db, packages, key)
}

func (a *App) copyPackages(ctx context.Context, db *debian.Database, packages []*debian.Package, key oci.Digest) (_ snapshot.ID, err error) {
	draft, err := a.snapshots.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, draft.Discard()) }()
	if err := db.Copy(ctx, packages, draft.Dir()); err != nil {
		return "", err
	}
	if err := draft.Publish(ctx, key); err != nil {
		return "", err
	}
	return draft.ID(), nil
}

// room is a session of the solver.
type room struct {
	app     *App
	session *solver.Session
	work    *work
	failed  bool
}

func (r *room) Env() []string { return r.session.Env() }

func (r *room) Run(ctx context.Context, p serverless.Process) (int, error) {
	result, err := r.session.Run(ctx, solver.Process{
		Args: p.Args, Env: p.Env, Dir: p.Dir, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr,
	})
	r.failed = r.failed || err != nil
	return result.ExitCode, r.app.hintFull(err)
}

func (r *room) Close() error {
	err := r.session.Close()
	return errors.Join(err, r.work.end(r.failed || err != nil))
}

// secretNames are the names of secrets, for a look at a pipeline that must not need their values.
func secretNames(list []Secret) map[string]string {
	names := map[string]string{}
	for _, s := range list {
		names[s.ID] = ""
	}
	return names
}
