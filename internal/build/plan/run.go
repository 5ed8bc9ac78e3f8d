package plan

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// pipesDir is where a RUN finds its heredocs that are scripts of their own.
const pipesDir = "/dev/pipes/"

func (s *stage) run(c command, cmd *instructions.RunCommand) error {
	args, files, summary, err := runArgs(cmd)
	if err != nil {
		return err
	}
	if cmd.PrependShell {
		args = s.withShell(args)
	}
	if len(args) == 0 {
		return errors.New("RUN needs a command: the array is empty")
	}
	mounts, err := s.mounts(c, cmd)
	if err != nil {
		return err
	}
	op := &Run{
		Args: args, Env: s.runEnv(mounts).pairs(), HiddenEnv: proxyEnv(s.opts.Args), Dir: path.Clean(s.dir),
		User: s.image.Config.User, Network: s.network(cmd), Mounts: mounts, Files: files,
		Insecure: instructions.GetSecurity(cmd) == instructions.SecurityInsecure,
	}
	for _, d := range instructions.GetDevices(cmd) {
		if d.Name == "" {
			return errors.New("--device needs the name of a device")
		}
		op.Devices = append(op.Devices, Device{Name: d.Name, Required: d.Required})
	}
	s.step(c, op, s.runText(cmd.String()+summary, mounts), "RUN "+s.runHistory(args))
	return nil
}

// runText shows a RUN with the quotes and escapes that the shell will see, and no secret that is a variable.
func (s *stage) runText(code string, mounts []Mount) string {
	lex := shell.NewLex(s.file.Escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	shown := *s
	for _, m := range mounts {
		if m.Env != "" {
			if shown.env == s.env {
				shown.env = s.env.clone()
			}
			shown.env.set(m.Env, "****")
		}
	}
	return shown.sourceText(code, lex)
}

// network is the RUN's own, else the build's.
func (s *stage) network(cmd *instructions.RunCommand) string {
	if n := instructions.GetNetwork(cmd); n != NetworkDefault || s.opts.Network == "" {
		return n
	}
	return s.opts.Network
}

// runArgs is the command with its heredocs. One heredoc alone is the script that the shell runs, or, when it begins
// with #!, a file that is run; among other words heredocs go back to the shell as they stood.
func runArgs(cmd *instructions.RunCommand) (args []string, files []InlineFile, summary string, err error) {
	if len(cmd.Files) == 0 {
		return cmd.CmdLine, nil, "", nil
	}
	if len(cmd.CmdLine) != 1 || !cmd.PrependShell {
		return nil, nil, "", fmt.Errorf("parsing produced an invalid run command: %v", cmd.CmdLine)
	}
	first := cmd.Files[0]
	if parser.MustParseHeredoc(cmd.CmdLine[0]) == nil {
		var b strings.Builder
		b.WriteString(cmd.CmdLine[0])
		for _, f := range cmd.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return []string{b.String()}, nil, "", nil
	}
	data := first.Data
	if first.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	summary = " (" + summarize(first.Data) + ")"
	if strings.HasPrefix(data, "#!") {
		name := path.Join(pipesDir, first.Name)
		return []string{name}, []InlineFile{{Name: name, Data: data, Mode: 0o755}}, summary, nil
	}
	return []string{data}, nil, summary, nil
}

// summarize is a heredoc's first line.
func summarize(doc string) string {
	first, rest, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(doc), "\r\n", "\n"), "\n")
	if rest != "" {
		first += "..."
	}
	return first
}

// runHistory is a RUN's history: the ARGs in scope, counted, before the command.
func (s *stage) runHistory(args []string) string {
	var pairs []string
	index := map[string]int{}
	for _, arg := range s.args {
		v, ok := s.env.Get(arg.Key)
		if !ok {
			v = arg.ValueString()
		}
		if i, ok := index[arg.Key]; ok {
			pairs[i] = arg.Key + "=" + v
			continue
		}
		index[arg.Key] = len(pairs)
		pairs = append(pairs, arg.Key+"="+v)
	}
	if len(pairs) > 0 {
		pairs = append([]string{"|" + strconv.Itoa(len(pairs))}, pairs...)
	}
	return strings.Join(append(pairs, args...), " ")
}
