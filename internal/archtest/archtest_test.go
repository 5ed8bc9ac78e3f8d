package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "slipway"

func TestHouse(t *testing.T) {
	t.Parallel()
	house := readHouse(t, filepath.Join("..", ".."))
	if len(house) < 10 {
		t.Fatalf("found %d packages: looked in the wrong place", len(house))
	}
	for _, broken := range slices.Concat(
		checkArrows(house, readRules(t, "arrows.txt")),
		checkPure(house, readRules(t, "pure.txt")),
		checkDocs(house),
	) {
		t.Error(broken)
	}
}

// TestArrowsHaveRooms keeps the tables free of rooms that were never built or have moved.
func TestArrowsHaveRooms(t *testing.T) {
	t.Parallel()
	house := readHouse(t, filepath.Join("..", ".."))
	for _, file := range []string{"arrows.txt", "pure.txt"} {
		for _, r := range readRules(t, file) {
			if !slices.ContainsFunc(house, func(p pkg) bool { return matches(r.from, p.room) }) {
				t.Errorf("%s: no package matches %q", file, r.from)
			}
		}
	}
}

// TestStrangersAreFuzzed keeps a fuzz target beside everything that parses what a stranger wrote.
func TestStrangersAreFuzzed(t *testing.T) {
	t.Parallel()
	for _, r := range readRules(t, "strangers.txt") {
		files, err := filepath.Glob(filepath.Join("..", r.from, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(name string) bool { return hasFuzz(t, name) }) {
			t.Errorf("internal/%s parses %s: it has no func FuzzX(*testing.F)", r.from, strings.Join(r.to, " "))
		}
	}
}

func hasFuzz(t *testing.T, name string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(parsed.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz")
	})
}

// TestViolations shows that the checks see what they are for, on a small house in which every rule is broken once.
func TestViolations(t *testing.T) {
	t.Parallel()
	house := readHouse(t, filepath.Join("testdata", "violating"))
	arrows := []rule{
		{"cmd/slipway", []string{"build/..."}},
		{"build/plan", []string{"oci"}},
		{"errs", nil},
		{"oci/...", nil},
		{"undocumented", nil},
	}
	pure := []rule{{"build/plan", []string{"os"}}}
	got := slices.Concat(checkArrows(house, arrows), checkPure(house, pure), checkDocs(house))
	want := []string{
		"internal/errs/errs.go: arrow errs -> oci is not in arrows.txt",
		"internal/lone: has no line in arrows.txt",
		"internal/build/plan/plan.go: build/plan is pure and must not import os",
		"internal/lone: 2 package comments, want one: internal/lone/a.go, internal/lone/b.go",
		"internal/oci/oci.go: package comment does not begin with \"Package oci \"",
		"internal/undocumented: add a package comment",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("violations mismatch (-want +got):\n%s", diff)
	}
}

// pkg is what the checks need to know of a package: its files that are not tests.
type pkg struct {
	dir   string // from the top of the repository, "internal/oci/layer"
	room  string // as arrows.txt has it, "oci/layer"
	name  string
	files []file
}

type file struct {
	path    string
	imports []string
	doc     string
}

// readHouse parses the import clauses and the package comments of all packages below root.
func readHouse(t *testing.T, root string) []pkg {
	t.Helper()
	var house []pkg
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if p != root && elsewhere(p) {
			return fs.SkipDir
		}
		found, err := readPackage(root, p)
		if len(found.files) > 0 {
			house = append(house, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return house
}

// elsewhere says whether a folder is none of this module's: the go command's own rules, and a module of its own.
func elsewhere(dir string) bool {
	name := filepath.Base(dir)
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".")
}

func readPackage(root, dir string) (pkg, error) {
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return pkg{}, err
	}
	p := pkg{dir: filepath.ToSlash(rel)}
	p.room = strings.TrimPrefix(p.dir, "internal/")
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return pkg{}, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return pkg{}, err
		}
		if ignored(parsed) {
			continue
		}
		p.name = parsed.Name.Name
		p.files = append(p.files, file{
			path:    path.Join(p.dir, filepath.Base(name)),
			imports: importsOf(parsed),
			doc:     parsed.Doc.Text(),
		})
	}
	return p, nil
}

// ignored says whether a file is a program to be run by hand, which belongs to no package.
func ignored(f *ast.File) bool {
	return slices.ContainsFunc(f.Comments, func(g *ast.CommentGroup) bool {
		return g.Pos() < f.Package && g.List[0].Text == "//go:build ignore"
	})
}

func importsOf(f *ast.File) []string {
	imports := make([]string, 0, len(f.Imports))
	for _, spec := range f.Imports {
		imports = append(imports, strings.Trim(spec.Path.Value, "`\""))
	}
	return imports
}

// rule is a line of a table.
type rule struct {
	from string
	to   []string
}

func readRules(t *testing.T, name string) []rule {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var rules []rule
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		from, to, ok := strings.Cut(line, "->")
		if !ok {
			t.Fatalf("%s: line without an arrow: %q", name, line)
		}
		rules = append(rules, rule{strings.TrimSpace(from), strings.Fields(to)})
	}
	return rules
}

// matches says whether a room falls under a pattern: a room's name, or room/... for it and all below.
func matches(pattern, room string) bool {
	below, subtree := strings.CutSuffix(pattern, "/...")
	return room == below || subtree && strings.HasPrefix(room, below+"/")
}

// ruleFor returns the rule with the longest pattern that matches a room.
func ruleFor(rules []rule, room string) (best rule, found bool) {
	for _, r := range rules {
		if matches(r.from, room) && (!found || len(r.from) > len(best.from)) {
			best, found = r, true
		}
	}
	return best, found
}

func checkArrows(house []pkg, rules []rule) (broken []string) {
	for _, p := range house {
		r, ok := ruleFor(rules, p.room)
		if !ok {
			broken = append(broken, p.dir+": has no line in arrows.txt")
			continue
		}
		allowed := append([]string{"errs"}, r.to...)
		for _, f := range p.files {
			for _, imported := range f.imports {
				room, ours := strings.CutPrefix(imported, module+"/")
				room = strings.TrimPrefix(room, "internal/")
				if ours && !slices.ContainsFunc(allowed, func(to string) bool { return matches(to, room) }) {
					broken = append(broken, fmt.Sprintf("%s: arrow %s -> %s is not in arrows.txt", f.path, p.room, room))
				}
			}
		}
	}
	return broken
}

func checkPure(house []pkg, rules []rule) (broken []string) {
	for _, p := range house {
		r, _ := ruleFor(rules, p.room)
		for _, f := range p.files {
			for _, imported := range f.imports {
				if slices.Contains(r.to, imported) {
					broken = append(broken, fmt.Sprintf("%s: %s is pure and must not import %s", f.path, p.room, imported))
				}
			}
		}
	}
	return broken
}

func checkDocs(house []pkg) (broken []string) {
	for _, p := range house {
		opening := "Package " + p.name + " "
		if p.name == "main" {
			opening = "Command " + path.Base(p.dir) + " "
		}
		var documented []string
		for _, f := range p.files {
			if f.doc == "" {
				continue
			}
			documented = append(documented, f.path)
			if !strings.HasPrefix(f.doc, opening) {
				broken = append(broken, fmt.Sprintf("%s: package comment does not begin with %q", f.path, opening))
			}
		}
		switch len(documented) {
		case 0:
			broken = append(broken, p.dir+": add a package comment")
		case 1:
		default:
			broken = append(broken, fmt.Sprintf("%s: %d package comments, want one: %s", p.dir, len(documented), strings.Join(documented, ", ")))
		}
	}
	return broken
}
