package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"slipway/internal/app"
	"slipway/internal/deploy/control"
	"slipway/internal/deploy/function"
	"slipway/internal/deploy/project"
	"slipway/internal/deploy/sfile"
	"slipway/internal/errs"
)

// projectFlags are the flags of the commands that work on an s.yaml.
type projectFlags struct {
	app.Project
	output format
}

func (f *projectFlags) register(flags *pflag.FlagSet, actions bool) {
	flags.StringVarP(&f.File, "template", "t", "", "read `PATH` (default: s.yaml, then s.yml)")
	flags.StringVarP(&f.Access, "access", "a", "", "deploy with the credentials behind `ALIAS`")
	flags.StringVar(&f.Environment, "env", "", "lay the overlays of the environment `NAME` of env.yaml over the properties")
	if actions {
		flags.BoolVar(&f.SkipActions, "skip-actions", false, "leave the actions out")
	}
	outputFlag(flags, &f.output)
}

// open reads the s.yaml, and tells its warnings and mistakes.
func (f *projectFlags) open(e env, args []string) (*sfile.Project, *control.Client, error) {
	if len(args) > 0 {
		f.Resource = args[0]
	}
	if f.File == "" {
		f.File = "s.yaml"
		if _, err := os.Stat(f.File); errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat("s.yml"); err == nil {
				f.File = "s.yml"
			}
		}
	}
	home, err := e.home()
	if err != nil {
		return nil, nil, err
	}
	f.Env = func(name string) (string, bool) { v := e.getenv(name); return v, v != "" }
	f.Output = e.stderr
	f.Tell = func(resource, text string) {
		if resource != "" {
			text = resource + ": " + text
		}
		_, _ = fmt.Fprintln(e.stderr, redact(text))
	}
	p, warnings, err := app.OpenProject(f.Project)
	e.tellWarnings(warnings)
	if err != nil {
		return nil, nil, e.tellMistakes(err)
	}
	return p, app.Functions(home), nil
}

// print prints results: JSON for programs, otherwise YAML as the family of s.yaml's tool prints it.
func (f *projectFlags) print(e env, v any) error {
	if f.output == asJSON {
		return printJSON(e.stdout, v)
	}
	out, err := yaml.Marshal(v)
	if err == nil {
		_, err = e.stdout.Write(out)
	}
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// shown is a deployed function as info and deploy print it.
type shown struct {
	Region       string            `json:"region,omitempty" yaml:"region,omitempty"`
	FunctionName string            `json:"functionName" yaml:"functionName"`
	Image        string            `json:"image" yaml:"image"`
	Port         int               `json:"port" yaml:"port"`
	CPU          float64           `json:"cpu" yaml:"cpu"`
	MemorySize   int64             `json:"memorySize" yaml:"memorySize"`
	Timeout      int               `json:"timeout" yaml:"timeout"`
	Concurrency  int               `json:"instanceConcurrency" yaml:"instanceConcurrency"`
	Modified     time.Time         `json:"lastModifiedTime" yaml:"lastModifiedTime"`
	Instances    int               `json:"instances" yaml:"instances"`
	Versions     []string          `json:"versions,omitempty" yaml:"versions,omitempty"`
	Aliases      map[string]string `json:"aliases,omitempty" yaml:"aliases,omitempty"`
	URL          struct {
		System string `json:"system_url,omitempty" yaml:"system_url,omitempty"`
	} `json:"url" yaml:"url"`
}

func show(d function.Deployed) shown {
	f := d.Latest.Function
	s := shown{
		Region: f.Region, FunctionName: f.Name, Image: f.Image, Port: f.Port, CPU: f.CPUs, MemorySize: f.Memory, Timeout: f.Timeout,
		Concurrency: f.Concurrency, Modified: d.Latest.Deployed, Instances: d.Instances,
	}
	s.URL.System = d.URL
	for _, v := range d.Versions {
		s.Versions = append(s.Versions, v.ID)
	}
	for _, a := range d.Aliases {
		if s.Aliases == nil {
			s.Aliases = map[string]string{}
		}
		s.Aliases[a.Name] = a.Version
		if a.Additional != "" {
			s.Aliases[a.Name] += fmt.Sprintf(", %g of %s", a.Weight, a.Additional)
		}
	}
	return s
}

func newDeploy(e env) *cobra.Command {
	f := &projectFlags{}
	cmd := &cobra.Command{
		Use:   "deploy [RESOURCE]",
		Short: "Deploy the functions of an s.yaml",
		Long: `Deploy the functions of an s.yaml, in their order, or one of them.

The image's digest is pinned. The new version starts and has to get healthy before it
gets a request; requests that the old one answers are let finish. When it does not get
healthy, slipway ends with exit code 3 and the old version stays.`,
		Example: "  slipway deploy\n  slipway deploy -t s.yaml --env prod\n  GIT_COMMIT=2b1c3d4 slipway deploy function",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			results, err := app.Deploy(cmd.Context(), p, f.Project, target)
			return errors.Join(f.results(e, results), err)
		},
	}
	f.register(cmd.Flags(), true)
	cmd.Flags().BoolP("assume-yes", "y", false, "deploy without a question: slipway asks none")
	cmd.Flags().Bool("use-local", false, "deploy what the s.yaml says, whatever runs now: slipway always does")
	cmd.Flags().Bool("skip-push", false, "do not push an image: slipway deploy never does")
	return cmd
}

func (f *projectFlags) results(e env, results []project.Result) error {
	if len(results) == 0 {
		return nil
	}
	out := map[string]shown{}
	for _, r := range results {
		out[r.Resource] = show(r.Function)
	}
	return f.print(e, out)
}

func newInfo(e env) *cobra.Command {
	f := &projectFlags{}
	cmd := &cobra.Command{
		Use:     "info [RESOURCE]",
		Short:   "Show what is deployed of an s.yaml",
		Example: "  slipway info\n  slipway info function -o json",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			var results []project.Result
			err = each(cmd.Context(), p, f, target, func(resource string, fn function.Function) error {
				d, err := target.Info(cmd.Context(), fn.Name)
				results = append(results, project.Result{Resource: resource, Function: d})
				return err
			})
			if err != nil {
				return err
			}
			return f.results(e, results)
		},
	}
	f.register(cmd.Flags(), false)
	return cmd
}

func each(ctx context.Context, p *sfile.Project, f *projectFlags, target project.Target, visit func(string, function.Function) error) error {
	return project.Functions(ctx, p, project.Options{Target: target, Only: f.Resource}, func(resource string, fn function.Function, _ []string) error {
		return visit(resource, fn)
	})
}

// one gives the function that a command is about: the resource's, or that of the only one.
func one(ctx context.Context, p *sfile.Project, f *projectFlags, target project.Target) (function.Function, error) {
	if f.Resource == "" && len(p.Resources) > 1 {
		names := make([]string, 0, len(p.Resources))
		for _, r := range p.Resources {
			names = append(names, r.Name)
		}
		return function.Function{}, errs.Mark(errors.New("say which: "+strings.Join(names, ", ")), errs.Invalid)
	}
	var out function.Function
	err := each(ctx, p, f, target, func(_ string, fn function.Function) error {
		out = fn
		return nil
	})
	return out, err
}

func newPlan(e env) *cobra.Command {
	f := &projectFlags{}
	cmd := &cobra.Command{
		Use:     "plan [RESOURCE]",
		Short:   "Show what deploying an s.yaml would change",
		Example: "  slipway plan\n  slipway plan --env prod",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			plans := map[string][]change{}
			err = each(cmd.Context(), p, f, target, func(resource string, fn function.Function) error {
				d, err := target.Info(cmd.Context(), fn.Name)
				switch {
				case errors.Is(err, errs.NotFound):
					plans[resource] = []change{{Property: "functionName", New: fn.Name}}
				case err != nil:
					return err
				default:
					plans[resource] = changes(d.Latest.Function, fn)
				}
				return nil
			})
			if err != nil {
				return err
			}
			return f.print(e, plans)
		},
	}
	f.register(cmd.Flags(), false)
	return cmd
}

// change is a property that deploying would change.
type change struct {
	Property string `json:"property" yaml:"property"`
	Old      any    `json:"old,omitempty" yaml:"old,omitempty"`
	New      any    `json:"new,omitempty" yaml:"new,omitempty"`
}

// changes compares what is deployed with what would be. An image that is pinned differs from its tag by more than its
// digest only: whether the tag has moved, deploying finds out.
func changes(old, now function.Function) []change {
	if name, _, pinned := strings.Cut(old.Image, "@"); pinned && name == now.Image {
		old.Image = now.Image
	}
	out := []change{}
	a, b := reflect.ValueOf(old), reflect.ValueOf(now)
	for i := range a.NumField() {
		if x, y := a.Field(i).Interface(), b.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, change{name, x, y})
		}
	}
	return out
}

func newRemove(e env) *cobra.Command {
	f := &projectFlags{}
	cmd := &cobra.Command{
		Use:     "remove [RESOURCE]",
		Short:   "Remove the functions of an s.yaml",
		Example: "  slipway remove\n  slipway remove function -y",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			return app.RemoveProject(cmd.Context(), p, f.Project, target)
		},
	}
	f.register(cmd.Flags(), true)
	cmd.Flags().BoolP("assume-yes", "y", false, "remove without a question: slipway asks none")
	return cmd
}

// functionError says that an invoked function failed.
type functionError struct{ text string }

func (f *functionError) Error() string { return f.text }

// ExitCode makes it a failure of the function's.
func (*functionError) ExitCode() int { return 1 }

func newInvoke(e env) *cobra.Command {
	f := &projectFlags{}
	var event, file, qualifier string
	cmd := &cobra.Command{
		Use:   "invoke [RESOURCE]",
		Short: "Send an event to a function and print its answer",
		Long: `Send an event to a function and print its answer: POST /invoke with the event as the
body. An answer that is no 2xx is a failure, with exit code 3.`,
		Example: "  slipway invoke -e '{\"name\": \"world\"}'\n  slipway invoke function -f event.json --qualifier prod",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			data := []byte(event)
			switch file {
			case "":
			case "-":
				data, err = io.ReadAll(e.stdin)
			default:
				data, err = os.ReadFile(file)
			}
			if err != nil {
				return fmt.Errorf("read the event: %w", err)
			}
			fn, err := one(cmd.Context(), p, f, target)
			if err != nil {
				return err
			}
			got, err := target.Invoke(cmd.Context(), fn.Name, qualifier, data)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintln(e.stderr, "request "+got.RequestID)
			if _, err := e.stdout.Write(got.Body); err != nil {
				return fmt.Errorf("print the answer: %w", err)
			}
			if got.Status < 200 || got.Status > 299 {
				return &functionError{fmt.Sprintf("invoke %s: it answered %d", fn.Name, got.Status)}
			}
			return nil
		},
	}
	f.register(cmd.Flags(), false)
	cmd.Flags().StringVarP(&event, "event", "e", "", "the `EVENT`")
	cmd.Flags().StringVarP(&file, "event-file", "f", "", "read the event from `PATH`, - is standard input")
	cmd.Flags().StringVar(&qualifier, "qualifier", "", "the `VERSION` or alias (default: LATEST)")
	return cmd
}

func newLogs(e env) *cobra.Command {
	f := &projectFlags{}
	var lines int
	cmd := &cobra.Command{
		Use:     "logs [RESOURCE]",
		Short:   "Show the last lines of a function's log",
		Example: "  slipway logs\n  slipway logs function --lines 1000",
		GroupID: groupFunctions,
		Args:    arguments("[RESOURCE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, target, err := f.open(e, args)
			if err != nil {
				return err
			}
			fn, err := one(cmd.Context(), p, f, target)
			if err != nil {
				return err
			}
			got, err := target.Tail(cmd.Context(), fn.Name, lines)
			if err != nil {
				return err
			}
			if f.output == asJSON {
				return printJSON(e.stdout, got)
			}
			for _, line := range got {
				if _, err := fmt.Fprintln(e.stdout, line); err != nil {
					return fmt.Errorf("print the log: %w", err)
				}
			}
			return nil
		},
	}
	f.register(cmd.Flags(), false)
	cmd.Flags().IntVar(&lines, "lines", 100, "show `N` lines")
	return cmd
}
