// Package dockerfile reads Dockerfiles and ignore files: text in, instructions with positions out.
//
// The language is BuildKit's, read by BuildKit's own parser, so that a file means here what it means there. What the
// parser knows and a builder cannot do is a Feature, to be refused with its place (see Unsupported), never skipped: a
// build that silently drops a flag is worse than one that stops.
//
//	f, err := dockerfile.Parse("Dockerfile", data)   // every error with file:line:column
//	args, stages := f.Instructions()                 // fresh copies: expanding them harms nobody
//
// A directive is a comment at the top of the file that speaks to the builder: escape, syntax, check. A stage is what
// lies between one FROM and the next. A trigger is an instruction that ONBUILD left in a base image.
//
// Package dockerfile does no I/O and expands no variables; package plan does the latter.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// byteOrderMark is what some editors put before the text.
const byteOrderMark = "\ufeff"

// File is a parsed Dockerfile. It does not change after Parse and may be used by several goroutines.
type File struct {
	// Name is what the user calls the file; errors and warnings begin with it.
	Name string
	// Escape is the character that escapes another and, at the end of a line, continues it.
	Escape rune
	// Syntax is the value of the syntax directive, or "". It names a frontend image that BuildKit would fetch and
	// run; slipway does not: it reads the file itself.
	Syntax string
	// Check is what the check directive asks of the linter: rules to skip, whether a warning is an error.
	Check linter.Config
	// Warnings are what the linter said about the text alone, in the order of the file.
	Warnings []Warning

	lines []string
	ast   *parser.Node
}

// Build arguments that take the place of a directive, of syntax and of check.
const (
	SyntaxArg = "BUILDKIT_SYNTAX"
	CheckArg  = "BUILDKIT_DOCKERFILE_CHECK"
)

// Parse reads a Dockerfile. The error is an Errors with every mistake that could be told apart, each an errs.Invalid. The
// File that comes with an error is good for its Text and its Warnings alone.
func Parse(name string, data []byte) (*File, error) { return ParseWithArgs(name, data, nil) }

// ParseWithArgs is Parse for a build with arguments, of which SyntaxArg and CheckArg count.
func ParseWithArgs(name string, data []byte, args map[string]string) (*File, error) {
	f := &File{Name: name, lines: strings.SplitAfter(string(data), "\n")}
	if err := f.parse(data, args); err != nil {
		return f, f.Place(err, nil)
	}
	return f, f.validate()
}

func (f *File) parse(data []byte, args map[string]string) error {
	if len(data) == 0 {
		return errors.New("the Dockerfile cannot be empty")
	}
	if err := f.directives(data); err != nil {
		return err
	}
	if err := f.argDirectives(args); err != nil {
		return err
	}
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return err
	}
	f.ast, f.Escape = result.AST, result.EscapeToken
	lint := f.Linter(func(w Warning) { f.Warnings = append(f.Warnings, w) })
	for _, w := range result.Warnings {
		lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
	}
	return nil
}

// directives reads the comments at the top that speak to the builder. BuildKit's parser checks escape too, but is off by
// a line when it complains.
func (f *File) directives(data []byte) error {
	f.Syntax, _, _, _ = parser.ParseDirective("syntax", data)
	check, _, at, _ := parser.ParseDirective("check", data)
	config, err := linter.ParseLintOptions(check)
	if err != nil {
		return parser.WithLocation(err, at)
	}
	f.Check = *config
	var p parser.DirectiveParser
	for i, line := range f.lines {
		d, err := p.ParseLine([]byte(strings.TrimSpace(strings.TrimPrefix(line, byteOrderMark))))
		if err == nil && d != nil && d.Name == "escape" && d.Value != "`" && d.Value != `\` {
			err = fmt.Errorf("invalid escape token '%s' does not match ` or \\", d.Value)
		}
		if err != nil {
			return parser.WithLocation(err, []parser.Range{{Start: parser.Position{Line: i + 1}, End: parser.Position{Line: i + 1}}})
		}
		if d == nil {
			break
		}
	}
	return nil
}

// argDirectives takes what build arguments say instead of directives.
func (f *File) argDirectives(args map[string]string) error {
	if syntax, ok := args[SyntaxArg]; ok {
		f.Syntax = syntax
	}
	if check, ok := args[CheckArg]; ok {
		config, err := linter.ParseLintOptions(check)
		if err != nil {
			return fmt.Errorf("build argument %s: %w", CheckArg, err)
		}
		f.Check = *config
	}
	return nil
}

// validate looks at every instruction once, so that one run of the builder reports all that is wrong.
func (f *File) validate() error {
	lint := f.Linter(func(w Warning) { f.Warnings = append(f.Warnings, w) })
	var wrong Errors
	seenFrom := false
	for _, n := range f.ast.Children {
		v, err := instructions.ParseInstructionWithLinter(n, lint)
		isFrom := strings.EqualFold(n.Value, "from")
		switch _, isArg := v.(*instructions.ArgCommand); {
		case err != nil:
			wrong = append(wrong, f.place(explain(err, n), n.Location()))
		case !seenFrom && !isFrom && !isArg:
			wrong = append(wrong, f.place(fmt.Errorf("%s before the first FROM: there is no stage to add it to", n.Value), n.Location()))
			isFrom = true // one complaint is enough
		}
		seenFrom = seenFrom || isFrom
	}
	if len(wrong) == 0 && !seenFrom {
		wrong = append(wrong, f.place(errors.New("dockerfile contains no stages to build: it has no FROM"), f.ast.Children[0].Location()))
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// silent is a linter that says nothing. Without one, the parser dies of a check comment above an instruction.
func silent() *linter.Linter { return linter.New(&linter.Config{}) }

// Instructions returns the global ARGs and the stages. Each call returns copies of its own: expanding variables writes
// into them.
func (f *File) Instructions() (args []instructions.ArgCommand, stages []instructions.Stage, err error) {
	stages, args, err = instructions.Parse(f.ast, silent())
	if err != nil {
		return nil, nil, f.Place(err, nil)
	}
	return args, stages, nil
}

// Trigger parses one ONBUILD expression of a base image as if it stood at a place of f, that of the FROM that brought
// it. The same flags are refused as Unsupported refuses in the file itself.
func (f *File) Trigger(expression string, at []parser.Range, supports []Feature) (instructions.Command, error) {
	result, err := parser.Parse(strings.NewReader(expression))
	if err != nil {
		return nil, f.Place(bare(err), at)
	}
	if len(result.AST.Children) != 1 {
		return nil, f.Place(errors.New("onbuild trigger should be a single expression"), at)
	}
	n := result.AST.Children[0]
	if len(at) > 0 {
		n.StartLine, n.EndLine = at[0].Start.Line, at[len(at)-1].End.Line
	}
	v, err := instructions.ParseInstructionWithLinter(n, silent())
	if err != nil {
		return nil, f.Place(bare(explain(err, n)), at)
	}
	cmd, ok := v.(instructions.Command)
	if !ok {
		return nil, f.Place(fmt.Errorf("%s is no instruction that a trigger can be", strings.ToUpper(n.Value)), at)
	}
	if wrong := f.refuse(n, supports); len(wrong) > 0 {
		return nil, wrong
	}
	return cmd, nil
}
