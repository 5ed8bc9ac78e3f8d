package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"slipway/internal/oci"
)

// defaultPath is the PATH of images that have none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// stage is a Stage in the making.
type stage struct {
	*planner
	inst      *instructions.Stage
	index     int
	name      string
	platform  oci.Platform
	base      source
	commands  []command
	triggered bool // addTriggers was here
	replaced  bool // a build context has the stage's name: base is all that there is
	unknown   bool // the config of the image at the bottom could not be read

	out   *Stage
	image *oci.Image                          // out.Config
	env   *env                                // what variables expand to and RUN gets
	dir   string                              // what relative paths start from
	args  []instructions.KeyValuePairOptional // the ARGs so far, for RUN's history
	total int                                 // steps that have a number
	count int

	workdirSet  bool
	cmd         tracker
	entrypoint  tracker
	healthcheck tracker
}

// tracker remembers the last instruction of which a stage should have one.
type tracker struct {
	set bool
	at  []parser.Range
}

// link finds the sources that the instructions' --from name.
func (s *stage) link() error {
	s.commands = make([]command, len(s.inst.Commands))
	for i, c := range s.inst.Commands {
		linked, err := s.linkCommand(c)
		if err != nil {
			return s.fail(c.Location(), err)
		}
		s.commands[i] = linked
	}
	return nil
}

func (s *stage) linkCommand(c instructions.Command) (command, error) {
	switch cmd := c.(type) {
	case *instructions.CopyCommand:
		return s.linkCopy(cmd)
	case *instructions.RunCommand:
		return s.linkMounts(cmd)
	}
	return command{Command: c}, nil
}

func (s *stage) linkCopy(c *instructions.CopyCommand) (command, error) {
	if c.From == "" {
		return command{Command: c}, nil
	}
	word, _, err := s.lex.ProcessWord(c.From, newEnv())
	switch {
	case err != nil:
		return command{}, err
	case word != c.From:
		return command{}, errFromVariable
	}
	from, err := s.named(c.From)
	if err != nil {
		return command{}, err
	}
	return command{Command: c, from: []*source{&from}}, nil
}

// linkMounts finds what the mounts' from= name. Unlike COPY's --from, they know no stage by its number.
func (s *stage) linkMounts(c *instructions.RunCommand) (command, error) {
	linked := command{Command: c}
	for _, m := range instructions.GetMounts(c) {
		if m.From == "" {
			linked.from = append(linked.from, nil)
			continue
		}
		from, err := s.source(m.From, s.byName[strings.ToLower(m.From)], s.planner.platform)
		if err != nil {
			return command{}, err
		}
		linked.from = append(linked.from, &from)
	}
	return linked, nil
}

// named finds the stage or image that a --from means: a number is a stage's index, a name is a stage's if there is one.
func (s *stage) named(name string) (source, error) {
	index, err := strconv.Atoi(name)
	if err != nil {
		return s.source(name, s.byName[strings.ToLower(name)], s.planner.platform)
	}
	if index < 0 || index >= len(s.stages) {
		return source{}, fmt.Errorf("invalid stage index %d", index)
	}
	return s.stages[index].asSource(), nil
}

// asSource is the stage as what others take files from.
func (s *stage) asSource() source {
	if s.replaced {
		return s.base
	}
	return source{kind: FromStage, stage: s}
}

// addTriggers puts the ONBUILD instructions of the base before the stage's own. It reports whether they need sources.
func (s *stage) addTriggers() (bool, error) {
	if s.triggered {
		return false, nil
	}
	s.triggered = true
	name, triggers := s.triggers()
	commands := make([]command, 0, len(triggers)+len(s.commands))
	more := false
	for _, expression := range triggers {
		c, err := s.file.Trigger(expression, s.inst.Location, s.opts.Supports)
		if err != nil {
			return false, onBuildError(err, name)
		}
		linked, err := s.linkCommand(c)
		if err != nil {
			return false, onBuildError(s.fail(s.inst.Location, err), name)
		}
		linked.onBuild = name
		more = more || len(linked.from) > 0
		commands = append(commands, linked)
	}
	s.commands = append(commands, s.commands...)
	return more, nil
}

// triggers returns the ONBUILD expressions of the base: those of an image's config, or the instructions of a stage.
func (s *stage) triggers() (name string, expressions []string) {
	switch s.base.kind {
	case FromImage:
		return s.base.need.Ref, s.base.image.Config.Config.OnBuild
	case FromStage:
		for _, c := range s.base.stage.commands {
			if on, ok := c.Command.(*instructions.OnbuildCommand); ok {
				expressions = append(expressions, on.Expression)
			}
		}
		return "stage " + s.base.stage.name, expressions
	}
	return "", nil
}

// plan turns the instructions into steps. The stages that s needs are planned already, unless they come later in the
// file, which is an error.
func (s *stage) plan() error {
	s.begin()
	for _, c := range s.commands {
		s.env.missed = false
		err := s.dispatch(c)
		if s.unknown && s.env.missed {
			continue // it may be right, with what the base sets
		}
		if err != nil {
			return onBuildError(s.fail(c.Location(), err), c.onBuild)
		}
	}
	return nil
}

// begin takes over what the base leaves to the stage.
func (s *stage) begin() {
	line, col := s.file.Position(s.inst.Location)
	s.out = &Stage{Index: s.index, Name: s.name, Line: line, Col: col, Platform: s.platform, Base: s.base.resolved()}
	if len(s.stages) == 1 {
		s.out.Name = ""
	}
	s.image = &s.out.Config
	switch s.base.kind {
	case FromStage:
		s.inherit(s.base.stage)
		s.out.Text = "FROM " + s.base.stage.name
	case FromImage:
		*s.image = cloneImage(s.base.image.Config)
		s.image.Created = nil
		s.out.Text = "FROM " + s.base.need.Ref
		if d := s.base.image.Digest; d != "" && !strings.Contains(s.base.need.Ref, "@") {
			s.out.Text += "@" + d.String()
		}
		if s.unknown = s.base.image.Unknown; !s.unknown && s.base.context == "" {
			s.lintBasePlatform()
		}
	case FromContext:
		*s.image = emptyImage(s.platform)
		s.out.Text = "FROM " + s.base.name
		s.out.Base = Source{Kind: FromScratch}
	default:
		s.platform = s.planner.platform
		s.out.Platform = s.platform
		*s.image = emptyImage(s.platform)
		s.out.Text = "FROM " + scratch
	}
	s.image.Config.OnBuild = nil
	s.numberSteps()
	if s.base.kind == FromContext {
		s.out.Steps = append(s.out.Steps, &Step{
			Op:   &Copy{From: s.base.resolved(), Sources: []string{"/"}, Dest: "/", DestIsDir: true},
			Line: line, Col: col, Text: s.out.Text, CreatedBy: s.out.Text, Number: s.nextNumber(),
		})
	}
	s.initEnv()
}

// inherit copies a base stage's config and scope.
func (s *stage) inherit(base *stage) {
	*s.image = cloneImage(*base.image)
	s.platform = base.platform
	s.out.Platform = base.platform
	s.workdirSet = base.workdirSet
	s.unknown = base.unknown
	s.args = slices.Clone(base.args)
	s.env = base.env.clone()
}

// initEnv starts the environment with the config's, which gets a PATH if it has none.
func (s *stage) initEnv() {
	config := &s.image.Config
	if _, ok := newEnv(config.Env...).Get("PATH"); !ok {
		config.Env = append(config.Env, "PATH="+defaultPath)
	}
	if s.env == nil {
		s.env = newEnv()
	}
	for _, kv := range config.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.env.set(k, v)
	}
	s.dir = "/"
	if config.WorkingDir != "" {
		config.WorkingDir = absolute("/", config.WorkingDir)
		s.dir = config.WorkingDir
	}
}

// numberSteps counts the steps that get a number: a base image's and those with work.
func (s *stage) numberSteps() {
	if s.base.kind == FromImage || s.base.kind == FromContext {
		s.total++
	}
	for _, c := range s.commands {
		switch c.Command.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			s.total++
		}
	}
	if s.base.kind == FromImage {
		s.out.Number = s.nextNumber()
	}
}

func (s *stage) nextNumber() string {
	s.count++
	return strconv.Itoa(s.count) + "/" + strconv.Itoa(s.total)
}

// planned says whether the source can be used: a stage that comes later in the file cannot.
func (s *source) planned() bool { return s.kind != FromStage || s.stage.out != nil }

// resolved is the source as operations state it. A stage must have been planned.
func (s *source) resolved() Source {
	out := Source{Kind: s.kind, Image: s.image, Platform: s.platform}
	if s.kind == FromContext {
		out.Context = s.context
	}
	if s.stage != nil {
		out.Stage = s.stage.out
		out.Platform = s.stage.platform
	}
	return out
}

// onBuildError says which base an instruction came from that is not in the Dockerfile.
func onBuildError(err error, base string) error {
	if err == nil || base == "" {
		return err
	}
	return prefixed(err, "ONBUILD in "+base+": ")
}

func emptyImage(p oci.Platform) oci.Image {
	var image oci.Image
	image.Platform = p
	image.RootFS.Type = "layers"
	image.Config.WorkingDir = "/"
	image.Config.Env = []string{"PATH=" + defaultPath}
	return image
}

// cloneImage copies whatever planning may change.
func cloneImage(src oci.Image) oci.Image {
	image := src
	c := &image.Config
	c.Env = slices.Clone(c.Env)
	c.Cmd = slices.Clone(c.Cmd)
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.OnBuild = slices.Clone(c.OnBuild)
	c.Shell = slices.Clone(c.Shell)
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		c.Healthcheck = &h
	}
	image.History = slices.Clone(image.History)
	return image
}
