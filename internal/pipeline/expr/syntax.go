package expr

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxNodes bounds an expression, which is evaluated by recursion along its operators.
const maxNodes = 5000

// syntax reads one expression by recursive descent, a function for each level of precedence.
type syntax struct {
	text   string
	pos    int
	inside bool // it ends with }}, otherwise with the text
	depth  int
	nodes  int
	err    *Error
}

// whole reads an expression up to its end, and moves behind the }}.
func (p *syntax) whole() node {
	start := max(p.pos-len(openTemplate), 0)
	p.space()
	if p.pos == len(p.text) && !p.inside || p.inside && strings.HasPrefix(p.text[p.pos:], closedTemplate) {
		p.pos = start
		return p.fail("an empty expression", "write a name, such as ctx.data.deployFile")
	}
	e := p.conditional()
	p.space()
	switch {
	case p.err != nil || p.inside && p.take(closedTemplate):
	case p.inside && p.pos == len(p.text):
		p.pos = start
		p.fail("${{ without }}", "")
	case p.pos < len(p.text):
		p.unexpected()
	}
	return e
}

func (p *syntax) fail(msg, hint string) node {
	if p.err == nil {
		p.err = &Error{Offset: p.pos, Msg: msg, Hint: hint}
	}
	return literal{}
}

// hints are for what JavaScript has and this language does not.
func hints(rest string) string {
	for _, h := range []struct{ token, hint string }{
		{"=>", "there are no functions of one's own"},
		{"?.", "write . instead: a member of null is null"},
		{"??", "write || instead"},
		{"=", "write == to compare"},
		{"&", "write && for and"},
		{"|", "write || for or; there are no filters"},
		{"`", "write the string in quotes"},
		{"{", "there are no maps in expressions"},
		{";", "there are no statements"},
	} {
		if strings.HasPrefix(rest, h.token) {
			return h.hint
		}
	}
	return ""
}

func (p *syntax) unexpected() node {
	rest := p.text[p.pos:]
	word := rest
	if end := strings.IndexAny(word, " \t\r\n"); end >= 0 {
		word = word[:end]
	}
	if p.inside {
		word, _, _ = strings.Cut(word, closedTemplate)
	}
	if len(word) > 40 {
		word = word[:40]
		for !utf8.ValidString(word) && word != "" {
			word = word[:len(word)-1]
		}
	}
	if word == "" {
		return p.fail("the expression ends too early", "")
	}
	return p.fail("unexpected "+strconv.Quote(word)+" in the expression", hints(rest))
}

func (p *syntax) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *syntax) take(token string) bool {
	p.space()
	if !strings.HasPrefix(p.text[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	return true
}

// operator takes the first of the tokens that is next, longer ones before those they begin with.
func (p *syntax) operator(tokens ...string) string {
	for _, t := range tokens {
		if p.take(t) {
			return t
		}
	}
	return ""
}

// node counts what is made, and refuses more than maxNodes.
func (p *syntax) node(n node) node {
	if p.nodes++; p.nodes > maxNodes {
		return p.fail(fmt.Sprintf("more than %d operations in one expression", maxNodes), "")
	}
	return n
}

func (p *syntax) conditional() node {
	if p.depth++; p.depth > maxDepth {
		return p.fail("too many parentheses inside one another", "")
	}
	defer func() { p.depth-- }()
	condition := p.binary(0)
	if p.err != nil || !p.question() {
		return condition
	}
	then := p.conditional()
	if p.err == nil && !p.take(":") {
		p.space()
		return p.fail("a ? without its :", "")
	}
	return p.node(choice{condition, then, p.conditional()})
}

// question takes a ? that is not the beginning of another language's operator.
func (p *syntax) question() bool {
	p.space()
	rest := p.text[p.pos:]
	if strings.HasPrefix(rest, "??") || strings.HasPrefix(rest, "?.") && (len(rest) < 3 || rest[2] < '0' || rest[2] > '9') {
		return false
	}
	return p.take("?")
}

// levels are the binary operators, loosest first.
func levels() [][]string {
	return [][]string{{"||"}, {"&&"}, {"===", "!==", "==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}}
}

func (p *syntax) binary(level int) node {
	all := levels()
	if level == len(all) {
		return p.unary()
	}
	left := p.binary(level + 1)
	for p.err == nil {
		p.space()
		at := p.pos
		op := p.operator(all[level]...)
		if op == "" {
			break
		}
		left = p.node(binary{op, at, left, p.binary(level + 1)})
	}
	return left
}

func (p *syntax) unary() node {
	op := p.operator("!", "-")
	if op == "" {
		return p.postfix()
	}
	if p.depth++; p.depth > maxDepth {
		return p.fail("too many operators inside one another", "")
	}
	defer func() { p.depth-- }()
	return p.node(unary{op, p.unary()})
}

func (p *syntax) postfix() node {
	e := p.primary()
	for p.err == nil {
		at := p.pos
		switch {
		case p.take("."):
			p.space()
			at = p.pos
			name := p.word(true)
			if name == "" {
				return p.unexpected()
			}
			if strings.HasPrefix(p.text[p.pos:], "(") {
				p.pos = at
				return p.fail("there are no methods: "+name, "the functions are "+strings.Join(Functions(), ", "))
			}
			e = p.node(member{e, name, at})
		case p.take("["):
			key := p.conditional()
			if p.err == nil && !p.take("]") {
				return p.unexpected()
			}
			e = p.node(index{e, key, at})
		default:
			return e
		}
	}
	return e
}

// word reads a name, "" when there is none. dashes allows one before a letter.
func (p *syntax) word(dashes bool) string {
	start := p.pos
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		dash := dashes && c == '-' && p.pos > start && p.pos+1 < len(p.text) && isNameRune(rune(p.text[p.pos+1]), true)
		if !dash && !isNameRune(rune(c), p.pos == start) && c != '$' {
			break
		}
		p.pos++
	}
	return p.text[start:p.pos]
}

func (p *syntax) primary() node {
	p.space()
	if p.pos >= len(p.text) {
		return p.unexpected()
	}
	switch c := p.text[p.pos]; {
	case c == '(':
		p.pos++
		e := p.conditional()
		if p.err == nil && !p.take(")") {
			return p.unexpected()
		}
		return e
	case c == '[':
		p.pos++
		return p.node(list{p.items("]")})
	case c == '"' || c == '\'':
		return p.quoted(c)
	case c >= '0' && c <= '9', c == '.':
		return p.number()
	}
	at := p.pos
	name := p.word(false)
	switch {
	case name == "":
		return p.unexpected()
	case name == "true" || name == "false":
		return p.node(literal{name == "true"})
	case name == "null" || name == "undefined":
		return p.node(literal{})
	case p.take("("):
		return p.node(call{name, p.items(")"), at})
	default:
		return p.node(variable{name, at})
	}
}

// items reads expressions between commas, up to the closing token.
func (p *syntax) items(closing string) []node {
	var all []node
	for p.err == nil && !p.take(closing) {
		if len(all) > 0 && !p.take(",") {
			p.unexpected()
			break
		}
		all = append(all, p.conditional())
	}
	return all
}

func (p *syntax) number() node {
	start := p.pos
	for p.pos < len(p.text) && (p.text[p.pos] >= '0' && p.text[p.pos] <= '9' || p.text[p.pos] == '.') {
		p.pos++
	}
	if p.pos < len(p.text) && isNameRune(rune(p.text[p.pos]), true) { // 1x, and 0x1f or 1e3, which nobody needs
		p.pos = start
		return p.unexpected()
	}
	f, err := strconv.ParseFloat(p.text[start:p.pos], 64)
	if err != nil {
		p.pos = start
		return p.unexpected()
	}
	return p.node(literal{f})
}

// quoted reads a string with the escapes that JavaScript and JSON share.
func (p *syntax) quoted(quote byte) node {
	start := p.pos
	var out strings.Builder
	for p.pos++; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; {
		case c == quote:
			p.pos++
			return p.node(literal{out.String()})
		case c == '\\':
			if !p.escape(&out) {
				return p.fail("unknown escape in a string", `\\, \", \', \n, \r, \t and \uXXXX are known`)
			}
		default:
			out.WriteByte(c)
		}
	}
	p.pos = start
	return p.fail("a quote is not closed", "")
}

// escape reads what stands behind a backslash, and stops at its last byte.
func (p *syntax) escape(out *strings.Builder) bool {
	if p.pos+1 >= len(p.text) {
		return false
	}
	p.pos++
	c := p.text[p.pos]
	if c == 'u' && p.pos+4 < len(p.text) {
		n, err := strconv.ParseUint(p.text[p.pos+1:p.pos+5], 16, 16)
		if err != nil {
			return false
		}
		p.pos += 4
		out.WriteRune(rune(n))
		return true
	}
	if i := strings.IndexByte(`nrt\"'/`, c); i >= 0 {
		out.WriteByte("\n\r\t\\\"'/"[i])
		return true
	}
	return false
}
