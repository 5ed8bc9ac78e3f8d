package spec_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/pipeline/spec"
)

// mistakes returns what Validate says of a text, and stops the test when it says nothing.
func mistakes(t *testing.T, text string) spec.Errors {
	t.Helper()
	_, err := spec.Validate([]*spec.File{spec.Parse("f.yaml", []byte(text))}, options())
	list, ok := errors.AsType[spec.Errors](err)
	if !ok {
		t.Fatalf("Validate: %v, want spec.Errors", err)
	}
	return list
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n")
	for i := range 12 {
		fmt.Fprintf(&laughs, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i, i, i, i, i, i, i, i)
	}
	var manyKeys strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&manyKeys, "k%d: 1\n", i)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"a billion laughs", laughs.String(), "more than 50000 values once aliases are expanded"},
		{"an alias of itself", "a: &a [*a]\n", "more than 64 maps and lists inside one another"},
		{"depth", strings.Repeat("[", 1000) + strings.Repeat("]", 1000), "more than 64 maps and lists inside one another"},
		{"much depth", strings.Repeat("{a: ", 100_000), ""},
		{"size", "a: " + strings.Repeat("x", spec.MaxSize), "larger than 1048576 bytes"},
		{"many keys", manyKeys.String(), "a map with more than 1000 keys"},
		{"many tasks", "kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [" + strings.Repeat("{name: a, taskTemplate: b},", 2000) + "]}}", "2000 tasks, at most 1000"},
		{"many mistakes", "kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a, taskTemplate: build-image-task, runAfters: [" + strings.Repeat("b,", 20000) + "]}]}}", "no task is called"},
		{"many values", "[" + strings.Repeat("a,", 100_000) + "]", "more than 50000 values"},
		{"merge of merges", "a: &a {<<: *a}\n", ""},
		{"a tag", "kind: !!binary aGVsbG8=\n", "the tag !!binary means nothing here"},
		{"a key that is a list", "? [a]\n: b\n", "a key must be a scalar"},
		{"no text", "\x00\x01", ""},
		{"no UTF-8", "a: \xff", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := mistakes(t, tt.text)
			if !strings.Contains(got.Error(), tt.want) {
				t.Errorf("got %.300v, want %q", got, tt.want)
			}
		})
	}
}

func TestSourceLinesCannotWriteToTheTerminal(t *testing.T) {
	t.Parallel()
	for _, e := range mistakes(t, "kind: Pipeline\nname: \"a\\u001b[2J\"\t\u0085\nspec: {templateName: x}\n") {
		if text := e.Error() + e.Excerpt(); strings.ContainsAny(text, "\x1b\t\u0085") {
			t.Errorf("%q holds a control character", text)
		}
	}
}

func TestValidateUsesSamples(t *testing.T) {
	t.Parallel()
	const text = `kind: Pipeline
name: p-<% .git.shortCommitId %>-<% .currentTimestampMs %>
spec:
  context: {data: {appName: <% .appName %>, tag: <% .git.tag %>}}
  templateSpec: {tasks: [{name: a, taskTemplate: build-image-task}]}
`
	if _, err := spec.Validate([]*spec.File{spec.Parse("f.yaml", []byte(text))}, spec.Options{}); err != nil {
		t.Errorf("Validate: %v", err)
	}
}

func TestValidateChecksTemplatesThatNobodyUses(t *testing.T) {
	t.Parallel()
	got := mistakes(t, "kind: PipelineTemplate\nname: t\nspec: {tasks: [{name: a, taskTemplate: build-image-task, runAfters: [b]}]}\n")
	if want := `f.yaml:3:70: no task is called "b"`; got.Error() != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestTemplatesInOtherFiles(t *testing.T) {
	t.Parallel()
	template := spec.Parse("template.yaml", []byte("kind: PipelineTemplate\nname: t\nspec: {tasks: [{name: a, taskTemplate: build-image-task}]}\n"))
	run := spec.Parse("run.yaml", []byte("kind: Pipeline\nname: p\nspec: {templateName: t}\n"))
	p, _, err := spec.Resolve([]*spec.File{run, template}, options())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Tasks[0].Origin.String(), "template.yaml:3:23"; got != want {
		t.Errorf("the task comes from %s, want %s", got, want)
	}
}

func TestOnly(t *testing.T) {
	t.Parallel()
	const text = `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - {name: build, taskTemplate: build-image-task, context: {data: {enable: true}}}
      - {name: "off", taskTemplate: build-image-task, runAfters: [build]}
      - {name: deploy, taskTemplate: serverless-runner-task, context: {data: {enable: true}}, runAfters: [build]}
`
	files := []*spec.File{spec.Parse("f.yaml", []byte(text))}
	for _, tt := range []struct{ only, want string }{
		{"build", ""},
		{"biuld", `--task biuld: no task is called "biuld"`},
		{"off", "--task off: the task does not run: enable is not true"},
		{"deploy", "f.yaml:8:16: the task needs serverless-runner-task, which slipway cannot run yet"},
	} {
		t.Run(tt.only, func(t *testing.T) {
			t.Parallel()
			opts := options()
			opts.Only = []string{tt.only}
			p, _, err := spec.Resolve(files, opts)
			if tt.want != "" {
				if err == nil || err.Error() != tt.want || !errors.Is(err, errs.Invalid) {
					t.Errorf("Resolve: %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Task("deploy").Skip; got != "not chosen with --task" {
				t.Errorf("deploy is skipped for %q", got)
			}
		})
	}
}

func TestEnvironmentVariables(t *testing.T) {
	t.Parallel()
	const text = `kind: Pipeline
name: p
spec:
  templateSpec:
    tasks:
      - name: a
        taskTemplate: build-image-task
        context: {data: {runnerConfig: {environmentVariables: {A: r, B: r, C: r}}, envVars: {B: 0123, C: e}}}
`
	opts := options()
	opts.Env = map[string]string{"C": "flag"}
	p, _, err := spec.Resolve([]*spec.File{spec.Parse("f.yaml", []byte(text))}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.Tasks[0].Env); got != "map[A:r B:0123 C:flag]" {
		t.Errorf("Env = %s", got)
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a, taskTemplate: build-image-task, runAfters: [{name: b}]}]}}")
	f.Add("a: &a [*a]\nb: {<<: *a}")
	f.Add("kind: Pipeline\nspec: {context: {data: {a: \"<% .x %>\"}}}\n---\n- \t# x")
	f.Add("kind: TaskTemplate\nspec: {executeCondition: {expression: '!(a'}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := spec.Parse("f", []byte(text))
		warnings, err := spec.Validate([]*spec.File{file}, options())
		list, _ := errors.AsType[spec.Errors](err)
		if err != nil && (len(list) == 0 || !errors.Is(err, errs.Invalid)) {
			t.Fatalf("Validate: %#v", err)
		}
		for _, e := range append(list, warnings...) {
			_ = e.Error() + e.Excerpt()
		}
		if p, _, err := spec.Resolve([]*spec.File{file}, options()); err == nil {
			if _, err := spec.Print(p); err != nil {
				t.Errorf("Print: %v", err)
			}
		}
	})
}
