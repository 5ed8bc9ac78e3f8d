package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"slipway/internal/cli/progress"
	"slipway/internal/config"
)

// env is the world that a command runs in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	uid            int
	// stdoutIsTerminal says that a person would see what goes to stdout.
	stdoutIsTerminal bool
	// terminal is what stderr is drawn on, nil when it is not a terminal.
	terminal *progress.Terminal
	// person opens the terminal on which questions can be asked, nil when there is none.
	person func() (io.ReadWriteCloser, error)
}

// process is the world of this process.
func process() env {
	e := env{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,
		uid:    os.Geteuid(),

		stdoutIsTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		person:           person(),
	}
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) && e.getenv("TERM") != "dumb" {
		e.terminal = &progress.Terminal{
			Size:  func() (columns, rows int) { columns, rows, _ = term.GetSize(fd); return columns, rows },
			Color: e.getenv("NO_COLOR") == "",
		}
	}
	return e
}

// home is the folder of slipway's state. It need not exist.
func (e env) home() (string, error) { return config.Home(e.getenv, e.uid) }

// settings are what the flags say, over the environment, over the configuration file.
func (e env) settings(flags config.Words) (config.Config, error) {
	top, err := config.Parse(flags)
	if err != nil {
		return config.Config{}, err
	}
	middle, err := config.FromEnv(e.getenv)
	if err != nil {
		return config.Config{}, err
	}
	home, err := e.home()
	if err != nil {
		return config.Config{}, err
	}
	file, err := config.Load(config.Path(e.getenv, home))
	if err != nil {
		return config.Config{}, err
	}
	return top.Over(middle).Over(file), nil
}

// display shows progress on stderr. The caller closes it.
func (e env) display(mode progress.Mode) (*progress.Display, error) {
	return progress.New(progress.Options{Out: e.stderr, Mode: mode, Terminal: e.terminal, Now: e.now})
}

// registryFlags adds the flags that say how to reach registries.
func registryFlags(flags *pflag.FlagSet, w *config.Words) {
	flags.StringArrayVar(&w.InsecureRegistries, "insecure-registry", nil, "speak plain HTTP to `HOST`, or accept any certificate")
	flags.StringArrayVar(&w.RegistryMirrors, "registry-mirror", nil, "ask a mirror first, `[SRC=]HOST`; without SRC a mirror of docker.io")
}

// progressFlag adds --progress.
func progressFlag(flags *pflag.FlagSet, mode *progress.Mode) {
	*mode = progress.Auto
	flags.Var(choice[progress.Mode]{mode, progress.Modes()}, "progress", "show progress as `MODE`: auto, tty, plain, json or quiet")
}

// format is how a result is printed.
type format string

const (
	asText format = "text"
	asJSON format = "json"
)

// outputFlag adds --output text|json. Commands whose --output means something else say so in their help.
func outputFlag(flags *pflag.FlagSet, f *format) {
	*f = asText
	flags.VarP(choice[format]{f, []string{string(asText), string(asJSON)}}, "output", "o", "print the result as `FORMAT`: text or json")
}

// table prints a result in columns, which tabs separate.
func (e env) table(fill func(row func(format string, args ...any))) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	fill(func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }) // Flush tells
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func bytesSize(n int64) string { return units.BytesSize(float64(n)) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// printJSON writes a result for programs: indented, since people look at it, too.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
