package plan_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
)

const rulesDir = "../../../docs/rules"

// rules are all that BuildKit's linter has.
func rules() []linter.LinterRuleI {
	return []linter.LinterRuleI{
		&linter.RuleConsistentInstructionCasing,
		&linter.RuleCopyIgnoredFile,
		&linter.RuleDuplicateStageName,
		&linter.RuleExposeInvalidFormat,
		&linter.RuleExposeProtoCasing,
		&linter.RuleFromAsCasing,
		&linter.RuleFromPlatformFlagConstDisallowed,
		&linter.RuleInvalidBaseImagePlatform,
		&linter.RuleInvalidDefaultArgInFrom,
		&linter.RuleInvalidDefinitionDescription,
		&linter.RuleJSONArgsRecommended,
		&linter.RuleLegacyKeyValueFormat,
		&linter.RuleMaintainerDeprecated,
		&linter.RuleMultipleInstructionsDisallowed,
		&linter.RuleNoEmptyContinuation,
		&linter.RuleRedundantTargetPlatform,
		&linter.RuleReservedStageName,
		&linter.RuleSecretsUsedInArgOrEnv,
		&linter.RuleStageNameCasing,
		&linter.RuleUndefinedArgInFrom,
		&linter.RuleUndefinedVar,
		&linter.RuleWorkdirRelativePath,
	}
}

// Each rule has a page, and the page is true: what it shows before is warned of as it says, and by no other rule, and
// what it shows after is not warned of at all.
func TestRulePages(t *testing.T) {
	t.Parallel()
	index := readFile(t, filepath.Join(rulesDir, "README.md"))
	pages := map[string]bool{}
	for _, rule := range rules() {
		name := rule.RuleName()
		pages[name+".md"] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(index, fmt.Sprintf("| [%s](%s.md) |", name, name)) {
				t.Error("the list of rules does not name it")
			}
			page := readFile(t, filepath.Join(rulesDir, name+".md"))
			if !strings.HasPrefix(page, "# "+name+"\n") {
				t.Error("the page has another title")
			}
			before, after, ok := strings.Cut(page, "\n## After\n")
			if !ok {
				t.Fatal("the page shows nothing to write instead")
			}
			ignore, args := block(before, "gitignore"), map[string]string{}
			if _, rest, ok := strings.Cut(before, "`--build-arg "); ok {
				word, _, _ := strings.Cut(rest, "`")
				k, v, _ := strings.Cut(word, "=")
				args[k] = v
			}
			found := lintText(t, block(before, "dockerfile"), ignore, args)
			if *update {
				changed := strings.Replace(page, block(before, "text"), found, 1)
				if err := os.WriteFile(filepath.Join(rulesDir, name+".md"), []byte(changed), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(block(before, "text"), found); diff != "" {
				t.Errorf("warnings before mismatch (-page +Lint):\n%s", diff)
			}
			if !strings.Contains(block(before, "text"), "["+name+"]") {
				t.Error("the page does not show its warning")
			}
			if diff := cmp.Diff("", lintText(t, block(after, "dockerfile"), ignore, nil)); diff != "" {
				t.Errorf("warnings after mismatch (-none +Lint):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(rulesDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if base := filepath.Base(f); base != "README.md" && !pages[base] {
			t.Errorf("%s is the page of no rule", f)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// block returns the content of a page's first block of a language.
func block(page, language string) string {
	_, rest, _ := strings.Cut(page, "\n```"+language+"\n")
	text, _, _ := strings.Cut(rest, "```\n")
	return text
}

// lintText lints a Dockerfile whose base images are plain, and prints as the command line does.
func lintText(t *testing.T, file, ignore string, args map[string]string) string {
	t.Helper()
	opts := plan.Options{Args: args, BuildPlatform: amd64(), Supports: []dockerfile.Feature{dockerfile.Mount}}
	var err error
	if opts.Ignore, err = dockerfile.ParseIgnore(".dockerignore", []byte(ignore)); err != nil {
		t.Fatal(err)
	}
	found, err := lint(file, opts, resolver(nil))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, w := range found {
		fmt.Fprintf(&b, "%s: warning: %s [%s]\n", w.Place(), w.Msg, w.Rule)
	}
	return b.String()
}

// lint parses and lints, resolving images until nothing is missing.
func lint(file string, opts plan.Options, resolve func(plan.Need) plan.Image) ([]dockerfile.Warning, error) {
	f, err := dockerfile.ParseWithArgs("Dockerfile", []byte(file), opts.Args)
	if err != nil {
		return f.Warnings, err
	}
	images := map[plan.Need]plan.Image{}
	for {
		found, err := plan.Lint(f, opts, images)
		need, ok := errors.AsType[*plan.NeedImages](err)
		if !ok {
			return found, err
		}
		for _, n := range need.Refs {
			images[n] = resolve(n)
		}
	}
}

// unknown has no image.
func unknown(n plan.Need) plan.Image { return plan.Image{Ref: n.Ref, Unknown: true} }

func TestLint(t *testing.T) {
	t.Parallel()
	ignoreAll, err := dockerfile.NewIgnore([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, file string
		opts       plan.Options
		unknown    bool // nobody gives base images
		want       string
	}{
		{
			name: "every stage without a target", file: "FROM a AS x\nWORKDIR w\nFROM a\nWORKDIR w\n",
			want: "2:9 WorkdirRelativePath, 4:9 WorkdirRelativePath",
		},
		{
			name: "what a target needs", file: "FROM a AS x\nWORKDIR w\nFROM a\nWORKDIR w\n", opts: plan.Options{Target: "x"},
			want: "2:9 WorkdirRelativePath",
		},
		{name: "a plain base sets nothing", file: "FROM a\nCOPY $A /\n", want: "2:6 UndefinedVar"},
		{name: "an unknown base may set it", file: "FROM a\nCOPY $A /\nEXPOSE 1/TCP\n", unknown: true, want: "3:8 ExposeProtoCasing"},
		{name: "also through a stage", file: "FROM a AS b\nFROM b\nCOPY $A /\nEXPOSE 1/TCP\n", unknown: true, want: "4:8 ExposeProtoCasing"},
		{name: "an unknown base may make it right", file: "FROM a\nEXPOSE $PORT\nSTOPSIGNAL $SIG\nCMD x\n", unknown: true, want: "4:1 JSONArgsRecommended"},
		{
			name: "a mistake that no base makes right", file: "FROM a AS X\nSTOPSIGNAL SIGNO\n", unknown: true,
			want: "1:11 StageNameCasing; Dockerfile:2:1: invalid signal: SIGNO",
		},
		{name: "before a mistake of the text", file: "FROM a AS X\nRNU x\n", want: "1:11 StageNameCasing; Dockerfile:2:1: unknown instruction: RNU (did you mean RUN?)"},
		{
			name: "before a mistake of the plan", file: "FROM --platform=$NO a AS X\n",
			want: "1:26 StageNameCasing, 1:18 UndefinedArgInFrom; Dockerfile:1:1: empty platform value from expression $NO",
		},
		{name: "unused build arguments break no rule", file: "FROM a\n", opts: plan.Options{Args: map[string]string{"X": "1"}}},
		{name: "error=true is for builds", file: "# check=error=true\nFROM a as b\n", want: "2:8 FromAsCasing"},
		{name: "skipped by name", file: "# check=skip=FromAsCasing\nFROM a as b\nCMD x\n", want: "3:1 JSONArgsRecommended"},
		{name: "all skipped", file: "# check=skip=all\nFROM a as b\nCMD x\n"},
		{
			name: "skipped at an instruction", file: "FROM a\n# check=skip=LegacyKeyValueFormat\nENV A b\nENV A b\n",
			want: "4:1 LegacyKeyValueFormat",
		},
		{
			name: "a build argument in place of the directive", file: "# check=skip=all\nFROM a as b\nCMD x\n",
			opts: plan.Options{Args: map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "skip=FromAsCasing"}}, want: "3:1 JSONArgsRecommended",
		},
		{
			name: "a reserved name twice", file: "FROM a AS context\nFROM a AS context\n",
			want: "1:11 ReservedStageName, 2:11 ReservedStageName, 2:11 DuplicateStageName",
		},
		{
			name: "the whole context is hidden", file: "FROM scratch\nCOPY . /\nADD ./x /\n", opts: plan.Options{Ignore: ignoreAll},
			want: "2:6 CopyIgnoredFile, 3:7 CopyIgnoredFile",
		},
		{name: "what is copied from a stage is not ignored", file: "FROM a AS b\nFROM a\nCOPY --from=b x /\n", opts: plan.Options{Ignore: ignoreAll}},
		{name: "RUN's variables are the shell's", file: "FROM a\nRUN echo $A ${B#c}\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resolve := resolver(nil)
			if tt.unknown {
				resolve = unknown
			}
			tt.opts.BuildPlatform = amd64()
			found, err := lint(tt.file, tt.opts, resolve)
			var words []string
			for _, w := range found {
				words = append(words, fmt.Sprintf("%d:%d %s", w.Line, w.Col, w.Rule))
			}
			got := strings.Join(words, ", ")
			if err != nil {
				got += "; " + err.Error()
			}
			if got != tt.want {
				t.Errorf("Lint(%q) = %s, want %s", tt.file, got, tt.want)
			}
		})
	}
}

// A build does not take a base of which nothing is known.
func TestNewRefusesUnknownImages(t *testing.T) {
	t.Parallel()
	_, err := build("Dockerfile", []byte("FROM a\n"), plan.Options{}, unknown)
	if err == nil || !strings.HasPrefix(err.Error(), "[bug] ") {
		t.Errorf("New with an unknown base = %v, want a bug", err)
	}
}

func TestCheckArgumentIsChecked(t *testing.T) {
	t.Parallel()
	_, err := dockerfile.ParseWithArgs("Dockerfile", []byte("FROM a\n"), map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "skipp=x"})
	if want := `Dockerfile: build argument BUILDKIT_DOCKERFILE_CHECK: invalid check option "skipp"`; err == nil || err.Error() != want {
		t.Errorf("ParseWithArgs = %v, want %s", err, want)
	}
}
