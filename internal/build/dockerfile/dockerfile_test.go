package dockerfile_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"slipway/internal/build/dockerfile"
	"slipway/internal/errs"
)

func TestParseErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"Dockerfile: the Dockerfile cannot be empty"}},
		{"only comments", "# hi\n", []string{"Dockerfile:1:1: file with no instructions"}},
		{"no FROM", "ARG A=1\n", []string{"Dockerfile:1:1: dockerfile contains no stages to build: it has no FROM"}},
		{"before FROM", "ARG A\nRUN x\nRUN y\nFROM z\n", []string{"Dockerfile:2:1: RUN before the first FROM: there is no stage to add it to"}},
		{"misspelt instruction", "FROM x\n\n  RNU y\n", []string{"Dockerfile:3:3: unknown instruction: RNU (did you mean RUN?)"}},
		{"misspelt flag", "FROM x\nCOPY a \\\n  b\nCOPY \\\n  --form=x a b\n", []string{"Dockerfile:5:3: unknown flag: --form (did you mean from?)"}},
		{"flag without value", "FROM x\nCOPY --from a b\n", []string{"Dockerfile:2:6: missing a value on flag: --from"}},
		{"flag twice", "FROM x\nCOPY --chown=1 --chown=2 a b\n", []string{"Dockerfile:2:6: duplicate flag specified: --chown"}},
		{"no destination", "FROM x\nCOPY a\n", []string{
			"Dockerfile:2:1: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
		}},
		{"heredoc without end", "FROM x\nRUN <<EOF\ncat\n", []string{"Dockerfile:2:1: unterminated heredoc"}},
		{"escape", "# escape=x\nFROM x\n", []string{"Dockerfile:1:10: invalid escape token 'x' does not match ` or \\"}},
		{"check", "# check=skipp=x\nFROM x\n", []string{`Dockerfile:1:9: invalid check option "skipp"`}},
		{"syntax twice", "# syntax=a\n# syntax=b\nFROM x\n", []string{"Dockerfile:2:1: only one syntax parser directive can be used"}},
		{"network", "FROM x\nRUN --network=sometimes y\n", []string{`Dockerfile:2:15: invalid network mode "sometimes"`}},
		{"stage name", "FROM x AS 1st\n", []string{
			`Dockerfile:1:11: invalid name for build stage: "1st", name can't start with a number or contain symbols`,
		}},
		{"chained ONBUILD", "FROM x\nONBUILD ONBUILD RUN y\n", []string{"Dockerfile:2:1: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"}},
		{"all at once", "FROM x\nRUNN y\nCOPY a\nUSER\n", []string{
			"Dockerfile:2:1: unknown instruction: RUNN (did you mean RUN?)",
			"Dockerfile:3:1: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
			"Dockerfile:4:1: USER requires exactly one argument",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := dockerfile.Parse("Dockerfile", []byte(tt.file))
			if err == nil {
				t.Fatal("Parse accepts it")
			}
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("Parse error %v is not an errs.Invalid", err)
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("Parse error mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	f, err := dockerfile.Parse("Dockerfile", []byte(strings.Join([]string{
		"FROM x",
		"RUN --network=none --mount=type=cache,target=/x y",
		"RUN --security=insecure y",
		"RUN --security=sandbox y",
		"run --device=d y",
		"COPY --link --parents a b",
		"COPY --exclude=*.o a b",
		"COPY --link=false a b",
		"ADD --checksum=sha256:1 \\",
		"  --keep-git-dir=true --unpack a b",
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	err = f.Unsupported([]dockerfile.Feature{dockerfile.Device})
	if !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
		t.Fatalf("Unsupported = %v, want an errs.Invalid with a hint", err)
	}
	want := []string{
		"Dockerfile:2:20: RUN --mount is not supported yet",
		"Dockerfile:3:5: RUN --security is not supported yet",
		"Dockerfile:6:6: COPY --link is not supported yet",
		"Dockerfile:6:13: COPY --parents is not supported yet",
		"Dockerfile:7:6: COPY --exclude is not supported yet",
		"Dockerfile:9:5: ADD --checksum is not supported yet",
		"Dockerfile:10:3: ADD --keep-git-dir is not supported yet",
		"Dockerfile:10:23: ADD --unpack is not supported yet",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("Unsupported mismatch (-want +got):\n%s", diff)
	}
	all := []dockerfile.Feature{
		dockerfile.Mount, dockerfile.Security, dockerfile.Device, dockerfile.Link, dockerfile.Exclude, dockerfile.Parents,
		dockerfile.Unpack, dockerfile.Checksum, dockerfile.KeepGitDir,
	}
	if err := f.Unsupported(all); err != nil {
		t.Errorf("Unsupported by a builder that supports all: %v", err)
	}
}

func TestParseDirectives(t *testing.T) {
	t.Parallel()
	f, err := dockerfile.Parse("Dockerfile", []byte("\ufeff# syntax = docker/dockerfile:1\n# escape=`\n# check=skip=all;error=true\nFROM x `\n AS y\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Syntax != "docker/dockerfile:1" || f.Escape != '`' || !f.Check.SkipAll || !f.Check.ReturnAsError {
		t.Errorf("Parse directives: syntax %q, escape %q, check %+v", f.Syntax, f.Escape, f.Check)
	}
	_, stages, err := f.Instructions()
	if err != nil || len(stages) != 1 || stages[0].Name != "y" {
		t.Errorf("Instructions() = %+v, %v, want one stage y", stages, err)
	}
}

// A message points at the word that it names, if that stands in the instruction once and is no part of a longer one.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file, want, marked string
	}{
		{"a word", "FROM x\nRUN a \\\n  b\nHEALTHCHECK \\\n\t--interval=7 CMD x\n", `Dockerfile:5:13: time: missing unit in duration "7"`, "7"},
		{"a word that stands there twice", "FROM x\nRUN --network=foo foo\n", `Dockerfile:2:1: invalid network mode "foo"`, "RUN"},
		{"a word of the parser's", "FROM x\nENV a=b c\n", `Dockerfile:2:9: Syntax error - can't find = in "c". Must be of the form: name=value`, "c"},
		{"a flag", "FROM x\nCOPY \\\n\t--form=x a b\n", "Dockerfile:3:2: unknown flag: --form (did you mean from?)", "--form=x"},
		{"no word", "FROM x\n\tUSER\n", "Dockerfile:2:2: USER requires exactly one argument", "USER"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := dockerfile.Parse("Dockerfile", []byte(tt.file))
			e, ok := errors.AsType[*dockerfile.Error](err)
			if !ok || e.Error() != tt.want {
				t.Fatalf("Parse = %v, want %s", err, tt.want)
			}
			x := e.Excerpt()
			if got := x.Lines[0][x.Col-1 : x.Col-1+x.Width]; got != tt.marked || x.Line != e.Line {
				t.Errorf("line %d %q is marked at %q, want %q", x.Line, x.Lines[0], got, tt.marked)
			}
		})
	}
}

func TestInstructionsAreFreshCopies(t *testing.T) {
	t.Parallel()
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM x\nENV A=$B\nCOPY $C /\n"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, stages, err := f.Instructions()
		if err != nil {
			t.Fatal(err)
		}
		env, ok := stages[0].Commands[0].(*instructions.EnvCommand)
		if !ok || env.Env[0].Value != "$B" {
			t.Fatalf("first instruction is %v, want ENV A=$B", stages[0].Commands[0])
		}
		for _, c := range stages[0].Commands {
			ex, ok := c.(instructions.SupportsSingleWordExpansion)
			if !ok {
				t.Fatalf("%T does not expand", c)
			}
			if err := ex.Expand(func(string) (string, error) { return "changed", nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM x as Y\n  MAINTAINER me\nRUN a \\\n\n  b\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range f.Warnings {
		got = append(got, w.String())
	}
	want := []string{
		"Dockerfile:5:3: NoEmptyContinuation: Empty continuation line",
		"Dockerfile:1:11: StageNameCasing: Stage name 'Y' should be lowercase",
		"Dockerfile:1:8: FromAsCasing: 'as' and 'FROM' keywords' casing do not match",
		"Dockerfile:2:3: MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Warnings mismatch (-want +got):\n%s", diff)
	}
}

func TestTrigger(t *testing.T) {
	t.Parallel()
	f, err := dockerfile.Parse("Dockerfile", []byte("\nFROM x\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := []parser.Range{{Start: parser.Position{Line: 2}, End: parser.Position{Line: 2}}}
	tests := []struct{ expression, want string }{
		{"RUN <<EOF\nx\nEOF", ""},
		{"RUN a\nRUN b", "Dockerfile:2:1: onbuild trigger should be a single expression"},
		{"FROM y", "Dockerfile:2:1: FROM is no instruction that a trigger can be"},
		{"# check=skip=all\nRUN a", ""},
		{"RUN --mount=type=tmpfs x", "Dockerfile:2:1: RUN --mount is not supported yet"},
		{"RUN <<EOF", "Dockerfile:2:1: unterminated heredoc"},
		{"WRKDIR x", "Dockerfile:2:1: unknown instruction: WRKDIR (did you mean WORKDIR?)"},
	}
	for _, tt := range tests {
		c, err := f.Trigger(tt.expression, at, nil)
		got := ""
		if err != nil {
			got = err.Error()
		} else if c.Location()[0].Start.Line != 2 {
			t.Errorf("Trigger(%q) stands at line %d", tt.expression, c.Location()[0].Start.Line)
		}
		if got != tt.want {
			t.Errorf("Trigger(%q) = %q, want %q", tt.expression, got, tt.want)
		}
	}
}

// buildkitDir is where the parser's own test vectors are.
func buildkitDir(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skipf("BuildKit's sources are not in the module cache: %v", err)
	}
	return filepath.Join(dir, "frontend", "dockerfile")
}

// Every Dockerfile that BuildKit's parser tests accept is accepted, every one that they refuse is refused with a place.
func TestBuildKitVectors(t *testing.T) {
	t.Parallel()
	dir := buildkitDir(t)
	for _, kind := range []string{"testfiles", "testfiles-negative"} {
		files, err := filepath.Glob(filepath.Join(dir, "parser", kind, "*", "Dockerfile"))
		if err != nil || len(files) == 0 {
			t.Skipf("no %s in %s", kind, dir)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = dockerfile.Parse("Dockerfile", data)
			name := kind + "/" + filepath.Base(filepath.Dir(file))
			if _, isParser := errors.AsType[*dockerfile.Error](err); err != nil && !isParser {
				t.Errorf("%s: %v is no *Error", name, err)
			}
			if kind == "testfiles-negative" && err == nil {
				t.Errorf("%s is accepted", name)
			}
			if kind == "testfiles" && err != nil && !parserOnly(name) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// parserOnly names vectors that only the parser accepts: without FROM, or with flags that no instruction has.
func parserOnly(name string) bool {
	switch name = strings.TrimPrefix(name, "testfiles/"); name {
	case "flags", "health", "json":
		return true
	}
	return strings.HasPrefix(name, "jeztah-invalid-json")
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	known := []string{"RUN", "ENV", "CMD", "ADD", "COPY", "chown", "chmod"}
	for _, tt := range []struct{ word, want string }{
		{"RNU", " (did you mean RUN?)"},
		{"COPPY", " (did you mean COPY?)"},
		{"chmow", " (did you mean chmod?)"},
		{"RUN", ""},
		{"", ""},
		{"NOTHING", ""},
	} {
		if got := dockerfile.DidYouMean(tt.word, known); got != tt.want {
			t.Errorf("DidYouMean(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"FROM x\nRUN <<EOF\na\nEOF\n", "# escape=`\nFROM x\nRUN a `\n b", "ARG A=1\nFROM $A AS b\nCOPY --from=b <<-\"E\" /\n\tE\n",
		"FROM x\nONBUILD RUN [\"a\"]\nHEALTHCHECK --interval=1s CMD x\nENV a=\"b c\" d='e'\nLABEL a\\ b=c\n", "#\n# =\nFROM",
		"FROM a\r\nRUN b\r\n", "\ufeffFROM x\n#\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := dockerfile.Parse("F", data)
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("Parse(%q): %v is not an errs.Invalid", data, err)
			}
			return
		}
		if _, stages, err := file.Instructions(); err != nil || len(stages) == 0 {
			t.Errorf("Parse(%q) accepts what Instructions does not: %d stages, %v", data, len(stages), err)
		}
	})
}
