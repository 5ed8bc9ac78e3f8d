package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"slipway/internal/build/dockerfile"
)

// dispatch expands one instruction and applies it to the stage.
func (s *stage) dispatch(c command) error {
	lint := s.lint.WithMergedConfigFromComments(c.Comments())
	if err := s.expand(c, lint); err != nil {
		return err
	}
	switch cmd := c.Command.(type) {
	case *instructions.RunCommand:
		return s.run(c, cmd)
	case *instructions.CopyCommand:
		return s.copyFrom(c, cmd, lint)
	case *instructions.AddCommand:
		return s.add(c, cmd, lint)
	case *instructions.WorkdirCommand:
		return s.workdir(c, cmd, lint)
	case *instructions.ArgCommand:
		return s.arg(c, cmd, lint)
	case *instructions.ExposeCommand:
		return s.expose(c, cmd, lint)
	case *instructions.VolumeCommand:
		return s.volume(c, cmd)
	case *instructions.StopSignalCommand:
		return s.stopSignal(c, cmd)
	case *instructions.OnbuildCommand:
		// BuildKit writes no history for it, and there is nothing to do: it is no step.
		s.image.Config.OnBuild = append(s.image.Config.OnBuild, cmd.Expression)
		return nil
	}
	s.configure(c, lint)
	return nil
}

// configure applies the instructions that only set fields of the config and cannot fail.
func (s *stage) configure(c command, lint *linter.Linter) {
	config := &s.image.Config
	switch cmd := c.Command.(type) {
	case *instructions.EnvCommand:
		s.note(c, "ENV"+s.setEnv(c, cmd.Env, lint))
	case *instructions.LabelCommand:
		s.note(c, "LABEL"+s.setLabels(c, cmd.Labels, lint))
	case *instructions.CmdCommand:
		s.once(c, &s.cmd, lint)
		config.Cmd = s.commandLine(c, cmd.ShellDependantCmdLine, lint)
		config.ArgsEscaped = true //nolint:staticcheck // BuildKit sets it, and images are compared with BuildKit's.
		s.note(c, fmt.Sprintf("CMD %q", config.Cmd))
	case *instructions.EntrypointCommand:
		s.once(c, &s.entrypoint, lint)
		config.Entrypoint = s.commandLine(c, cmd.ShellDependantCmdLine, lint)
		if !s.cmd.set { // the base's CMD was written for the base's ENTRYPOINT
			config.Cmd = nil
		}
		s.note(c, fmt.Sprintf("ENTRYPOINT %q", config.Entrypoint))
	case *instructions.HealthCheckCommand:
		s.once(c, &s.healthcheck, lint)
		h := *cmd.Health
		config.Healthcheck = &h
		s.note(c, fmt.Sprintf("HEALTHCHECK %+v", h))
	case *instructions.UserCommand:
		config.User = cmd.User
		s.note(c, "USER "+cmd.User)
	case *instructions.ShellCommand:
		config.Shell = cmd.Shell
		s.note(c, fmt.Sprintf("SHELL %v", cmd.Shell))
	case *instructions.MaintainerCommand:
		s.image.Author = cmd.Maintainer
		s.note(c, "MAINTAINER "+cmd.Maintainer)
	}
}

// expand replaces the variables of an instruction, in place. ARG does it itself: its default may not be used.
func (s *stage) expand(c command, lint *linter.Linter) error {
	if _, ok := c.Command.(*instructions.ArgCommand); ok {
		return nil
	}
	if ex, ok := c.Command.(instructions.SupportsSingleWordExpansion); ok {
		if err := ex.Expand(s.expander(c, s.lex, lint)); err != nil {
			return err
		}
	}
	if ex, ok := c.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex := shell.NewLex('\\') // heredocs are escaped so whatever the file's escape is
		lex.SkipProcessQuotes = true
		return ex.ExpandRaw(s.expander(c, lex, lint))
	}
	return nil
}

func (s *stage) expander(c command, lex *shell.Lex, lint *linter.Linter) instructions.SingleWordExpander {
	return func(word string) (string, error) {
		out, unmatched, err := lex.ProcessWord(word, s.env)
		s.lintUndefined(c, unmatched, lint)
		return out, err
	}
}

// step adds a step with work.
func (s *stage) step(c command, op Op, text, createdBy string) {
	st := s.newStep(c, createdBy)
	st.Op, st.Text, st.Number = op, s.display(c, text), s.nextNumber()
	s.out.Steps = append(s.out.Steps, st)
}

// note adds a step that only changed the config.
func (s *stage) note(c command, createdBy string) {
	st := s.newStep(c, createdBy)
	st.Empty, st.Text = true, s.display(c, createdBy)
	s.out.Steps = append(s.out.Steps, st)
}

func (s *stage) newStep(c command, createdBy string) *Step {
	line, col := s.file.Position(c.Location())
	return &Step{Line: line, Col: col, CreatedBy: createdBy}
}

func (s *stage) display(c command, text string) string {
	if c.onBuild != "" {
		return "ONBUILD " + text
	}
	return text
}

// sourceText returns an instruction's text with its name in capitals and its variables expanded, for people.
func (s *stage) sourceText(code string, lex *shell.Lex) string {
	text, _, err := lex.ProcessWord(code, s.env)
	if err != nil {
		text = code
	}
	name, rest, ok := strings.Cut(text, " ")
	if !ok {
		return strings.ToUpper(name)
	}
	return strings.ToUpper(name) + " " + rest
}

func (s *stage) setEnv(c command, pairs instructions.KeyValuePairs, lint *linter.Linter) string {
	var history strings.Builder
	for _, kv := range pairs {
		s.lintKeyValue(c, kv, lint)
		lintSecret("ENV", kv.Key, c.Location(), lint)
		history.WriteString(" " + kv.String())
		s.env.set(kv.Key, kv.Value)
		s.image.Config.Env = setPair(s.image.Config.Env, kv.Key, kv.Value)
	}
	return history.String()
}

func (s *stage) setLabels(c command, pairs instructions.KeyValuePairs, lint *linter.Linter) string {
	if s.image.Config.Labels == nil {
		s.image.Config.Labels = make(map[string]string, len(pairs))
	}
	var history strings.Builder
	for _, kv := range pairs {
		s.lintKeyValue(c, kv, lint)
		history.WriteString(" " + kv.String())
		s.image.Config.Labels[kv.Key] = kv.Value
	}
	return history.String()
}

// commandLine is the command of a CMD or ENTRYPOINT.
func (s *stage) commandLine(c command, line instructions.ShellDependantCmdLine, lint *linter.Linter) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(s.image.Config.Shell) == 0 {
		lint.Run(&linter.RuleJSONArgsRecommended, c.Location(), linter.RuleJSONArgsRecommended.Format(c.Name()))
	}
	return s.withShell(line.CmdLine)
}

// withShell puts SHELL before a command in shell form.
func (s *stage) withShell(args []string) []string {
	sh := slices.Clone(s.image.Config.Shell)
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(sh, strings.Join(args, " "))
}

func (s *stage) workdir(c command, cmd *instructions.WorkdirCommand, lint *linter.Linter) error {
	if !s.workdirSet && !path.IsAbs(cmd.Path) {
		lint.Run(&linter.RuleWorkdirRelativePath, c.Location(), linter.RuleWorkdirRelativePath.Format(cmd.Path))
	}
	s.workdirSet = true
	s.dir = absolute(s.image.Config.WorkingDir, cmd.Path)
	s.image.Config.WorkingDir = s.dir
	if path.Clean(s.dir) == "/" {
		s.note(c, "WORKDIR "+s.dir)
		return nil
	}
	op := &Mkdir{Path: path.Clean(s.dir), Owner: s.image.Config.User}
	s.step(c, op, s.sourceText(cmd.String(), s.lex), "WORKDIR "+s.dir)
	return nil
}

// absolute resolves a path as WORKDIR does: an absolute one stays as it was written.
func absolute(dir, p string) string {
	switch {
	case p == "":
		p = dir
	case !path.IsAbs(p):
		p = path.Join(dir, p)
	}
	if !path.IsAbs(p) {
		p = path.Join("/", p)
	}
	return p
}

func (s *stage) volume(c command, cmd *instructions.VolumeCommand) error {
	if s.image.Config.Volumes == nil {
		s.image.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range cmd.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		s.image.Config.Volumes[v] = struct{}{}
	}
	s.note(c, fmt.Sprintf("VOLUME %v", cmd.Volumes))
	return nil
}

func (s *stage) stopSignal(c command, cmd *instructions.StopSignalCommand) error {
	if !signalKnown(cmd.Signal) {
		return fmt.Errorf("invalid signal: %s", cmd.Signal)
	}
	s.image.Config.StopSignal = cmd.Signal
	s.note(c, "STOPSIGNAL "+cmd.Signal)
	return nil
}

// arg declares arguments. A build argument wins over the default; without either, one before FROM gives the value.
func (s *stage) arg(c command, cmd *instructions.ArgCommand, lint *linter.Linter) error {
	history := make([]string, 0, len(cmd.Args))
	for _, arg := range cmd.Args {
		lintSecret("ARG", arg.Key, c.Location(), lint)
		given, isGiven := s.opts.Args[arg.Key]
		switch {
		case isGiven:
			arg.Value = &given
		case arg.Value != nil:
			v, err := s.expander(c, s.lex, lint)(*arg.Value)
			if err != nil {
				return err
			}
			arg.Value = &v
		default:
			if v, ok := s.global.Get(arg.Key); ok {
				arg.Value = &v
			}
		}
		text := arg.Key
		if arg.Value != nil {
			text += "=" + *arg.Value
			if scanArg(arg.Key) {
				s.refuseScan(c, arg.Key, *arg.Value)
			} else {
				s.env.set(arg.Key, *arg.Value)
			}
		}
		s.args = append(s.args, arg)
		history = append(history, text)
	}
	s.note(c, "ARG "+strings.Join(history, " "))
	return nil
}

// scanArg says whether an argument speaks to BuildKit's SBOM scanner and stays out of the environment.
func scanArg(name string) bool {
	return name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE"
}

// refuseScan says that stages and contexts are in no SBOM of slipway's.
func (s *stage) refuseScan(c command, name, value string) {
	if wanted, err := strconv.ParseBool(value); err == nil && !wanted || value == "" {
		return
	}
	line, col := s.file.Position(c.Location())
	s.warnings = append(s.warnings, dockerfile.Warning{
		File: s.file.Name, Line: line, Col: col, Msg: name + " has no effect: an SBOM lists the files of the image alone",
		Source: s.file.Excerpt(line, col),
	})
}

// prefixed puts a prefix before the message of every *dockerfile.Error in err.
func prefixed(err error, prefix string) error {
	list, ok := errors.AsType[dockerfile.Errors](err)
	if !ok {
		return fmt.Errorf("%s%w", prefix, err)
	}
	out := make(dockerfile.Errors, len(list))
	for i, e := range list {
		changed := *e
		changed.Msg = prefix + e.Msg
		out[i] = &changed
	}
	return out
}

// once warns when an instruction of which only the last counts stands in a stage twice.
func (s *stage) once(c command, t *tracker, lint *linter.Linter) {
	if t.set {
		lint.Run(&linter.RuleMultipleInstructionsDisallowed, t.at, linter.RuleMultipleInstructionsDisallowed.Format(c.Name()))
	}
	t.set, t.at = true, c.Location()
}
