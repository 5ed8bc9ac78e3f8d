package app

import (
	"context"
	"errors"
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
func (a *App) Check(ctx context.Context, r Build) (_ *Checked, err error) {
	w, err := a.begin(ctx, r.Events) // a context that is fetched is kept
	if err != nil {
		return &Checked{}, err
	}
	defer func() { err = errors.Join(err, w.end(err != nil)) }()
	in, closeInputs, err := w.open(ctx, &r)
	if err != nil {
		if in == nil || in.file == nil {
			return &Checked{}, err
		}
		return &Checked{File: in.file, Warnings: in.file.Warnings}, err
	}
	defer func() { err = errors.Join(err, closeInputs()) }()
	checked := &Checked{File: in.file}
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
		found, err := w.solver.Check(ctx, solver.Request{
			File: in.file, Steps: r.steps, Contexts: in.contexts, Bases: bases, MapRef: r.MapRef, Events: r.Events,
			Plan: plan.Options{
				Target: r.Target, Args: r.Args, Network: r.Network, Contexts: in.stand, Ignore: in.ignore, BuildPlatform: machine(), Platform: platform,
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
