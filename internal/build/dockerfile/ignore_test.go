package dockerfile_test

import (
	"errors"
	"strings"
	"testing"

	"slipway/internal/build/dockerfile"
	"slipway/internal/errs"
)

func TestIgnore(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		file    string
		hidden  string // space separated
		visible string
		skipped string // hidden folders that need not be read
		read    string // hidden folders that must be
	}{
		{"nothing", "", "", ". a a/b", "", ""},
		{"a name is its whole folder", "a\n", "a a/b a/b/c", "b ab b/a", "a", ""},
		{"comments, blanks, slashes", "# x\n\n /a/ \nb/../c\n./d\n#e", "a c d d/x", "b e x #e", "", ""},
		{"star stays in a component", "*.o\n", "a.o .o", "d/a.o", "", ""},
		{"two stars", "**/*.o\nx/**/y\n", "a.o d/a.o d/e/a.o x/y x/a/b/y", "x a.c", "", ""},
		{"trailing stars", "a/**\n", "a/b a/b/c", "a b", "", ""},
		{"all but", "*\n!a\n!d/e\n", "b d d/x .dockerignore", "a a/x d/e d/e/f", "b", "d"},
		{"all but deep", "**\n!src/**/*.go\n", "x src src/a src/a.c", "src/a.go src/a/b.go", "x", "src"},
		{"the last match wins", "a\n!a/b\na/b/c\n", "a a/x a/b/c", "a/b a/b/d", "", "a"},
		{"an exception before has no effect", "!a\na\n", "a a/b", "b", "", ""},
		{"an exception with stars reaches everywhere", "node_modules\n!**/keep\n", "node_modules node_modules/x", "node_modules/keep keep", "", "node_modules"},
		{"ranges and marks", "[ab]?.txt\n", "a1.txt bb.txt", "c1.txt a.txt", "", ""},
		{"a folder that matched hides below, though the exception names its parent", "a/b\n!a\n", "a/b a/b/c", "a a/c", "", ""},
		{"the Dockerfile itself", "Dockerfile\n.dockerignore\n", "Dockerfile .dockerignore", "x/Dockerfile", "", ""},
		{"byte order mark", "\ufeffa\n", "a", "b", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ig, err := dockerfile.ParseIgnore(".dockerignore", []byte(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			check := func(paths string, want bool) {
				for p := range strings.FieldsSeq(paths) {
					if got, err := ig.Hides(p); err != nil || got != want {
						t.Errorf("Hides(%q) = %t, %v, want %t", p, got, err, want)
					}
				}
			}
			check(tt.hidden, true)
			check(tt.visible, false)
			skip := func(paths string, want bool) {
				for p := range strings.FieldsSeq(paths) {
					root, err := ig.Root()
					if err != nil {
						t.Fatal(err)
					}
					if m, err := root.Match(p, true); err != nil || !m.Hidden || m.Skip != want {
						t.Errorf("Match(%q) = %+v, %v, want hidden, skip %t", p, m, err, want)
					}
				}
			}
			skip(tt.skipped, true)
			skip(tt.read, false)
		})
	}
}

func TestParseIgnoreErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ file, want string }{
		{"a\n!\n", `.dockerignore:2:1: pattern "!": illegal exclusion pattern: "!"`},
		{"a\n\n[\n", `.dockerignore:3:1: pattern "[": syntax error in pattern`},
		{"![x\n", `.dockerignore:1:1: pattern "![x": syntax error in pattern`},
	} {
		_, err := dockerfile.ParseIgnore(".dockerignore", []byte(tt.file))
		if err == nil || err.Error() != tt.want || !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseIgnore(%q) = %v, want %s", tt.file, err, tt.want)
		}
	}
}

// A folder that may be skipped has nothing visible below it, whatever the patterns are.
func FuzzIgnore(f *testing.F) {
	f.Add("*\n!a\n", "a/b/c")
	f.Add("**/x\n!x/**\n", "x/x/y")
	f.Add("a/b\n!a\n", "a/b/c")
	f.Add("[a-c]?\n!**/k\n\\\\x\n", "ab/k")
	f.Fuzz(func(t *testing.T, file, path string) {
		ig, err := dockerfile.ParseIgnore("f", []byte(file))
		if err != nil {
			return
		}
		dir, err := ig.Root()
		if err != nil {
			t.Fatalf("Root of %q: %v", file, err)
		}
		skipped := false
		for name := range strings.SplitSeq(path, "/") {
			if name == "" || name == "." || name == ".." {
				return
			}
			m, err := dir.Match(name, true)
			if err != nil {
				t.Fatalf("Match(%q) in %q: %v", path, file, err)
			}
			if skipped && !m.Hidden {
				t.Errorf("%q in %q is visible below a folder to skip", path, file)
			}
			skipped = skipped || m.Skip
			dir = m.Dir
		}
	})
}

func BenchmarkIgnore(b *testing.B) {
	ig, err := dockerfile.ParseIgnore("f", []byte(".git\nnode_modules\n**/*.pyc\n*.log\n!keep.log\ndist\n"))
	if err != nil {
		b.Fatal(err)
	}
	root, err := ig.Root()
	if err != nil {
		b.Fatal(err)
	}
	src, err := root.Match("src", true)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := src.Dir.Match("main.go", false); err != nil {
			b.Fatal(err)
		}
	}
}
