package sfile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"slipway/internal/deploy/sfile"
	"slipway/internal/errs"
	"slipway/internal/mistake"
)

var update = flag.Bool("update", false, "write what was got into testdata")

// TestGolden reads every testdata/*.txtar: an s.yaml and the files beside it, "options" (a word and its value a line), and
// in "want" what comes of it: warnings and mistakes with their places, or the order and all that is evaluated.
func TestGolden(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) < 60 {
		t.Fatalf("%d cases, %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, archive)
			for i := range archive.Files {
				if archive.Files[i].Name != "want" {
					continue
				}
				if *update {
					archive.Files[i].Data = []byte(got)
					if err := os.WriteFile(name, txtar.Format(archive), 0o600); err != nil {
						t.Fatal(err)
					}
				} else if diff := cmp.Diff(string(archive.Files[i].Data), got); diff != "" {
					t.Errorf("%s\nmismatch (-want +got):\n%s", archive.Comment, diff)
				}
				return
			}
			t.Fatal("no section called want")
		})
	}
}

func play(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	env, outputs, commands := map[string]string{}, map[string]map[string]any{}, []string{"deploy"}
	opts := sfile.Options{
		ReadFile: func(name string) ([]byte, error) {
			if data, ok := files[filepath.Clean(name)]; ok && name != "want" {
				return []byte(data), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		Abs: func(name string) (string, error) {
			if _, ok := files[filepath.Clean(name)]; !ok {
				return "", &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
			}
			return filepath.Join("/app", name), nil
		},
		Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		Config: func(access, key string) (string, bool) {
			v, ok := map[string]string{"default AccountID": "100", "prod AccountID": "200"}[access+" "+key]
			return v, ok
		},
		Secret: func(key string) (string, bool) { return "hidden", key == "password" },
	}
	for line := range strings.Lines(files["options"]) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, rest, _ := strings.Cut(value, "=")
		switch word {
		case "env":
			env[name] = rest
		case "access":
			opts.Access = value
		case "environment":
			opts.Environment = value
		case "check":
			opts.Check = true
		case "commands":
			commands = strings.Fields(value)
		case "output":
			var v map[string]any
			if err := json.Unmarshal([]byte(rest), &v); err != nil {
				t.Fatal(err)
			}
			outputs[name] = v
		default:
			t.Fatalf("unknown option %q", line)
		}
	}
	project, warnings, err := sfile.Load("s.yaml", []byte(files["s.yaml"]), opts)
	var b strings.Builder
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning %s", told(w))
	}
	if err != nil {
		b.WriteString(mistakes(t, err))
		return b.String()
	}
	for _, command := range commands {
		fmt.Fprintf(&b, "%s: %v\n", command, project.Steps(command))
		actions(t, &b, project, command, "", outputs)
	}
	for _, r := range project.Resources {
		fmt.Fprintf(&b, "%s (%s, access %s)\n", r.Name, r.Component, r.Access)
		props, err := project.Props(r.Name, outputs)
		if err != nil {
			b.WriteString(mistakes(t, err))
		} else {
			b.WriteString(indented(t, props))
		}
		for _, command := range commands {
			actions(t, &b, project, command, r.Name, outputs)
		}
	}
	return b.String()
}

func actions(t *testing.T, b *strings.Builder, project *sfile.Project, command, resource string, outputs map[string]map[string]any) {
	t.Helper()
	for _, phase := range []sfile.Phase{sfile.Pre, sfile.Success, sfile.Fail, sfile.Complete} {
		list, err := project.Actions(phase, command, resource, outputs)
		if err != nil {
			b.WriteString(mistakes(t, err))
		}
		for _, a := range list {
			fmt.Fprintf(b, "  %s-%s %s", phase, command, indented(t, a))
		}
	}
}

func told(m *mistake.Error) string { return m.Error() + "\n" + m.Excerpt() }

func mistakes(t *testing.T, err error) string {
	t.Helper()
	list, ok := errors.AsType[mistake.Errors](err)
	if !ok || !errors.Is(err, errs.Invalid) {
		t.Fatalf("%v (%T) is not mistake.Errors of kind errs.Invalid", err, err)
	}
	var b strings.Builder
	for _, m := range list {
		b.WriteString(told(m))
	}
	return b.String()
}

func indented(t *testing.T, v any) string {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAllows(t *testing.T) {
	t.Parallel()
	some := sfile.Action{AllowFailure: true, ExitCodes: []int{100}, Commands: []string{"deploy"}}
	for _, tt := range []struct {
		action  sfile.Action
		command string
		code    int
		want    bool
	}{
		{sfile.Action{}, "deploy", 1, false},
		{sfile.Action{AllowFailure: true}, "deploy", 1, true},
		{some, "deploy", 100, true},
		{some, "deploy", 1, false},
		{some, "remove", 100, false},
	} {
		if got := tt.action.Allows(tt.command, tt.code); got != tt.want {
			t.Errorf("%+v.Allows(%s, %d) = %v", tt.action, tt.command, tt.code, got)
		}
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	data, err := sfile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Resources struct {
				Additional struct {
					Properties struct {
						Props struct {
							AnyOf []struct {
								Properties map[string]any
								Required   []string
							}
						}
					}
				} `json:"additionalProperties"`
			}
		}
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	props := schema.Properties.Resources.Additional.Properties.Props.AnyOf[0]
	if diff := cmp.Diff([]string{"region", "functionName", "runtime"}, props.Required); diff != "" {
		t.Errorf("required properties (-want +got):\n%s", diff)
	}
	for _, name := range []string{"customContainerConfig", "triggers", "memorySize", "instanceLifecycleConfig"} {
		if props.Properties[name] == nil {
			t.Errorf("the schema has no property %s", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "s.yaml" {
				f.Add(string(file.Data))
			}
		}
	}
	f.Add("edition: 3.0.0\nvars: {a: &a [*a], b: ${vars.b}}\nresources: {x: {component: fc3, props: {region: \"${vars.b['x\\\\']}\"}}}")
	f.Fuzz(func(t *testing.T, text string) {
		for _, check := range []bool{false, true} {
			project, _, err := sfile.Load("s.yaml", []byte(text), sfile.Options{Check: check})
			if err != nil {
				if list, ok := errors.AsType[mistake.Errors](err); !ok || len(list) == 0 {
					t.Errorf("%v (%T) is not mistake.Errors", err, err)
				}
				continue
			}
			project.Steps("deploy")
			for _, r := range project.Resources {
				if _, err := project.Props(r.Name, nil); err != nil && !errors.Is(err, errs.Invalid) {
					t.Errorf("Props: %v", err)
				}
			}
		}
	})
}
