// Package project deploys what an s.yaml describes: its functions in their order, and the actions around them.
//
//	err := project.Deploy(ctx, p, project.Options{Target: target, Shell: shell, Tell: tell})
package project

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/deploy/function"
	"slipway/internal/deploy/sfile"
	"slipway/internal/errs"
)

// Target is where functions are deployed.
type Target interface {
	Deploy(ctx context.Context, f function.Function, tell func(string)) (function.Deployed, error)
	Info(ctx context.Context, name string) (function.Deployed, error)
	Remove(ctx context.Context, name string) error
}

// Options say where to deploy, and how.
type Options struct {
	Target Target
	// Shell runs the commands of actions in a folder relative to the s.yaml's, and returns their exit code.
	Shell func(ctx context.Context, command, dir string) (int, error)
	// Tell hears what goes on, with the resource it is about, from several goroutines at once.
	Tell func(resource, text string)
	// Only names the one resource to work on. Default: all.
	Only string
	// SkipActions leaves the actions out.
	SkipActions bool
}

// Result is what is deployed for one resource.
type Result struct {
	Resource string            `json:"resource"`
	Function function.Deployed `json:"function"`
}

// ActionError says that a command of an action ended badly.
type ActionError struct {
	Place, Command string
	Code           int
}

// Error names the action's place, its command, and the code.
func (e *ActionError) Error() string {
	return fmt.Sprintf("%s: %q ended with exit code %d", e.Place, e.Command, e.Code)
}

// ExitCode is the code the command ended with.
func (e *ActionError) ExitCode() int { return e.Code }

type work struct {
	project *sfile.Project
	opts    Options
	command string

	mu      sync.Mutex
	outputs map[string]map[string]any
	results []Result
}

// Deploy deploys the resources, and returns what came of those that were deployed, in the order of the file, also beside an
// error. One that fails lets those of its group finish, and no other begins.
func Deploy(ctx context.Context, p *sfile.Project, opts Options) ([]Result, error) {
	return do(ctx, p, opts, "deploy", func(ctx context.Context, w *work, name string, f function.Function) error {
		d, err := opts.Target.Deploy(ctx, f, func(text string) { opts.Tell(name, text) })
		if err != nil {
			return err
		}
		w.done(name, d)
		return nil
	})
}

// Remove removes the resources, those first that others were deployed after last. What is not there is no error.
func Remove(ctx context.Context, p *sfile.Project, opts Options) error {
	_, err := do(ctx, p, opts, "remove", func(ctx context.Context, _ *work, name string, f function.Function) error {
		err := opts.Target.Remove(ctx, f.Name)
		if errors.Is(err, errs.NotFound) {
			opts.Tell(name, "is not deployed")
			return nil
		}
		return err
	})
	return err
}

// Functions gives each resource's function, and its notices, as far as they can be told without deploying. Outputs that a
// function takes from others are those that are deployed now.
func Functions(ctx context.Context, p *sfile.Project, opts Options, visit func(resource string, f function.Function, notices []string) error) error {
	w := &work{project: p, opts: opts, outputs: map[string]map[string]any{}}
	names, err := w.names()
	if err != nil {
		return err
	}
	w.know(ctx)
	for _, name := range names {
		f, notices, err := w.function(name)
		if err != nil {
			return err
		}
		if err := visit(name, f, notices); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) names() ([]string, error) {
	var names []string
	for _, r := range w.project.Resources {
		if w.opts.Only == "" || r.Name == w.opts.Only {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no resource is called %s: %w", w.opts.Only, errs.Invalid)
	}
	return names, nil
}

// know takes the outputs of what is deployed already, for resources that are worked on without those they refer to.
func (w *work) know(ctx context.Context) {
	for _, r := range w.project.Resources {
		props, err := w.project.Props(r.Name, w.outputs)
		if err != nil {
			continue // it is told when the resource itself is worked on
		}
		if name, ok := props["functionName"].(string); ok {
			if d, err := w.opts.Target.Info(ctx, name); err == nil {
				w.outputs[r.Name] = output(d)
			}
		}
	}
}

func do(ctx context.Context, p *sfile.Project, opts Options, command string, one func(context.Context, *work, string, function.Function) error) ([]Result, error) {
	w := &work{project: p, opts: opts, command: command, outputs: map[string]map[string]any{}}
	if _, err := w.names(); err != nil {
		return nil, err
	}
	w.know(ctx)
	err := w.around(ctx, "", func() error {
		groups := p.Steps(command)
		if command == "remove" {
			slices.Reverse(groups)
		}
		for _, group := range groups {
			var all errgroup.Group // not of a context: those that run may finish
			for _, name := range group {
				if opts.Only == "" || opts.Only == name {
					all.Go(func() error { return w.resource(ctx, name, one) })
				}
			}
			if err := all.Wait(); err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(w.results, func(a, b Result) int { return w.index(a.Resource) - w.index(b.Resource) })
	return w.results, err
}

func (w *work) index(name string) int {
	return slices.IndexFunc(w.project.Resources, func(r sfile.Resource) bool { return r.Name == name })
}

func (w *work) resource(ctx context.Context, name string, one func(context.Context, *work, string, function.Function) error) error {
	err := w.around(ctx, name, func() error {
		f, notices, err := w.function(name)
		if err != nil {
			return err
		}
		for _, text := range notices {
			w.opts.Tell(name, text)
		}
		return one(ctx, w, name, f)
	})
	if err != nil {
		return fmt.Errorf("resource %s: %w", name, err)
	}
	return nil
}

func (w *work) function(name string) (function.Function, []string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if access := w.project.Resource(name).Access; access != "default" && access != "host" {
		err := fmt.Errorf("access %s: there is no such target: %w", access, errs.Invalid)
		return function.Function{}, nil, errs.Hint(err, "functions are deployed on this machine: access: default, or --access host")
	}
	props, err := w.project.Props(name, w.outputs)
	if err != nil {
		return function.Function{}, nil, err
	}
	return function.FromProps(props)
}

func (w *work) done(name string, d function.Deployed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs[name] = output(d)
	w.results = append(w.results, Result{Resource: name, Function: d})
}

// output is what ${resources.NAME.output.…} sees.
func output(d function.Deployed) map[string]any {
	f := d.Latest.Function
	return map[string]any{
		"region": f.Region, "functionName": f.Name, "memorySize": f.Memory, "timeout": int64(f.Timeout), "description": f.Description,
		"customContainerConfig": map[string]any{"image": f.Image, "port": int64(f.Port)},
		"url":                   map[string]any{"system_url": d.URL},
	}
}

// around does work between the actions of a resource, or of the file as a whole.
func (w *work) around(ctx context.Context, resource string, do func() error) error {
	err := w.actions(ctx, sfile.Pre, resource)
	if err == nil {
		err = do()
	}
	after := sfile.Success
	if err != nil {
		after = sfile.Fail
	}
	return errors.Join(err, w.actions(ctx, after, resource), w.actions(ctx, sfile.Complete, resource))
}

func (w *work) actions(ctx context.Context, phase sfile.Phase, resource string) error {
	if w.opts.SkipActions {
		return nil
	}
	w.mu.Lock()
	list, err := w.project.Actions(phase, w.command, resource, w.outputs)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	for i := range list {
		a := &list[i]
		switch {
		case a.Component != "":
			err := fmt.Errorf("%s: the action %q: slipway builds images with build-image-task: %w", a.Place, a.Component, errs.Invalid)
			return errs.Hint(err, "remove the action, or deploy with --skip-actions")
		case a.Plugin != "":
			err := fmt.Errorf("%s: the plugin %s has no meaning here: %w", a.Place, a.Plugin, errs.Invalid)
			return errs.Hint(err, "use a run action, or a step of a pipeline; --skip-actions leaves actions out")
		}
		w.opts.Tell(resource, a.Run)
		code, err := w.opts.Shell(ctx, a.Run, a.Path)
		if err == nil && code != 0 {
			err = &ActionError{Place: a.Place, Command: a.Run, Code: code}
		}
		if err != nil && ctx.Err() == nil && a.Allows(w.command, code) {
			w.opts.Tell(resource, err.Error()+", which is allowed")
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
