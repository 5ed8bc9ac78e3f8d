// Package plan turns a parsed Dockerfile and build arguments into a graph of operations with nothing left to decide:
// variables expanded, paths made absolute, stages and base images resolved, configs computed.
//
// It means what BuildKit's dockerfile2llb means, except that it plans only what the target needs. It is pure: the same
// input gives the same graph, and everything that determines what an operation does is in its fields, so that a cache
// key is a digest over them and over the content they name.
//
//	needs, err := plan.Images(file, opts)          // which base images to resolve
//	graph, err := plan.New(file, opts, images)     // a *NeedImages when ONBUILD asks for more: resolve, call again
//
// A stage has a base (nothing, another stage or an image) and steps. A step with an operation makes or may make a layer;
// a step without one only changed the config. The graph's stages come in an order in which they can be built.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"slipway/internal/build/dockerfile"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Options are a build's choices. The zero value builds the last stage for an unnamed platform: set at least
// BuildPlatform.
type Options struct {
	// Target is the stage to build, by name in any case. Default: the last.
	Target string
	// Args are the build arguments.
	Args map[string]string
	// Labels are added to the target's config, over those of the Dockerfile.
	Labels map[string]string
	// BuildPlatform is the machine's, for BUILDPLATFORM and FROM --platform=$BUILDPLATFORM.
	BuildPlatform oci.Platform
	// Platform is what to build for. Default: BuildPlatform, and the image keeps its base's platform.
	Platform oci.Platform
	// Network is for every RUN that asks for none itself: NetworkDefault, NetworkNone or NetworkHost.
	Network string
	// Supports are the features beyond the classic language that whoever builds the plan can do. A file that asks for
	// another is refused. Default: none.
	Supports []dockerfile.Feature
	// Contexts are what names of FROM, --from and mounts stand for besides stages and images, which they stand before. The
	// keys are those that ContextName returns. Default: none.
	Contexts map[string]Context
	// Ignore is the context's ignore file, only to warn about a COPY of what it hides. Default: no such warning.
	Ignore *dockerfile.Ignore
}

// Need names an image that a plan needs. It is comparable, a key of the map that New takes.
type Need struct {
	Ref      string // normalized, as oci/ref prints it
	Platform string // os/arch[/variant]
	// Context is the named context that has the image; "" for a registry.
	Context string
}

// Image is a resolved Need.
type Image struct {
	Ref    string     // as in the Need
	Digest oci.Digest // of the platform's manifest
	Config oci.Image
	// Unknown says that the config could not be read. Lint alone takes such an image.
	Unknown bool
}

// NeedImages says that New cannot go on before more images are resolved. ONBUILD triggers of a base can ask for images
// that nobody could know of before its config was read.
type NeedImages struct {
	Refs []Need // in the order of the Dockerfile, each once
}

func (e *NeedImages) Error() string {
	refs := make([]string, len(e.Refs))
	for i, n := range e.Refs {
		refs[i] = n.Ref
	}
	return "images not resolved: " + strings.Join(refs, ", ")
}

// Unwrap gives the error its kind.
func (e *NeedImages) Unwrap() error { return errs.NotFound }

// Graph is what a build does.
type Graph struct {
	// Stages are those that the target needs, each after all that it needs itself; the target is the last.
	Stages []*Stage
	Target *Stage
	// Warnings are those of the file and what planning found, in the order of the file.
	Warnings []dockerfile.Warning
}

// Images returns the images that the target's stages and COPY --from name, in the order of the Dockerfile, each once.
// Triggers of a base image may need more: see NeedImages.
func Images(file *dockerfile.File, opts Options) ([]Need, error) {
	p, err := newPlanner(file, opts)
	if err != nil {
		return nil, err
	}
	return p.missing(p.reachable(), nil), nil
}

// New plans the build of a target. Images must hold what Images returned; what is missing, or what triggers need
// besides, comes back as a *NeedImages. Every other error is a mistake in the Dockerfile or the options, with its place.
func New(file *dockerfile.File, opts Options, images map[Need]Image) (*Graph, error) {
	p, err := newPlanner(file, opts)
	if err != nil {
		return nil, err
	}
	if err := p.resolve(images); err != nil {
		return nil, err
	}
	g := &Graph{}
	for _, s := range p.reachable() {
		if err := s.plan(); err != nil {
			return nil, err
		}
		if s.unknown {
			return nil, fmt.Errorf("[bug] the config of the base of stage %s is not known: %w", s.name, errs.NotFound)
		}
		g.Stages = append(g.Stages, s.out)
		if s == p.target {
			g.Target = s.out
		}
	}
	p.finish(g.Target)
	p.unusedArgs()
	p.unusedContexts()
	g.Warnings = p.allWarnings()
	if file.Check.ReturnAsError {
		if err := lintError(g.Warnings); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// allWarnings are those of the file and what planning found, in the order of the file.
func (p *planner) allWarnings() []dockerfile.Warning {
	list := slices.Concat(p.file.Warnings, p.warnings)
	slices.SortStableFunc(list, func(a, b dockerfile.Warning) int { return cmp.Compare(a.Line, b.Line) })
	return list
}

// lintError turns warnings into errors, as a check directive with error=true asks.
func lintError(warnings []dockerfile.Warning) error {
	var wrong dockerfile.Errors
	for _, w := range warnings {
		if w.Rule == "" {
			continue
		}
		wrong = append(wrong, &dockerfile.Error{
			File: w.File, Line: w.Line, Col: w.Col, Msg: w.Rule + ": " + w.Msg,
			Hint:   "the check directive makes warnings errors; it can skip a rule too: # check=skip=" + w.Rule,
			Source: w.Source,
		})
	}
	if len(wrong) == 0 {
		return nil
	}
	return wrong
}

// finish applies what concerns the target alone.
func (p *planner) finish(target *Stage) {
	image := &target.Config
	for k, v := range p.opts.Labels {
		if image.Config.Labels == nil {
			image.Config.Labels = map[string]string{}
		}
		image.Config.Labels[k] = v
	}
	if p.opts.Platform.OS != "" {
		setPlatform(&image.Platform, p.platform)
	}
	image.Platform = normalizePlatform(image.Platform)
}

// setPlatform states the platform that was asked for, and keeps what the base says more precisely.
func setPlatform(image *oci.Platform, asked oci.Platform) {
	same := image.OS == asked.OS && image.Architecture == asked.Architecture
	image.OS, image.Architecture = asked.OS, asked.Architecture
	if asked.Variant != "" || !same {
		image.Variant = asked.Variant
	}
	if asked.OSVersion != "" || !same {
		image.OSVersion = asked.OSVersion
	}
	if asked.OSFeatures != nil {
		image.OSFeatures = asked.OSFeatures
	}
}

// unusedArgs warns about build arguments that no ARG of the file mentions, in whatever stage.
func (p *planner) unusedArgs() {
	if len(p.opts.Args) == 0 {
		return
	}
	declared := maps.Clone(p.declared)
	for _, s := range p.stages {
		for _, c := range s.commands {
			if cmd, ok := c.Command.(*instructions.ArgCommand); ok {
				for _, arg := range cmd.Args {
					declared[arg.Key] = struct{}{}
				}
			}
		}
	}
	var unused []string
	for _, name := range sortedKeys(p.opts.Args) {
		if _, ok := declared[name]; !ok && !predefined(name) {
			unused = append(unused, name)
		}
	}
	if len(unused) > 0 {
		p.warnings = append(p.warnings, dockerfile.Warning{
			File: p.file.Name,
			Msg:  fmt.Sprintf("one or more build-args [%s] were not consumed: no ARG names them", strings.Join(unused, " ")),
		})
	}
}
