package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/engine"
	"slipway/internal/pipeline/runner/fake"
	"slipway/internal/pipeline/runner/local"
	"slipway/internal/pipeline/spec"
	"slipway/internal/task/approval"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the files in testdata")
	flag.Parse()
	os.Exit(m.Run())
}

// event is a pipeline.Event as want.json has it: At is the time since the run began.
type event struct {
	At     string             `json:"at"`
	Kind   pipeline.EventKind `json:"kind"`
	Task   string             `json:"task,omitempty"`
	Status pipeline.Status    `json:"status,omitempty"`
	Text   string             `json:"text,omitempty"`
	Image  string             `json:"image,omitempty"`
}

// story is what a scenario tells: its events, and how it ended.
type story struct {
	Events []event           `json:"events"`
	Status pipeline.Status   `json:"status"`
	Tasks  map[string]string `json:"tasks"` // status, and what else there is to say: exit code, class, tries
	Error  string            `json:"error,omitempty"`
	Hint   string            `json:"hint,omitempty"`
	Kind   string            `json:"kind,omitempty"`
}

// Each folder of testdata is a scenario: a pipeline whose tasks play scripts, and the story it must tell. Labels steer
// the run: cancelAfter is when the user interrupts, parallel how many tasks may run at once, only and approve are --task
// and --approve with commas, and answer is what the person at the terminal says to a question after a minute's thought.
func TestScenarios(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*/pipeline.yaml")
	if err != nil || len(inputs) < 45 {
		t.Fatalf("%d scenarios: %v", len(inputs), err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(filepath.Dir(input)), func(t *testing.T) {
			t.Parallel()
			p := load(t, input)
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				golden(t, filepath.Join(filepath.Dir(input), "want.json"), tell(t, p, dir))
			})
		})
	}
}

func load(t *testing.T, path string) *pipeline.Pipeline {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := spec.Parse("pipeline.yaml", data)
	p, warnings, err := spec.Resolve([]*spec.File{file}, spec.Options{
		Checkers: map[string]spec.Checker{
			"build-image": fake.Worker{}, "serverless-runner": fake.Worker{}, approval.Name: approval.New(approval.Options{}),
		},
		Only:     words(file, "only"),
		Approved: words(file, "approve"),
	})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v\n%v", err, warnings)
	}
	return p
}

// words are those of a label of the file's Pipeline.
func words(file *spec.File, label string) []string {
	for _, d := range file.Documents {
		if text := d.Get("labels", label).String(); text != "" {
			return strings.Split(text, ",")
		}
	}
	return nil
}

// person answers as the labels say, after a minute.
func person(p *pipeline.Pipeline) func(context.Context, approval.Question) (bool, error) {
	return func(ctx context.Context, _ approval.Question) (bool, error) {
		select {
		case <-time.After(time.Minute):
			return p.Labels["answer"] == "yes", nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// tell runs a pipeline in the bubble's time and returns its story.
func tell(t *testing.T, p *pipeline.Pipeline, dir string) story {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if d, err := time.ParseDuration(p.Labels["cancelAfter"]); err == nil && d == 0 {
		cancel(errs.Canceled)
	} else if err == nil {
		time.AfterFunc(d, func() { cancel(errs.Canceled) })
	}
	parallel, _ := strconv.Atoi(p.Labels["parallel"])
	begin := time.Now()
	var s story
	run, err := engine.Run(ctx, p, engine.Options{
		Runner: local.New(local.Options{
			Dir: dir,
			Workers: map[string]pipeline.Worker{
				"build-image": fake.Worker{}, "serverless-runner": fake.Worker{},
				approval.Name: approval.New(approval.Options{Approved: strings.Split(p.Labels["approve"], ","), Ask: person(p)}),
			},
			Machine: pipeline.Machine{CPUs: 4, Memory: 16 * pipeline.GiB},
		}),
		Emit: func(e pipeline.Event) {
			s.Events = append(s.Events, event{e.Time.Sub(begin).String(), e.Kind, e.Task, e.Status, e.Text, e.Output.Image})
		},
		Now:      time.Now,
		Parallel: parallel,
	})
	s.Status, s.Tasks = run.Status, map[string]string{}
	for _, task := range run.Tasks {
		s.Tasks[task.Name] = string(task.Status)
		if task.ExitCode != 0 {
			s.Tasks[task.Name] += fmt.Sprintf(" with exit code %d", task.ExitCode)
		}
		if task.Class != "" {
			s.Tasks[task.Name] += fmt.Sprintf(", class %s", task.Class)
		}
		if task.Attempts > 1 {
			s.Tasks[task.Name] += fmt.Sprintf(", tried %d times", task.Attempts)
		}
	}
	if err != nil {
		s.Error, s.Hint, s.Kind = err.Error(), errs.HintOf(err), kind(err)
	}
	inOrder(s.Events)
	return s
}

// inOrder sorts neighbours of one kind and moment: tasks that run beside each other end in no order.
func inOrder(events []event) {
	for i := 0; i < len(events); {
		n := i + 1
		for n < len(events) && events[n].At == events[i].At && events[n].Kind == events[i].Kind {
			n++
		}
		slices.SortStableFunc(events[i:n], func(a, b event) int { return strings.Compare(a.Task, b.Task) })
		i = n
	}
}

func kind(err error) string {
	for _, k := range []error{errs.Limit, errs.Canceled, errs.Invalid} {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	return ""
}

func golden(t *testing.T, path string, got story) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		var out strings.Builder
		enc := json.NewEncoder(&out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(got); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want story
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("story mismatch (-want +got):\n%s", diff)
	}
}

// Two hundred tasks, in a chain and side by side: what engine and runner themselves cost, folders of attempts included.
// More than 30 ms a task would show beside a build that has nothing to do.
func BenchmarkTasks(b *testing.B) {
	const tasks = 200
	for _, shape := range []string{"chain", "wide"} {
		p := &pipeline.Pipeline{Name: shape}
		for i := range tasks {
			task := pipeline.Task{Name: fmt.Sprint(i), Worker: "fake", Environment: pipeline.DefaultEnvironment()}
			if i > 0 && shape == "chain" {
				task.After = []string{fmt.Sprint(i - 1)}
			}
			p.Tasks = append(p.Tasks, task)
		}
		b.Run(shape, func(b *testing.B) {
			runner := local.New(local.Options{Dir: b.TempDir(), Workers: map[string]pipeline.Worker{"fake": fake.Worker{}}})
			for b.Loop() {
				if _, err := engine.Run(b.Context(), p, engine.Options{Runner: runner, Emit: func(pipeline.Event) {}, Now: time.Now}); err != nil {
					b.Fatal(err)
				}
			}
			each := float64(b.Elapsed().Microseconds()) / float64(b.N) / tasks
			b.ReportMetric(each, "µs/task")
			if each > 30_000 {
				b.Errorf("%.0f µs a task", each)
			}
		})
	}
}

func TestWideAndDeep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pipeline.Pipeline{Name: "wide"}
		for i := range 200 {
			task := pipeline.Task{Name: fmt.Sprint(i), Worker: "fake", Environment: pipeline.DefaultEnvironment(), Data: script("sleep", "1s")}
			if i >= 20 {
				task.After = []string{fmt.Sprint(i - 20), fmt.Sprint(i/20*20 - 1)}
			}
			p.Tasks = append(p.Tasks, task)
		}
		var mu sync.Mutex
		started := 0
		begin := time.Now()
		run, err := engine.Run(t.Context(), p, engine.Options{Runner: fake.Runner{}, Now: time.Now, Emit: func(e pipeline.Event) {
			if !mu.TryLock() {
				t.Error("two events at once")
				return
			}
			defer mu.Unlock()
			if e.Kind == pipeline.TaskStarted {
				started++
			}
		}})
		if err != nil || run.Status != pipeline.Succeeded || started != 200 {
			t.Errorf("Run: %v, %s, %d started", err, run.Status, started)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("took %s, want 10s: ten rows of twenty at once", took)
		}
	})
}

func script(key, value string) *pipeline.Value {
	inner := &pipeline.Value{Kind: pipeline.Map, Members: []pipeline.Member{{Key: key, Value: &pipeline.Value{Kind: pipeline.String, Text: value}}}}
	return &pipeline.Value{Kind: pipeline.Map, Members: []pipeline.Member{{Key: "fake", Value: inner}}}
}
