package plan

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"slipway/internal/build/dockerfile"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// scratch is the base that has no files; it is not an image.
const scratch = "scratch"

// planner holds what is common to the stages of one plan.
type planner struct {
	file     *dockerfile.File
	opts     Options
	platform oci.Platform // to build for
	lex      *shell.Lex
	global   *env // what FROM sees
	stages   []*stage
	byName   map[string]*stage
	target   *stage
	all      bool                // every stage is planned, whatever the target needs
	declared map[string]struct{} // names that FROM may use: global ARGs and the platform's
	sought   map[string]struct{} // names that were looked for among the contexts
	lint     *linter.Linter
	warnings []dockerfile.Warning
}

// source is where a stage's base or a COPY's files come from, before images are known.
type source struct {
	kind  SourceKind
	stage *stage
	need  Need
	// name is need's as the Dockerfile writes it, variables expanded.
	name string
	// platform is need's, parsed.
	platform oci.Platform
	image    *Image // of need, once resolved
	context  string // that the name stands for; "" for none
}

// command is an instruction with the sources that it names: that of a COPY's --from, or those of a RUN's mounts, one
// each, nil where there is none.
type command struct {
	instructions.Command
	from []*source
	// onBuild names the base that the instruction is a trigger of, "" if it stands in the Dockerfile.
	onBuild string
}

// stages are those among the sources.
func (c *command) stages() []*stage {
	var list []*stage
	for _, from := range c.from {
		if from != nil && from.stage != nil {
			list = append(list, from.stage)
		}
	}
	return list
}

// newPlanner reads the file. The planner comes with an error, too, for what it has found up to there.
func newPlanner(file *dockerfile.File, opts Options) (*planner, error) {
	p := &planner{
		file: file, opts: opts, platform: opts.Platform, lex: shell.NewLex(file.Escape),
		byName: map[string]*stage{}, declared: map[string]struct{}{}, sought: map[string]struct{}{},
	}
	p.lint = file.Linter(func(w dockerfile.Warning) { p.warnings = append(p.warnings, w) })
	if p.platform.OS == "" {
		p.platform = opts.BuildPlatform
	}
	p.platform = normalizePlatform(p.platform)
	if p.platform.OS != "linux" {
		return p, errs.Mark(fmt.Errorf("platform %s: %w", oci.FormatPlatform(p.platform), errNotLinux), errs.Invalid)
	}
	if err := file.Unsupported(opts.Supports); err != nil {
		return p, err
	}
	args, stages, err := file.Instructions()
	if err != nil {
		return p, err
	}
	return p, p.setUp(args, stages)
}

// setUp finds out what the stages are and how they depend on each other.
func (p *planner) setUp(args []instructions.ArgCommand, stages []instructions.Stage) error {
	p.lintStages(stages)
	p.global = p.platformArgs(stages[len(stages)-1].Name)
	p.lintDefaultBases(args, stages)
	if err := p.globalArgs(args); err != nil {
		return err
	}
	for i := range stages {
		if err := p.addStage(i, &stages[i]); err != nil {
			return err
		}
	}
	if err := p.chooseTarget(); err != nil {
		return err
	}
	for _, s := range p.stages {
		if err := s.link(); err != nil {
			return err
		}
	}
	return p.refuseCycles()
}

// platformArgs are the global arguments that need no ARG before FROM. Build arguments may override them.
func (p *planner) platformArgs(last string) *env {
	build, target, name := normalizePlatform(p.opts.BuildPlatform), p.platform, p.opts.Target
	if name == "" {
		name = last
	}
	if name == "" {
		name = "default"
	}
	e := newEnv()
	for _, kv := range [...][2]string{
		{"BUILDPLATFORM", oci.FormatPlatform(build)},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", oci.FormatPlatform(target)},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", name},
	} {
		if given, ok := p.opts.Args[kv[0]]; ok {
			kv[1] = given
		}
		e.set(kv[0], kv[1])
		p.declared[kv[0]] = struct{}{}
	}
	return e
}

// globalArgs evaluates the ARGs before the first FROM: a build argument wins over the default, which may use the
// arguments before it.
func (p *planner) globalArgs(args []instructions.ArgCommand) error {
	for i := range args {
		for _, arg := range args[i].Args {
			p.declared[arg.Key] = struct{}{}
			value := arg.Value
			if given, ok := p.opts.Args[arg.Key]; ok {
				value = &given
			} else if value != nil {
				v, _, err := p.lex.ProcessWord(*value, p.global)
				if err != nil {
					return p.fail(args[i].Location(), err)
				}
				value = &v
			}
			if value != nil {
				p.global.set(arg.Key, *value)
			}
		}
	}
	return nil
}

// addStage expands a FROM. A base that is the name of a stage before it is that stage.
func (p *planner) addStage(index int, inst *instructions.Stage) error {
	at := inst.Location
	s := &stage{planner: p, inst: inst, index: index, name: inst.Name}
	if s.name == "" {
		s.name = "stage-" + strconv.Itoa(index)
	}
	lint := p.lint.WithMergedConfigFromComments(inst.Comments)
	base, err := p.lex.ProcessWordWithMatches(inst.BaseName, p.global)
	p.lintFrom(base.Unmatched, at, lint)
	switch {
	case err != nil:
		return p.fail(at, err)
	case base.Result == "":
		return p.fail(at, fmt.Errorf("base name (%s) should not be blank", inst.BaseName))
	}
	if s.platform, err = p.stagePlatform(inst, lint); err != nil {
		return err
	}
	if s.base, err = p.source(base.Result, p.byName[base.Result], s.platform); err != nil {
		return p.fail(at, err)
	}
	if inst.Name != "" {
		if from, ok := p.context(inst.Name, s.platform); ok { // stands for the stage
			replaced := *inst
			replaced.Commands = nil
			s.base, s.inst, s.replaced = from, &replaced, true
		}
	}
	p.stages = append(p.stages, s)
	if inst.Name != "" {
		p.byName[strings.ToLower(inst.Name)] = s
	}
	return nil
}

// stagePlatform expands FROM --platform; without one, a stage is for the platform to build for.
func (p *planner) stagePlatform(inst *instructions.Stage, lint *linter.Linter) (oci.Platform, error) {
	if inst.Platform == "" {
		return p.platform, nil
	}
	at := inst.Location
	word, err := p.lex.ProcessWordWithMatches(inst.Platform, p.global)
	p.lintFrom(word.Unmatched, at, lint)
	p.lintPlatform(inst, word, lint)
	if err == nil && word.Result == "" {
		err = suggestAny(fmt.Errorf("empty platform value from expression %s", inst.Platform), word.Unmatched, p.global.keys)
	}
	if err != nil {
		return oci.Platform{}, p.fail(at, err)
	}
	platform, err := parsePlatform(word.Result, normalizePlatform(p.opts.BuildPlatform))
	if err == nil && platform.OS != "linux" {
		err = errNotLinux
	}
	if err != nil {
		err = suggestAny(fmt.Errorf("FROM --platform=%s: %w", inst.Platform, err), word.Unmatched, p.global.keys)
		return oci.Platform{}, p.fail(at, err)
	}
	return platform, nil
}

// source says what a name means: a stage if there is one, else nothing, a build context, or an image for a platform.
func (p *planner) source(name string, s *stage, platform oci.Platform) (source, error) {
	switch {
	case s != nil:
		return s.asSource(), nil
	case name == scratch:
		return source{kind: FromScratch}, nil
	}
	if from, ok := p.context(name, platform); ok {
		return from, nil
	}
	r, err := ref.Parse(name)
	if err != nil {
		return source{}, err
	}
	need := Need{Ref: r.String(), Platform: oci.FormatPlatform(platform)}
	return source{kind: FromImage, need: need, name: name, platform: platform}, nil
}

// chooseTarget finds the stage to build.
func (p *planner) chooseTarget() error {
	p.target = p.stages[len(p.stages)-1]
	if p.opts.Target == "" {
		return nil
	}
	var ok bool
	if p.target, ok = p.byName[strings.ToLower(p.opts.Target)]; ok {
		return nil
	}
	names := make([]string, len(p.stages))
	for i, s := range p.stages {
		names[i] = s.name
	}
	err := fmt.Errorf("target stage %q could not be found%s", p.opts.Target, dockerfile.DidYouMean(p.opts.Target, names))
	hint := "the stages of " + p.file.Name + " are " + strings.Join(names, ", ")
	return errs.Hint(errs.Mark(err, errs.Invalid), hint)
}

// refuseCycles finds stages that copy from each other, whether the target needs them or not.
func (p *planner) refuseCycles() error {
	done := map[*stage]bool{} // false while on the path
	var visit func(s *stage) (*stage, *command)
	visit = func(s *stage) (*stage, *command) {
		done[s] = false
		for i := range s.commands {
			c := &s.commands[i]
			for _, dep := range c.stages() {
				if finished, seen := done[dep]; seen && !finished {
					return s, c
				} else if !seen {
					if bad, cmd := visit(dep); bad != nil {
						return bad, cmd
					}
				}
			}
		}
		done[s] = true
		return nil, nil
	}
	for _, s := range p.stages {
		if _, seen := done[s]; seen {
			continue
		}
		if bad, c := visit(s); bad != nil {
			return p.fail(c.Location(), fmt.Errorf("circular dependency detected on stage: %s", bad.name))
		}
	}
	return nil
}

// reachable returns the stages to plan, in the order of the Dockerfile: those that the target needs, or all.
func (p *planner) reachable() []*stage {
	if p.all {
		return p.stages
	}
	needed := map[*stage]bool{}
	var visit func(s *stage)
	visit = func(s *stage) {
		if s == nil || needed[s] {
			return
		}
		needed[s] = true
		visit(s.base.stage)
		for _, c := range s.commands {
			for _, dep := range c.stages() {
				visit(dep)
			}
		}
	}
	visit(p.target)
	return slices.DeleteFunc(slices.Clone(p.stages), func(s *stage) bool { return !needed[s] })
}

// sources calls yield for every base and --from of stages.
func sources(stages []*stage, yield func(*source)) {
	for _, s := range stages {
		yield(&s.base)
		for _, c := range s.commands {
			for _, from := range c.from {
				if from != nil {
					yield(from)
				}
			}
		}
	}
}

// missing returns the images that stages need and images lacks.
func (p *planner) missing(stages []*stage, images map[Need]Image) []Need {
	var needs []Need
	sources(stages, func(s *source) {
		if s.kind != FromImage {
			return
		}
		if _, ok := images[s.need]; !ok && !slices.Contains(needs, s.need) {
			needs = append(needs, s.need)
		}
	})
	return needs
}

// resolve fills in the images, and adds triggers until they ask for nothing new.
func (p *planner) resolve(images map[Need]Image) error {
	for {
		stages := p.reachable()
		if needs := p.missing(stages, images); len(needs) > 0 {
			return &NeedImages{Refs: needs}
		}
		sources(stages, func(s *source) {
			if s.kind == FromImage {
				image := images[s.need]
				s.image = &image
			}
		})
		more := false
		for _, s := range stages {
			added, err := s.addTriggers()
			if err != nil {
				return err
			}
			more = more || added
		}
		if !more {
			return nil
		}
		if err := p.refuseCycles(); err != nil {
			return err
		}
	}
}

// fail places an error at an instruction.
func (p *planner) fail(at []parser.Range, err error) error { return p.file.Place(err, at) }

// suggestAny adds a "did you mean" for the first variable that resembles one that exists.
func suggestAny(err error, names map[string]struct{}, known []string) error {
	for _, name := range sortedKeys(names) {
		if better := dockerfile.DidYouMean(name, known); better != "" {
			return fmt.Errorf("%w%s", err, better)
		}
	}
	return err
}

var errFromVariable = errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
