package serverless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/pipeline"
)

const nonblock = unix.O_NONBLOCK

// maxScript is below what the kernel takes as one argument (MAX_ARG_STRLEN).
const maxScript = 120 << 10

// maxFile bounds the files by which a step sets outputs and variables.
const maxFile = 1 << 20

// The files of a step, below filesDir, and the variables that name them.
const (
	outputFile     = "output"
	outputVariable = "SLIPWAY_OUTPUT"
	envFile        = "env"
	envVariable    = "SLIPWAY_ENV"
)

// command runs a script in the room, and returns the outputs that it set.
func (t *task) command(ctx context.Context, s *step, l *log) (map[string]any, error) {
	env, err := t.stepEnv(s)
	if err != nil {
		return nil, err
	}
	scope := t.scope(env)
	script, err := s.run.text(scope)
	if err != nil {
		return nil, err
	}
	if len(script) > maxScript {
		return nil, fmt.Errorf("the command has %d bytes, more than %d: put it into a file of the repository", len(script), maxScript)
	}
	dir, err := s.dir.text(scope)
	if err != nil {
		return nil, err
	}
	if err := t.freshFiles(); err != nil {
		return nil, err
	}
	code, err := t.exec(ctx, l, Process{Args: []string{"sh", "-c", script}, Env: pairs(env), Dir: inside(dir)})
	outputs, found := t.outputs()
	err = errors.Join(exit(code, err), found)
	return outputs, errors.Join(err, t.leak())
}

// inside is a step's folder as the room has it.
func inside(dir string) string {
	if path.IsAbs(dir) {
		return path.Clean(dir)
	}
	return path.Join(Workspace, dir)
}

// exit is the error of a process that ended with a code.
func exit(code int, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return &pipeline.ExitError{Code: code, Err: fmt.Errorf("exit status %d", code)}
}

// exec runs a process whose output goes to the log.
func (t *task) exec(ctx context.Context, l *log, p Process) (int, error) {
	if p.Stdout == nil {
		p.Stdout = l.stream(1)
	}
	if p.Stderr == nil {
		p.Stderr = l.stream(2)
	}
	return t.room.Run(ctx, p)
}

// stepEnv is the environment of a step: the task's, and the step's own over it.
func (t *task) stepEnv(s *step) (map[string]string, error) {
	env := maps.Clone(t.env)
	scope := t.scope(t.env)
	for _, v := range s.env {
		value, err := v.value.text(scope)
		if err != nil {
			return nil, err
		}
		env[v.name] = value
		t.hideVariable(v.name, value)
	}
	env[outputVariable], env[envVariable] = path.Join(filesDir, outputFile), path.Join(filesDir, envFile)
	return env, nil
}

func pairs(env map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// freshFiles makes the files of a step empty.
func (t *task) freshFiles() error {
	if err := emptyFolder(t.dir.files); err != nil {
		return fmt.Errorf("make the step's files: %w", err)
	}
	for _, name := range []string{outputFile, envFile} {
		if err := os.WriteFile(filepath.Join(t.dir.files, name), nil, 0o666); err != nil {
			return fmt.Errorf("make the step's files: %w", err)
		}
	}
	return nil
}

// emptyFolder removes what is in a folder, and follows no links.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// readFile reads a file that a step wrote.
func (t *task) readFile(name string) ([]byte, error) {
	f, err := regularFile(t.dir.files, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return data, err
}

func (t *task) outputs() (map[string]any, error) {
	values, err := t.assignments(outputFile)
	if err != nil {
		return nil, fmt.Errorf("read the outputs ($%s): %w", outputVariable, err)
	}
	outputs := map[string]any{}
	for _, v := range values {
		outputs[v.name] = v.value
	}
	return outputs, nil
}

// leak takes the variables that a step set for later ones.
func (t *task) leak() error {
	values, err := t.assignments(envFile)
	if err != nil {
		return fmt.Errorf("read the variables ($%s): %w", envVariable, err)
	}
	for _, v := range values {
		t.env[v.name] = v.value
		t.hideVariable(v.name, v.value)
	}
	return nil
}

func (t *task) assignments(name string) ([]assignment, error) {
	data, err := t.readFile(name)
	if err != nil {
		return nil, err
	}
	return parseAssignments(string(data))
}

type assignment struct{ name, value string }

// parseAssignments reads NAME=VALUE, a line each, and values of several lines between NAME<<WORD and WORD.
func parseAssignments(text string) ([]assignment, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var all []assignment
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSuffix(lines[i], "\r")
		name, value, assigned := strings.Cut(line, "=")
		before, word, long := strings.Cut(line, "<<")
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case long && (!assigned || len(before) < len(name)):
			first := i + 1
			for i++; i < len(lines) && lines[i] != word; i++ {
			}
			if i == len(lines) {
				return nil, fmt.Errorf("line %d: %s<<%s without a line %s", first, before, word, word)
			}
			name, value = before, strings.Join(lines[first:i], "\n")
		case !assigned:
			return nil, fmt.Errorf("line %d: want NAME=VALUE, or NAME<<WORD", i+1)
		}
		if name == "" || strings.ContainsAny(name, " \t\x00") || strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("line %d: %q cannot be a name", i+1, name)
		}
		all = append(all, assignment{name, value})
	}
	return all, nil
}
