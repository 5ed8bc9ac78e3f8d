package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/config"
	"slipway/internal/errs"
)

// world is an env whose streams can be read afterwards.
type world struct {
	env
	out, err bytes.Buffer
}

func newWorld(t *testing.T, vars map[string]string) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{}
	w.env = env{
		stdin:  strings.NewReader(""),
		stdout: &w.out,
		stderr: &w.err,
		getenv: func(name string) string {
			if name == "SLIPWAY_HOME" && vars[name] == "" {
				return home
			}
			return vars[name]
		},
		now: time.Now,
		uid: 1000,
	}
	return w
}

func TestUsageMistakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, line, want string }{
		{"command", "verison", "slipway: error: unknown command \"verison\"\nslipway: hint: did you mean 'slipway version'?\n"},
		{"command like no other", "frobnicate", "slipway: error: unknown command \"frobnicate\"\nslipway: hint: run 'slipway --help' for its flags and an example\n"},
		{"command with a flag it would have known", "verison --output json", "slipway: error: unknown command \"verison\"\nslipway: hint: did you mean 'slipway version'?\n"},
		{"command of a group", "registry sevre", "slipway: error: unknown command \"registry sevre\"\nslipway: hint: did you mean 'slipway registry serve'?\n"},
		{"group alone", "registry", "slipway: error: say which: serve\nslipway: hint: run 'slipway registry --help' for its flags and an example\n"},
		{"help of what is not there", "help verison", "slipway: error: unknown command \"verison\"\nslipway: hint: did you mean 'slipway version'?\n"},
		{"flag", "version --outptu json", "slipway: error: unknown flag: --outptu\nslipway: hint: did you mean --output?\n"},
		{"flag of the root", "--versoin", "slipway: error: unknown flag: --versoin\nslipway: hint: did you mean --version?\n"},
		{"short flag", "version -x", "slipway: error: unknown shorthand flag: 'x' in -x\nslipway: hint: run 'slipway version --help' for its flags and an example\n"},
		{"value", "version -o yaml", "slipway: error: invalid argument \"yaml\" for \"-o, --output\" flag: want one of text, json\nslipway: hint: run 'slipway version --help' for its flags and an example\n"},
		{"argument missing", "completion", "slipway: error: argument SHELL is missing\nslipway: hint: run 'slipway completion --help' for its flags and an example\n"},
		{"argument too many", "version x", "slipway: error: unexpected argument \"x\"\nslipway: hint: run 'slipway version --help' for its flags and an example\n"},
		{"shell", "completion csh", "slipway: error: shell \"csh\": want bash, fish or zsh\nslipway: hint: run 'slipway completion --help' for its flags and an example\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			if code := run(t.Context(), w.env, strings.Fields(tc.line)); code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			if diff := cmp.Diff(tc.want, w.err.String()); diff != "" {
				t.Errorf("stderr mismatch (-want +got):\n%s", diff)
			}
			if w.out.Len() > 0 {
				t.Errorf("stdout has %q, want nothing", w.out.String())
			}
		})
	}
}

// TestHelp holds every command to the house's rule: a sentence, an example, and a help that does not fail.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short description %q: want a phrase without a period", path, cmd.Short)
		}
		if !cmd.HasSubCommands() && !strings.Contains(cmd.Example, "  slipway "+strings.TrimPrefix(path, "slipway ")) &&
			!strings.Contains(cmd.Example, path) {
			t.Errorf("%s: the help shows no example of it: %q", path, cmd.Example)
		}
		w := newWorld(t, nil)
		args := append(strings.Fields(path)[1:], "--help")
		if code := run(t.Context(), w.env, args); code != 0 || !strings.Contains(w.out.String(), "Usage:\n  "+path) || w.err.Len() > 0 {
			t.Errorf("%s --help: code %d, stderr %q, stdout:\n%s", path, code, w.err.String(), w.out.String())
		}
	}
	walk(newRoot(newWorld(t, nil).env))
}

// stepError stands for an error of a process that a user's pipeline ran.
type stepError struct{}

func (stepError) Error() string { return "exit status 7" }
func (stepError) ExitCode() int { return 7 }

func TestExitCode(t *testing.T) {
	t.Parallel()
	foreign := exec.CommandContext(t.Context(), "false").Run()
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, 0},
		{"no kind", errors.New("disk on fire"), exitFailed},
		{"not found", fmt.Errorf("pull: %w", errs.NotFound), exitFailed},
		{"invalid", fmt.Errorf("parse: %w", errs.Invalid), exitUsage},
		{"step", fmt.Errorf("build: %w", &build.StepError{Code: 2}), exitStep},
		{"another step", fmt.Errorf("run: %w", stepError{}), exitStep},
		{"step among others", errors.Join(errors.New("a"), stepError{}), exitStep},
		{"a process of slipway's own", fmt.Errorf("git: %w", foreign), exitFailed},
		{"denied", fmt.Errorf("push: %w", errs.Denied), exitDenied},
		{"limit", fmt.Errorf("run: %w", errs.Limit), exitLimit},
		{"step killed by a limit", errs.Mark(&build.StepError{Code: 137}, errs.Limit), exitLimit},
		{"canceled", fmt.Errorf("run: %w", errs.Canceled), exitInterrupted},
		{"context", fmt.Errorf("run: %w", context.Canceled), exitInterrupted},
		{"step that was the reason to cancel others", errors.Join(context.Canceled, stepError{}), exitStep},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := exitCode(tc.err); got != tc.want {
				t.Errorf("exitCode(%v) = %d, want %d", tc.err, got, tc.want)
			}
		})
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"nothing", nil, ""},
		{"one", errors.New("pull a: denied"), "slipway: error: pull a: denied\n"},
		{"hint", errs.Hint(errors.New("a"), "do b"), "slipway: error: a\nslipway: hint: do b\n"},
		{"several", errors.Join(errors.New("p.yaml:1:1: a"), errors.New("p.yaml:2:1: b")), "slipway: error: p.yaml:1:1: a\nslipway: error: p.yaml:2:1: b\n"},
		{"escapes", errors.New("RUN \x1b[2Jx"), "slipway: error: RUN x\n"},
		{"password", errors.New(`clone "https://me:secret@git.lan/a": 401`), "slipway: error: clone \"https://me:***@git.lan/a\": 401\n"},
		{"user without password", errors.New("ssh://git@git.lan/a and http://b/c@d:e"), "slipway: error: ssh://git@git.lan/a and http://b/c@d:e\n"},
		{"two passwords", errors.New("a://b:c@d e://f:g@h@i"), "slipway: error: a://b:***@d e://f:***@i\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			report(&out, tc.err)
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("report mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errs.Canceled)
	w := newWorld(t, nil)
	// Whatever a command makes of being interrupted, the person who did it is told just that.
	if code := run(ctx, w.env, []string{"frobnicate"}); code != exitInterrupted || w.err.String() != "slipway: error: interrupted\n" {
		t.Errorf("code %d, stderr %q", code, w.err.String())
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"SLIPWAY_CONFIG": "/dev/null", "SLIPWAY_MAP_NAS": "nonsense"})
	if _, err := w.settings(config.Words{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("settings: %v, want errs.Invalid", err)
	}
}

// BenchmarkCommand is what the command line itself costs: every command with its flags is made, one is run.
func BenchmarkCommand(b *testing.B) {
	e := env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, now: time.Now}
	for b.Loop() {
		if code := run(b.Context(), e, []string{"version"}); code != 0 {
			b.Fatalf("exit code %d", code)
		}
	}
}
