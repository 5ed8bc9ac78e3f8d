package expr

import (
	"errors"
	"slices"
	"strings"
)

const (
	openTemplate   = "${{"
	closedTemplate = "}}"
)

// Template is a text with ${{ }} in it, or one expression, read and ready to be evaluated.
//
// The language is a small JavaScript: names with members (.x, ["x"], [0]), strings, numbers, true, false, null, lists,
// ! - * / % + < <= > >= == != === !== && || ?: and parentheses, and calls of the functions there are. A name may hold a
// dash when a letter follows it (steps.s-setup.status); a minus there needs a space. There are no methods, statements or
// assignments, and nothing has a side effect.
type Template struct {
	pieces []piece
	// single says that the text is one expression and nothing else: its value keeps its type.
	single bool
}

// piece is a literal text, or an expression.
type piece struct {
	text string
	expr node
}

// ParseTemplate reads a text. opens are the offsets of the ${{ that begin an expression; any other ${{, such as one that
// came out of a variable's value, is text. All mistakes are returned, each an *Error with its Offset; the template is
// worth using only without any.
func ParseTemplate(text string, opens []int) (*Template, []*Error) {
	t := &Template{}
	var mistakes []*Error
	pos := 0
	for i, open := range opens {
		if open < pos || !strings.HasPrefix(text[min(open, len(text)):], openTemplate) {
			continue // inside the expression before it
		}
		t.literal(text[pos:open])
		p := &syntax{text: text, pos: open + len(openTemplate), inside: true}
		e := p.whole()
		if p.err != nil {
			p.err.Index = i
			mistakes = append(mistakes, p.err)
			end := strings.Index(text[open:], closedTemplate)
			if end < 0 {
				return t, mistakes
			}
			p.pos = open + end + len(closedTemplate)
		}
		t.pieces = append(t.pieces, piece{expr: e})
		pos = p.pos
	}
	t.literal(text[pos:])
	t.single = len(t.pieces) == 1 && t.pieces[0].expr != nil
	return t, mistakes
}

// ParseExpression reads a text that is an expression without ${{ }} around it.
func ParseExpression(text string) (*Template, *Error) {
	p := &syntax{text: text}
	e := p.whole()
	return &Template{pieces: []piece{{expr: e}}, single: true}, p.err
}

func (t *Template) literal(text string) {
	if text != "" {
		t.pieces = append(t.pieces, piece{text: text})
	}
}

// Opens returns the offsets of every ${{ in text, for a text that is all of one author.
func Opens(text string) []int {
	var opens []int
	for from := 0; ; {
		i := strings.Index(text[from:], openTemplate)
		if i < 0 {
			return opens
		}
		opens = append(opens, from+i)
		from += i + len(openTemplate)
	}
}

// Constant reports whether the template is a text without expressions.
func (t *Template) Constant() bool {
	return !slices.ContainsFunc(t.pieces, func(p piece) bool { return p.expr != nil })
}

// Scope is what expressions can see.
type Scope struct {
	// Values are the contexts by name: nil, bool, float64, string, []any and map[string]any, as encoding/json has them.
	Values map[string]any
	// Functions are there besides contains, startsWith, endsWith and toJSON. They get what they check for in Arity.
	Functions map[string]func(args []any) (any, error)
}

// Evaluate gives the template's value: of whatever type when it is one expression and nothing else, a string otherwise,
// in which null is nothing and lists and maps are JSON. The error is an *Error.
func (t *Template) Evaluate(s Scope) (any, error) {
	if t.single {
		return t.pieces[0].expr.value(&s)
	}
	var out strings.Builder
	for _, p := range t.pieces {
		if p.expr == nil {
			out.WriteString(p.text)
			continue
		}
		v, err := p.expr.value(&s)
		if err != nil {
			return nil, err
		}
		out.WriteString(Text(v))
	}
	return out.String(), nil
}

// Names are the names that expressions may use, and below each the members that there are. A nil Names says nothing
// about what is below: any member will do, and is null when it is not there.
type Names map[string]Names

// Check reports the names and functions that do not exist, each with what was probably meant. functions says how many
// arguments each function takes besides the language's own.
func (t *Template) Check(names Names, functions map[string]int) []*Error {
	c := &checker{names: names, functions: functions}
	for _, p := range t.pieces {
		if p.expr != nil {
			p.expr.check(c)
		}
	}
	return c.mistakes
}

// asError gives a failure inside an expression the place of what failed.
func asError(err error, offset int) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Offset: offset, Msg: err.Error(), Err: err}
}
