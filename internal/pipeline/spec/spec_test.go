package spec_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/spec"
)

func update() *bool {
	f := flag.Lookup("update")
	b := f.Value.(flag.Getter).Get().(bool)
	return &b
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the files in testdata")
	flag.Parse()
	os.Exit(m.Run())
}

// anyTask accepts what the spec accepts.
type anyTask struct{}

func (anyTask) Check(*pipeline.Task, pipeline.Report) {}

func options() spec.Options {
	return spec.Options{
		Variables: map[string]string{
			"git.shortCommitId":  "12e3456",
			"git.commitId":       "0123456789012345678901234567890123456789",
			"git.branch":         "main",
			"git.message":        "a: b # c",
			"currentTimestampMs": "1700000000000",
		},
		Set:      map[string]string{"appName": "demo"},
		Checkers: map[string]spec.Checker{"build-image": anyTask{}},
	}
}

// render prints all that Resolve says: warnings, then the pipeline or the mistakes.
func render(t *testing.T, file *spec.File, opts spec.Options) string {
	t.Helper()
	var out strings.Builder
	p, warnings, err := spec.Resolve([]*spec.File{file}, opts)
	for _, w := range warnings {
		out.WriteString("warning: " + w.Error() + "\n" + w.Excerpt())
	}
	if err != nil {
		list, ok := errors.AsType[spec.Errors](err)
		if !ok || !errors.Is(err, errs.Invalid) {
			t.Fatalf("Resolve: %v (%T) is not spec.Errors of kind errs.Invalid", err, err)
		}
		for _, e := range list {
			out.WriteString("error: " + e.Error() + "\n" + e.Excerpt())
		}
		return out.String()
	}
	text, err := spec.Print(p)
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + string(text)
}

// Each folder of testdata has an input.yaml and, in want.txt, what slipway says about it. Read the diff of an -update.
func TestResolve(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(filepath.Dir(input)), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, spec.Parse("input.yaml", data), options())
			golden(t, filepath.Join(filepath.Dir(input), "want.txt"), got)
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update() {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s mismatch (-want +got):\n%s", path, diff)
	}
}
