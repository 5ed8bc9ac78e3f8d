package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/cli/progress"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
)

// runFlags are the flags of `slipway run` as typed.
type runFlags struct {
	app.Run
	words   config.Words
	isolate isolateFlag
	mode    progress.Mode
	output  format
	set     []string
	env     []string
	secrets []string
	dryRun  bool
}

func newRun(e env) *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] PIPELINE.yaml [FILE|FOLDER…]",
		Short: "Run a pipeline on this machine",
		Long: `Run a pipeline on this machine, without a server.

The pipeline may use templates of further files, and of all pipeline files of a folder;
PIPELINE.yaml may be a folder too, when it holds one pipeline.

A need-approval task asks on the terminal; --approve NAME answers beforehand. Without
either the pipeline does not start. A rejection ends it.

The tasks work on a commit of a git repository: the one that holds the file, at HEAD,
unless --repo and --ref say otherwise. Changes that are not committed are not seen.
At the end standard output gets a table of the tasks and the images they pushed;
everything else is on standard error.`,
		Example: `  slipway run cicd.yaml
  slipway run --ref main --set appName=shop --set envName=test cicd.yaml
  slipway run --map-registry registry-vpc.cn-hangzhou.aliyuncs.com=127.0.0.1:5000 cicd.yaml
  slipway run cicd.yaml templates/
  slipway run --dry-run cicd.yaml`,
		GroupID: groupBuild,
		Args:    arguments("PIPELINE.yaml", "[FILE|FOLDER…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Files = args
			return runPipeline(cmd.Context(), e, f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (f *runFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.Repo, "repo", "", "work on the repository `DIR|URL` (default: the one that holds the file)")
	flags.StringVar(&f.Ref, "ref", "", "work on the branch, tag or commit `REF` (default: HEAD)")
	flags.StringArrayVar(&f.set, "set", nil, "set `KEY=VALUE`: the value of <% .KEY %>, and context data of all tasks; repeatable")
	flags.StringArrayVar(&f.env, "env", nil, "add `K[=V]` to the environment of every task; K alone takes your value of it; repeatable")
	flags.StringArrayVar(&f.Only, "task", nil, "run the task `NAME` alone; repeatable")
	flags.StringArrayVar(&f.Approved, "approve", nil, "approve the need-approval task `NAME` beforehand, * approves all; repeatable")
	flags.IntVar(&f.Parallel, "parallel", 0, "run at most `N` tasks at once (default: as many as runAfters allow)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the resolved pipeline, with the origin of every value, and stop")
	flags.StringArrayVar(&f.words.MapRegistry, "map-registry", nil, "use another registry for a host: `HOST=HOST[/PREFIX]`; repeatable")
	flags.StringArrayVar(&f.words.MapNAS, "map-nas", nil, "use a folder of this machine for a network folder: `SERVER:/PATH=DIR`; repeatable")
	flags.StringArrayVar(&f.secrets, "secret", nil, "give steps ${{ secrets.ID }}: `id=ID[,src=FILE|,env=VARIABLE]`; repeatable")
	flags.StringVar(&f.words.RunnerImage, "runner-image", "", "run steps in the image `REF` (default: a root file system made of this machine's packages)")
	f.isolate.register(flags)
	registryFlags(flags, &f.words)
	progressFlag(flags, &f.mode)
	outputFlag(flags, &f.output)
}

func runPipeline(ctx context.Context, e env, f *runFlags) (err error) {
	if f.Parallel < 0 {
		return fmt.Errorf("--parallel %d: want a number of tasks, or 0 for as many as runAfters allow: %w", f.Parallel, errs.Invalid)
	}
	if f.Set, err = pairs("--set", f.set, nil); err != nil {
		return err
	}
	if f.Env, err = pairs("--env", f.env, e.getenv); err != nil {
		return err
	}
	for _, word := range f.secrets {
		s, err := parseSecret(word)
		if err != nil {
			return err
		}
		f.Secrets = append(f.Secrets, s)
	}
	home, err := e.home()
	if err != nil {
		return err
	}
	place := place{}
	if !f.dryRun {
		if place, err = f.isolate.enter(ctx, e); err != nil {
			return err
		}
	}
	p, err := app.Prepare(ctx, home, e.now(), f.Run)
	if err != nil {
		return e.tellMistakes(err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	e.tellWarnings(p.Warnings)
	if f.dryRun {
		return printPipeline(e.stdout, p.Pipeline)
	}
	if p.Repository != nil && p.Repository.Changes > 0 {
		tell(e.stderr, "warning", fmt.Sprintf("files that are not committed (%d) are not seen: the run takes commit %s as it is",
			p.Repository.Changes, p.Repository.Commit().Short()))
	}
	a, err := openApp(e, f.words, place.apply)
	if err != nil {
		return err
	}
	show, err := e.display(f.mode)
	if err != nil {
		return err
	}
	place.tell(show.Event, e.now())
	run, err := a.Run(ctx, p, app.Listener{Events: narrate(show, f.mode), Ask: e.ask(show)})
	err = errors.Join(err, show.Close())
	if run == nil {
		return err
	}
	return errors.Join(err, printRun(e.stdout, f.output, run))
}

func printPipeline(w io.Writer, p *pipeline.Pipeline) error {
	text, err := spec.Print(p)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("print the pipeline: %w", err)
	}
	return nil
}

// narrate shows a run's events: the builds' own in a scope for each task, all else as sentences about tasks.
func narrate(display *progress.Display, mode progress.Mode) func(pipeline.Event) {
	started, steps := map[string]time.Time{}, map[stepKey]time.Time{}
	return func(ev pipeline.Event) {
		sink := display.Scope(ev.Task)
		if detail, ok := ev.Detail.(build.Event); ok {
			sink(detail)
			return
		}
		if told, ok := stepEvent(ev, steps); ok {
			sink(told)
			return
		}
		text := sentence(ev, started)
		if text == "" {
			return
		}
		if mode != progress.JSON && ev.Task != "" {
			text = ev.Task + ": " + text
		}
		sink(build.Event{Kind: build.Note, Time: ev.Time, Text: text})
	}
}

// stepBase keeps the numbers of steps apart from those that a build or a fetch of the same task gives.
const stepBase = 1000

type stepKey struct {
	task   string
	number int
}

// stepEvent shows a step as builds show theirs; began remembers when those that run did. A step that never began is a
// sentence.
func stepEvent(ev pipeline.Event, began map[stepKey]time.Time) (build.Event, bool) {
	if ev.Step == nil {
		return build.Event{}, false
	}
	key := stepKey{ev.Task, ev.Step.Number}
	out := build.Event{Time: ev.Time, Step: stepBase + ev.Step.Number, Text: ev.Text}
	start, runs := began[key]
	switch {
	case ev.Kind == pipeline.StepStarted:
		began[key] = ev.Time
		out.Kind, out.Name = build.Started, fmt.Sprintf("[%d] %s", ev.Step.Number, ev.Step.Name)
	case ev.Kind == pipeline.Log:
		out.Kind, out.Stream = build.Log, max(ev.Stream, 1)
	case ev.Kind != pipeline.StepFinished || !runs:
		return build.Event{}, false
	default:
		delete(began, key)
		out.Kind, out.Took = build.Done, ev.Time.Sub(start)
		if ev.Step.Status != pipeline.StepSuccess {
			out.Kind, out.Text = build.Failed, string(ev.Step.Status)+": "+ev.Text
		}
	}
	return out, true
}

// sentence says what an event means to a person, "" when it is not worth one.
func sentence(ev pipeline.Event, started map[string]time.Time) string {
	switch ev.Kind {
	case pipeline.TaskStarted:
		started[ev.Task] = ev.Time
		return "started"
	case pipeline.TaskFinished:
		var words []string
		words = append(words, string(ev.Status))
		if begin, ok := started[ev.Task]; ok {
			words = append(words, "after "+elapsed(ev.Time.Sub(begin)))
		}
		if ev.Text != "" && ev.Status != pipeline.Failed { // the error of a failed task comes at the end
			words = append(words, "("+ev.Text+")")
		}
		return strings.Join(words, " ")
	case pipeline.Log, pipeline.Notice:
		return ev.Text
	case pipeline.StepFinished: // of one that never began
		text := fmt.Sprintf("step %d, %s: %s", ev.Step.Number, ev.Step.Name, ev.Step.Status)
		if ev.Text != "" {
			text += " (" + ev.Text + ")"
		}
		return text
	default:
		return ""
	}
}

// runResult is what --output json prints of a run.
type runResult struct {
	Name       string          `json:"name"`
	Status     pipeline.Status `json:"status"`
	StartedAt  time.Time       `json:"startedAt"`
	FinishedAt time.Time       `json:"finishedAt"`
	Tasks      []taskResult    `json:"tasks"`
}

type taskResult struct {
	Name       string          `json:"name"`
	Status     pipeline.Status `json:"status"`
	StartedAt  *time.Time      `json:"startedAt,omitempty"` // absent when it did not start
	FinishedAt *time.Time      `json:"finishedAt,omitempty"`
	Attempts   int             `json:"attempts,omitempty"`
	ExitCode   int             `json:"exitCode"`
	Class      pipeline.Class  `json:"class,omitempty"`  // whose failure it was
	Reason     string          `json:"reason,omitempty"` // why it was skipped or did not start
	Error      string          `json:"error,omitempty"`
	Image      string          `json:"image,omitempty"`
	Digest     string          `json:"digest,omitempty"`
	Also       []string        `json:"also,omitempty"` // further references to the image
	Steps      []stepResult    `json:"steps,omitempty"`

	Accelerated []imageResult `json:"accelerated,omitempty"` // images made of it that need not be fetched whole
}

type imageResult struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
}

type stepResult struct {
	Number int                 `json:"number"`
	Name   string              `json:"name"`
	Status pipeline.StepStatus `json:"status"`
}

// printRun prints what became of a run.
func printRun(w io.Writer, f format, run *pipeline.Run) error {
	if f == asJSON {
		return printJSON(w, resultOf(run))
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0) // Flush returns what went wrong on the way
	_, _ = fmt.Fprintln(table, "TASK\tSTATUS\tTIME\tIMAGE\tDIGEST")
	for _, t := range run.Tasks {
		took := "-"
		if !t.StartedAt.IsZero() {
			took = elapsed(t.FinishedAt.Sub(t.StartedAt))
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", t.Name, t.Status, took, orDash(t.Output.Image), orDash(t.Output.Digest))
		for _, im := range t.Output.Accelerated {
			_, _ = fmt.Fprintf(table, "\t\t\t%s\t%s\n", im.Ref, im.Digest)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func resultOf(run *pipeline.Run) runResult {
	result := runResult{Name: run.Name, Status: run.Status, StartedAt: run.StartedAt, FinishedAt: run.FinishedAt, Tasks: []taskResult{}}
	for _, t := range run.Tasks {
		task := taskResult{
			Name: t.Name, Status: t.Status, Attempts: t.Attempts, ExitCode: t.ExitCode, Class: t.Class, Reason: t.Reason,
			Image: t.Output.Image, Digest: t.Output.Digest, Also: t.Output.Also,
		}
		for _, im := range t.Output.Accelerated {
			task.Accelerated = append(task.Accelerated, imageResult{im.Ref, im.Digest})
		}
		for _, s := range t.Output.Steps {
			task.Steps = append(task.Steps, stepResult(s))
		}
		if !t.StartedAt.IsZero() {
			task.StartedAt, task.FinishedAt = &t.StartedAt, &t.FinishedAt
		}
		if t.Err != nil {
			task.Error, task.Reason = redact(t.Err.Error()), ""
		}
		result.Tasks = append(result.Tasks, task)
	}
	return result
}

// elapsed prints a duration as exactly as people care: to the millisecond below a second, then to a tenth.
func elapsed(d time.Duration) string {
	if d < time.Second {
		return pipeline.Duration(d.Round(time.Millisecond))
	}
	return pipeline.Duration(d.Round(100 * time.Millisecond))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
