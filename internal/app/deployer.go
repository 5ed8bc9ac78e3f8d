package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"slipway/internal/deploy/control"
	"slipway/internal/deploy/function"
	"slipway/internal/deploy/project"
	"slipway/internal/deploy/sfile"
	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/task/serverless"
)

// deployer deploys functions for steps of pipelines: to this machine, images from where the pipeline pushes them.
type deployer struct {
	functions *control.Client
	mapRef    func(ref.Ref) ref.Ref
}

var _ serverless.Deployer = deployer{}

func (d deployer) Deploy(ctx context.Context, r serverless.Deployment) (_ []serverless.Deployed, err error) {
	root, err := os.OpenRoot(r.Root)
	if err != nil {
		return nil, fmt.Errorf("open the task's files: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	// A repository's s.yaml reads the repository, and nothing else of the machine.
	read := func(path string) ([]byte, error) {
		f, err := root.Open(filepath.Join(filepath.Dir(r.File), path))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readSome(f)
	}
	data, err := read(filepath.Base(r.File))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("the deploy manifest [%s] does not exist: %w", r.File, errs.Invalid)
		return nil, errs.Hint(err, "check the repository out first, or name the file with context.data.deployFile")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.File, err)
	}
	environment := r.Environment
	if _, err := read("env.yaml"); errors.Is(err, fs.ErrNotExist) {
		environment = "" // an application's environment need not be one of its s.yaml's
	}
	p, warnings, err := sfile.Load(r.File, data, sfile.Options{
		ReadFile: read,
		Abs: func(path string) (string, error) {
			inside := filepath.Join(filepath.Dir(r.File), path)
			if _, err := root.Stat(inside); err != nil {
				return "", err
			}
			return filepath.Join(serverless.Workspace, inside), nil
		},
		Env:    func(name string) (string, bool) { v, ok := r.Env[name]; return v, ok },
		Access: r.Access, Environment: environment,
	})
	for _, w := range warnings {
		r.Tell(w.Error())
	}
	if err != nil {
		return nil, err
	}
	results, err := project.Deploy(ctx, p, project.Options{
		Target: mappedTarget{d}, Only: r.Resource, SkipActions: r.SkipActions,
		Shell: func(ctx context.Context, command, dir string) (int, error) {
			return r.Shell(ctx, command, filepath.Join(filepath.Dir(r.File), dir))
		},
		Tell: func(resource, text string) {
			if resource != "" {
				text = resource + ": " + text
			}
			r.Tell(text)
		},
	})
	out := make([]serverless.Deployed, 0, len(results))
	for _, one := range results {
		f := one.Function.Latest.Function
		out = append(out, serverless.Deployed{Resource: one.Resource, Function: f.Name, Image: f.Image, URL: one.Function.URL})
	}
	return out, err
}

// mappedTarget deploys images from the registries that the pipeline's are mapped to.
type mappedTarget struct{ deployer }

func (m mappedTarget) Deploy(ctx context.Context, f function.Function, tell func(string)) (function.Deployed, error) {
	r, err := ref.Parse(f.Image)
	if err != nil {
		return function.Deployed{}, err
	}
	f.Image = m.mapRef(r).String()
	return m.functions.Deploy(ctx, f, tell)
}

func (m mappedTarget) Info(ctx context.Context, name string) (function.Deployed, error) {
	return m.functions.Info(ctx, name)
}

func (m mappedTarget) Remove(ctx context.Context, name string) error {
	return m.functions.Remove(ctx, name)
}

func (d deployer) Canary(ctx context.Context, name, alias string, share float64) (string, error) {
	was, err := d.functions.Info(ctx, name)
	if err != nil {
		return "", err
	}
	v, err := d.functions.Publish(ctx, name, "canary of "+alias)
	if err != nil {
		return "", err
	}
	next := function.Alias{Name: alias, Version: v.ID}
	if old := aliasOf(was, alias); old != nil && share < 1 {
		next.Version, next.Additional, next.Weight = old.Version, v.ID, share
	}
	return v.ID, d.functions.SetAlias(ctx, name, next)
}

func (d deployer) Release(ctx context.Context, name, alias string) (string, error) {
	was, err := d.functions.Info(ctx, name)
	if err != nil {
		return "", err
	}
	old := aliasOf(was, alias)
	if old == nil {
		return "", fmt.Errorf("function %s: alias %s: %w", name, alias, errs.NotFound)
	}
	version := old.Version
	if old.Additional != "" {
		version = old.Additional
	}
	return version, d.functions.SetAlias(ctx, name, function.Alias{Name: alias, Version: version})
}

func aliasOf(d function.Deployed, name string) *function.Alias {
	for i := range d.Aliases {
		if d.Aliases[i].Name == name {
			return &d.Aliases[i]
		}
	}
	return nil
}

// readSome reads a file of a repository, within the bound on what an s.yaml may have.
func readSome(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > sfile.MaxSize || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file of at most %d bytes: %w", f.Name(), sfile.MaxSize, errs.Invalid)
	}
	data := make([]byte, info.Size())
	_, err = f.ReadAt(data, 0)
	return data, err
}
