package sfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An expression of an s.yaml stands between ${ and }: a path (vars.region), a call (env('X', 'y')), a literal, and
// alternatives of them (vars.a || 'b'). Calls may be followed by a path: json(file('./a.json')).k.

const maxNesting = 32

// node is a parsed expression.
type node interface{ node() }

type (
	literal struct{ value any }
	// path is a name with what is taken out of it: vars, region.
	path struct{ names []string }
	call struct {
		function string
		args     []node
	}
	// member takes something out of what a call gave.
	pick struct {
		of   node
		name string
	}
	either struct{ a, b node }
)

func (literal) node() {}
func (path) node()    {}
func (call) node()    {}
func (pick) node()    {}
func (either) node()  {}

// piece is a stretch of a scalar: text as it stands, or an expression.
type piece struct {
	text   string // the text, or the whole ${…}
	offset int
	expr   node // nil for text
}

// exprError is a mistake in an expression, at an offset of its scalar.
type exprError struct {
	offset    int
	msg, hint string
}

func (e *exprError) Error() string { return e.msg }

// split takes a scalar apart. ${self.…} and ${shared.…} belong to other tools and stay text.
func split(text string) ([]piece, *exprError) {
	var out []piece
	for at := 0; at < len(text); {
		open := strings.Index(text[at:], "${")
		if open < 0 {
			return append(out, piece{text: text[at:], offset: at}), nil
		}
		if open > 0 {
			out = append(out, piece{text: text[at : at+open], offset: at})
		}
		start := at + open
		end := closing(text, start+2)
		if end < 0 {
			return nil, &exprError{start, "${ without }", ""}
		}
		inside := text[start+2 : end]
		if name := strings.TrimSpace(inside); strings.HasPrefix(name, "self.") || strings.HasPrefix(name, "shared.") {
			out = append(out, piece{text: text[start : end+1], offset: start})
		} else {
			expr, err := parseExpr(inside)
			if err != nil {
				err.offset += start + 2
				return nil, err
			}
			out = append(out, piece{text: text[start : end+1], offset: start, expr: expr})
		}
		at = end + 1
	}
	return out, nil
}

// closing finds the } that ends an expression, which may hold one inside a quoted string.
func closing(text string, from int) int {
	var quote byte
	for i := from; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '}':
			return i
		case c == '\n':
			return -1
		}
	}
	return -1
}

type exprParser struct {
	text string
	pos  int
	// bare says that there is not one quote in the expression: then what stands in the innermost parentheses of a call is
	// one string, commas and all. It is how the family lets people write ${env(NAME)}.
	bare bool
}

func parseExpr(text string) (n node, err *exprError) {
	p := &exprParser{text: text, bare: !strings.ContainsAny(text, `'"`)}
	if strings.TrimSpace(text) == "" {
		return nil, &exprError{0, "nothing between ${ and }", ""}
	}
	n, err = p.either(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.pos < len(text) {
		return nil, p.fail("unexpected "+strconv.Quote(text[p.pos:]), "an expression is a path such as vars.region, or a call such as env('NAME')")
	}
	return n, nil
}

func (p *exprParser) fail(msg, hint string) *exprError { return &exprError{p.pos, msg, hint} }

func (p *exprParser) space() {
	for p.pos < len(p.text) && (p.text[p.pos] == ' ' || p.text[p.pos] == '\t') {
		p.pos++
	}
}

func (p *exprParser) take(token string) bool {
	p.space()
	if !strings.HasPrefix(p.text[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	return true
}

func (p *exprParser) either(depth int) (node, *exprError) {
	if depth > maxNesting {
		return nil, p.fail("too many calls inside one another", "")
	}
	n, err := p.postfix(depth)
	for err == nil && p.take("||") {
		var b node
		b, err = p.postfix(depth)
		n = either{n, b}
	}
	return n, err
}

func (p *exprParser) postfix(depth int) (node, *exprError) {
	n, err := p.primary(depth)
	for err == nil {
		var name string
		switch {
		case p.take("."):
			if name = p.name(true); name == "" {
				return nil, p.fail("a name is expected after the dot", "")
			}
		case p.take("["):
			if name, err = p.index(); err != nil {
				return nil, err
			}
		default:
			return n, nil
		}
		if of, ok := n.(path); ok {
			n = path{append(of.names[:len(of.names):len(of.names)], name)}
		} else {
			n = pick{n, name}
		}
	}
	return nil, err
}

// index reads what stands between [ and ]: a number or a quoted name.
func (p *exprParser) index() (string, *exprError) {
	p.space()
	var name string
	if p.pos < len(p.text) && (p.text[p.pos] == '\'' || p.text[p.pos] == '"') {
		s, err := p.quoted()
		if err != nil {
			return "", err
		}
		name = s
	} else {
		name = p.name(true)
	}
	if name == "" || !p.take("]") {
		return "", p.fail("between [ and ] stands a number, or a name in quotes", "")
	}
	return name, nil
}

func (p *exprParser) primary(depth int) (node, *exprError) {
	p.space()
	if p.pos == len(p.text) {
		return nil, p.fail("the expression ends too early", "")
	}
	switch c := p.text[p.pos]; {
	case c == '\'' || c == '"':
		s, err := p.quoted()
		return literal{s}, err
	case c >= '0' && c <= '9' || c == '-':
		return p.number()
	}
	name := p.name(false)
	switch {
	case name == "":
		return nil, p.fail("unexpected "+strconv.Quote(p.text[p.pos:]), "an expression is a path such as vars.region, or a call such as env('NAME')")
	case name == "true", name == "false":
		return literal{name == "true"}, nil
	case name == "null", name == "undefined":
		return literal{nil}, nil
	case !p.take("("):
		return path{[]string{name}}, nil
	}
	return p.call(name, depth)
}

func (p *exprParser) call(name string, depth int) (node, *exprError) {
	out := call{function: name}
	if end := strings.IndexByte(p.text[p.pos:], ')'); p.bare && end >= 0 && !strings.Contains(p.text[p.pos:p.pos+end], "(") {
		if arg := strings.TrimSpace(p.text[p.pos : p.pos+end]); arg != "" {
			out.args = append(out.args, literal{arg})
		}
		p.pos += end + 1
		return out, nil
	}
	for !p.take(")") {
		if len(out.args) > 0 && !p.take(",") {
			return nil, p.fail("missing )", "")
		}
		arg, err := p.either(depth + 1)
		if err != nil {
			return nil, err
		}
		out.args = append(out.args, arg)
	}
	return out, nil
}

// name reads a name; those of resources and keys, which come after a dot, may have a - in them.
func (p *exprParser) name(member bool) string {
	start := p.pos
	for p.pos < len(p.text) {
		r, size := utf8.DecodeRuneInString(p.text[p.pos:])
		digit := r >= '0' && r <= '9' || r == '-'
		if r != '_' && r != '$' && !unicode.IsLetter(r) && (!digit || !member && (p.pos == start || r == '-')) {
			break
		}
		p.pos += size
	}
	return p.text[start:p.pos]
}

func (p *exprParser) number() (node, *exprError) {
	start := p.pos
	for p.pos < len(p.text) && strings.IndexByte("0123456789.-+eE", p.text[p.pos]) >= 0 {
		p.pos++
	}
	text := p.text[start:p.pos]
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return literal{i}, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		p.pos = start
		return nil, p.fail(strconv.Quote(text)+" is no number", "")
	}
	return literal{f}, nil
}

// quoted reads a string in single or double quotes; a backslash takes the next character as it is.
func (p *exprParser) quoted() (string, *exprError) {
	start, quote := p.pos, p.text[p.pos]
	var b strings.Builder
	for p.pos++; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; {
		case c == quote:
			p.pos++
			return b.String(), nil
		case c == '\\' && p.pos+1 < len(p.text):
			p.pos++
			b.WriteByte(p.text[p.pos])
		default:
			b.WriteByte(c)
		}
	}
	p.pos = start
	return "", p.fail("a quote is not closed", "")
}

// missing is what a path leads to when there is nothing; deferred is what only a later moment knows: the output of a
// resource that has not been deployed yet.
type (
	missing  struct{}
	deferred struct{}
)

// scope is what expressions see.
type scope interface {
	// root gives the value that a path starts from, and the names that are left to take out of it.
	root(names []string) (any, []string, error)
	call(function string, args []any) (any, error)
}

var errDepth = errors.New("expressions lead to one another in a circle")

// evaluate gives an expression's value: nil, bool, int64, float64, string, map[string]any, []any, missing or deferred.
func evaluate(n node, s scope) (any, error) {
	switch n := n.(type) {
	case literal:
		return n.value, nil
	case path:
		v, rest, err := s.root(n.names)
		if err != nil {
			return nil, err
		}
		return descend(v, rest), nil
	case pick:
		v, err := evaluate(n.of, s)
		if err != nil {
			return nil, err
		}
		return descend(v, []string{n.name}), nil
	case either:
		v, err := evaluate(n.a, s)
		if err != nil || truthy(v) {
			return v, err
		}
		return evaluate(n.b, s)
	case call:
		args := make([]any, len(n.args))
		for i, arg := range n.args {
			v, err := evaluate(arg, s)
			if err != nil {
				return nil, err
			}
			if _, late := v.(deferred); late {
				return v, nil
			}
			args[i] = v
		}
		return s.call(n.function, args)
	default:
		return nil, fmt.Errorf("[bug] node %T", n)
	}
}

// truthy is JavaScript's idea of it; what is not known yet counts as something.
func truthy(v any) bool {
	switch v := v.(type) {
	case nil, missing:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case int64:
		return v != 0
	case float64:
		return v != 0
	default:
		return true
	}
}

func descend(v any, names []string) any {
	for _, name := range names {
		switch of := v.(type) {
		case deferred:
			return of
		case map[string]any:
			next, ok := of[name]
			if !ok {
				return missing{}
			}
			v = next
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(of) {
				return missing{}
			}
			v = of[i]
		default:
			return missing{}
		}
	}
	return v
}

// paths calls visit for every path in an expression.
func paths(n node, visit func(names []string)) {
	switch n := n.(type) {
	case path:
		visit(n.names)
	case pick:
		paths(n.of, visit)
	case either:
		paths(n.a, visit)
		paths(n.b, visit)
	case call:
		for _, arg := range n.args {
			paths(arg, visit)
		}
	}
}
