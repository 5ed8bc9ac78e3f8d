package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"slipway/internal/pipeline/spec"
)

// examples returns the example pipelines by name.
func examples(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../../../examples/pipelines/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = data
	}
	return files
}

func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	schema, opts := readSchema(t), options()
	opts.Checkers["serverless-runner"] = anyTask{} // what it thinks of them is tested with the command line
	for name, data := range examples(t) {
		warnings, err := spec.Validate([]*spec.File{spec.Parse(name, data)}, opts)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v\n%v", name, err, warnings)
		}
		for _, mistake := range schema.file(t, data) {
			t.Errorf("%s: schema: %s", name, mistake)
		}
	}
}

func TestSchemaFindsMistakes(t *testing.T) {
	t.Parallel()
	schema := readSchema(t)
	for _, text := range []string{
		"kind: Pipelin\nname: p\nspec: {}",
		"kind: Pipeline\nspec: {}",
		"kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a}]}}",
		"kind: Pipeline\nname: p\nlables: {}\nspec: {}",
		"kind: Pipeline\nname: p\nspec: {context: {data: {enable: 7}}}",
		"kind: Pipeline\nname: p\nspec: {context: {data: {runnerConfig: {timeout: 90000}}}}",
		"kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a, taskTemplate: t, runAfters: [[b]]}]}}",
	} {
		if len(schema.file(t, []byte(text))) == 0 {
			t.Errorf("nothing wrong with %q", text)
		}
	}
	const good = "kind: Pipeline\nname: p\nspec: {context: {data: {mine: [1], enable: <% .x %>, runnerConfig: {cpu: '<% .x %>'}}}}"
	if mistakes := schema.file(t, []byte(good)); len(mistakes) > 0 {
		t.Errorf("%q: %v", good, mistakes)
	}
}

// schema is the part of JSON schema that ours is written in. A keyword it does not know fails the test: either the
// keyword is misspelt, or it belongs here.
type schema struct{ root map[string]any }

func readSchema(t *testing.T) schema {
	t.Helper()
	data, err := spec.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	return schema{root}
}

// file checks every document of a file.
func (s schema) file(t *testing.T, data []byte) []string {
	t.Helper()
	var documents []any
	if err := yaml.Load(data, &documents, yaml.WithAllDocuments()); err != nil {
		t.Fatal(err)
	}
	var mistakes []string
	for _, d := range documents {
		mistakes = append(mistakes, s.check(t, s.root, d, "")...)
	}
	return mistakes
}

func (s schema) check(t *testing.T, rules map[string]any, value any, path string) []string {
	t.Helper()
	var mistakes []string
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, path+": "+fmt.Sprintf(format, args...))
	}
	for keyword, rule := range rules {
		switch keyword {
		case "$schema", "$defs", "title", "description":
		case "$ref":
			name := strings.TrimPrefix(rule.(string), "#/$defs/")
			mistakes = append(mistakes, s.check(t, s.root["$defs"].(map[string]any)[name].(map[string]any), value, path)...)
		case "oneOf", "anyOf":
			fitting := 0
			for _, option := range rule.([]any) {
				if len(s.check(t, option.(map[string]any), value, path)) == 0 {
					fitting++
				}
			}
			if fitting == 0 || keyword == "oneOf" && fitting > 1 {
				wrong("%d of %s fit", fitting, keyword)
			}
		case "type":
			if !hasType(value, rule) {
				wrong("%v is not of type %v", value, rule)
			}
		case "const":
			if value != rule {
				wrong("%v is not %v", value, rule)
			}
		case "enum":
			if !slices.Contains(rule.([]any), value) {
				wrong("%v is not among %v", value, rule)
			}
		case "pattern":
			text, ok := value.(string)
			if match, err := regexp.MatchString(rule.(string), text); ok && (err != nil || !match) {
				wrong("%q does not match %v", text, rule)
			}
		case "minimum":
			if n, ok := number(value); ok && n < rule.(float64) {
				wrong("%v is less than %v", n, rule)
			}
		case "maximum":
			if n, ok := number(value); ok && n > rule.(float64) {
				wrong("%v is more than %v", n, rule)
			}
		case "items":
			items, _ := value.([]any)
			for i, item := range items {
				mistakes = append(mistakes, s.check(t, rule.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "required":
			object, ok := value.(map[string]any)
			for _, name := range rule.([]any) {
				if _, there := object[name.(string)]; ok && !there {
					wrong("%v is missing", name)
				}
			}
		case "properties", "additionalProperties":
			// both at once, below
		default:
			t.Fatalf("%s: unknown keyword %s", path, keyword)
		}
	}
	return append(mistakes, s.members(t, rules, value, path)...)
}

func (s schema) members(t *testing.T, rules map[string]any, value any, path string) []string {
	t.Helper()
	object, _ := value.(map[string]any)
	properties, _ := rules["properties"].(map[string]any)
	var mistakes []string
	for name, member := range object {
		rule, known := properties[name].(map[string]any)
		if !known {
			if rules["additionalProperties"] == false {
				mistakes = append(mistakes, path+"."+name+" is unknown")
			}
			rule, known = rules["additionalProperties"].(map[string]any)
		}
		if known {
			mistakes = append(mistakes, s.check(t, rule, member, path+"."+name)...)
		}
	}
	return mistakes
}

func number(value any) (float64, bool) {
	switch n := value.(type) {
	case int:
		return float64(n), true
	case float64:
		return n, true
	default:
		return 0, false
	}
}

func hasType(value, rule any) bool {
	if options, ok := rule.([]any); ok {
		return slices.ContainsFunc(options, func(option any) bool { return hasType(value, option) })
	}
	switch value.(type) {
	case nil:
		return rule == "null"
	case string:
		return rule == "string"
	case bool:
		return rule == "boolean"
	case int:
		return rule == "integer" || rule == "number"
	case float64:
		return rule == "number"
	case []any:
		return rule == "array"
	case map[string]any:
		return rule == "object"
	default: // YAML has other types, which no schema of ours allows
		return false
	}
}

// The files that the hosted system's documentation prints, with its masks filled in, mean what they say.
func TestPublished(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../../cmd/slipway/testdata/published/*.yaml")
	if err != nil || len(names) < 6 {
		t.Fatalf("%d files: %v", len(names), err)
	}
	schema := readSchema(t)
	opts := options()
	opts.Set["envName"] = "test"
	opts.Checkers["serverless-runner"] = anyTask{}
	for _, path := range names {
		name := filepath.Base(path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, warnings, err := spec.Resolve([]*spec.File{spec.Parse(name, data)}, opts)
		if len(warnings) > 0 {
			t.Errorf("%s: %v", name, warnings)
		}
		for _, mistake := range schema.file(t, data) {
			t.Errorf("%s: schema: %s", name, mistake)
		}
		if name == "cicd-as-published.yaml" { // whose TAB is fine, and whose runAfters names no task
			mistakes, ok := errors.AsType[spec.Errors](err)
			if !ok || len(mistakes) != 1 || mistakes[0].Error() != name+`:39:19: no task is called "build-push"` || mistakes[0].Hint != "did you mean build-image?" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || len(p.Tasks) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
