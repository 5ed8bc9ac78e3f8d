package app

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/build/solver"
	"slipway/internal/oci"
)

// Checked is what came of a check.
type Checked struct {
	// File is the Dockerfile; nil when it cannot be read.
	File *dockerfile.File
	// Warnings are in the order of the file, each once however many platforms it is about.
	Warnings []dockerfile.Warning
}

// Check says what the linter's rules find in a build's Dockerfile, and builds nothing. The warnings found so far come
// with an error, too.
func (a *App) Check(ctx context.Context, r Build) (*Checked, error) {
	if err := r.checkContext(); err != nil {
		return &Checked{}, err
	}
	root, err := filepath.Abs(r.Context)
	if err != nil {
		return &Checked{}, err
	}
	file, ignore, err := readDockerfile(r, root)
	if file == nil {
		return &Checked{}, err
	}
	checked := &Checked{File: file}
	if err != nil {
		checked.Warnings = file.Warnings
		return checked, err
	}
	bases, err := a.bases(r)
	if err != nil {
		return checked, err
	}
	for word := range strings.SplitSeq(r.Platform, ",") {
		var platform oci.Platform
		if word != "" {
			if platform, err = oci.ParsePlatform(strings.TrimSpace(word)); err != nil {
				return checked, err
			}
		}
		found, err := a.newSolver(a.blobs, a.mounts).Check(ctx, solver.Request{
			File: file, Bases: bases, MapRef: r.MapRef, Events: r.Events,
			Plan: plan.Options{
				Target: r.Target, Args: r.Args, Network: r.Network, Ignore: ignore, BuildPlatform: machine(), Platform: platform,
			},
		})
		checked.add(found)
		if err != nil {
			return checked, err
		}
	}
	return checked, nil
}

// add merges the warnings about another platform in.
func (c *Checked) add(found []dockerfile.Warning) {
	for _, w := range found {
		same := func(other dockerfile.Warning) bool { return other.Rule == w.Rule && other.String() == w.String() }
		if !slices.ContainsFunc(c.Warnings, same) {
			c.Warnings = append(c.Warnings, w)
		}
	}
	slices.SortStableFunc(c.Warnings, func(a, b dockerfile.Warning) int { return a.Line - b.Line })
}
