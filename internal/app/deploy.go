package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"slipway/internal/deploy/control"
	"slipway/internal/deploy/project"
	"slipway/internal/deploy/sfile"
	"slipway/internal/errs"
	"slipway/internal/mistake"
)

// Project says which s.yaml to work on, and how.
type Project struct {
	// File is the s.yaml. Default: s.yaml, then s.yml, in the current folder.
	File string
	// Access and Environment beat what the file says.
	Access, Environment string
	// Env gives variables of the environment.
	Env func(string) (string, bool)
	// Resource is the one to work on. Default: all.
	Resource    string
	SkipActions bool
	// Tell hears what goes on; Output gets what the commands of actions write.
	Tell   func(resource, text string)
	Output io.Writer
}

// OpenProject reads and checks the s.yaml. Its mistakes are a mistake.Errors.
func OpenProject(r Project) (*sfile.Project, mistake.Errors, error) {
	data, err := os.ReadFile(r.File)
	if err != nil {
		return nil, nil, fmt.Errorf("read the s.yaml: %w", errs.Mark(err, errs.Invalid))
	}
	beside := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(r.File), path)
	}
	return sfile.Load(r.File, data, sfile.Options{
		ReadFile: func(path string) ([]byte, error) { return os.ReadFile(beside(path)) },
		Abs: func(path string) (string, error) {
			if _, err := os.Stat(beside(path)); err != nil {
				return "", err
			}
			return filepath.Abs(beside(path))
		},
		Env: r.Env, Access: r.Access, Environment: r.Environment,
	})
}

// Functions is what takes orders about the functions of this machine, for a home folder.
func Functions(home string) *control.Client { return control.Dial(FunctionsSocket(home)) }

// deployment says how package project is to deploy.
func (r *Project) deployment(target project.Target) project.Options {
	return project.Options{Target: target, Shell: r.shell, Tell: r.Tell, Only: r.Resource, SkipActions: r.SkipActions}
}

// shell runs a command of an action, which the user wrote into the s.yaml, as the user.
func (r *Project) shell(ctx context.Context, command, dir string) (int, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Dir = filepath.Join(filepath.Dir(r.File), dir)
	cmd.Stdout, cmd.Stderr = r.Output, r.Output
	err := cmd.Run()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("run %q: %w", command, err)
	}
	return 0, nil
}

// Deploy deploys the functions of an s.yaml.
func Deploy(ctx context.Context, p *sfile.Project, r Project, target project.Target) ([]project.Result, error) {
	return project.Deploy(ctx, p, r.deployment(target))
}

// RemoveProject removes the functions of an s.yaml.
func RemoveProject(ctx context.Context, p *sfile.Project, r Project, target project.Target) error {
	return project.Remove(ctx, p, r.deployment(target))
}
