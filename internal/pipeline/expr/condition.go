package expr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxDepth bounds the parentheses and negations of a condition: it is a stranger's text, parsed by recursion.
const maxDepth = 100

// Evaluate decides a condition such as `enable == true && stage != "prod"`. Its operands are names of context data
// joined by dots, the literals true, false and null, numbers, and quoted strings. From what binds loosest:
//
//	a || b, a or b
//	a && b, a and b
//	not a
//	a == b, a != b, a < b, a <= b, a > b, a >= b, a in [b, c], a not in [b, c],
//	a contains b, a startsWith b, a endsWith b
//	!a, (a)
//
// lookup gives a name's value as text; a name it does not know is null. Values are compared as text, so that a boolean
// that came out of a <% %> equals a boolean; order is among numbers alone, and null is neither less nor more than
// anything. Both sides of "and" and "or" are always evaluated, which makes every mistake in the text show. The error
// is an *Error.
func Evaluate(text string, lookup func(path string) (string, bool)) (bool, error) {
	p := &parser{text: text, lookup: lookup}
	v := p.or(0)
	if p.err == nil && p.space() < len(text) {
		p.fail("unexpected " + strconv.Quote(text[p.pos:]))
	}
	if p.err != nil {
		return false, p.err
	}
	return v.truth(), nil
}

// operand is a value on its way through a condition; null is the absence of text.
type operand struct {
	text string
	null bool
}

func boolean(b bool) operand { return operand{text: strconv.FormatBool(b)} }

func (o operand) truth() bool { return !o.null && o.text == "true" }

type parser struct {
	text   string
	pos    int
	lookup func(string) (string, bool)
	err    *Error
}

func (p *parser) fail(msg string) operand {
	if p.err == nil {
		p.err = &Error{Offset: p.pos, Msg: fmt.Sprintf("condition %q: %s", p.text, msg)}
	}
	return operand{null: true}
}

func (p *parser) space() int {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
	return p.pos
}

// take consumes token if it comes next. A word is taken whole: "in" is not the beginning of "instance".
func (p *parser) take(token string) bool {
	rest := p.text[p.space():]
	if !strings.HasPrefix(rest, token) {
		return false
	}
	if isWordByte(token[0]) && len(rest) > len(token) && isWordByte(rest[len(token)]) {
		return false
	}
	p.pos += len(token)
	return true
}

func (p *parser) or(depth int) operand {
	v := p.and(depth)
	for p.err == nil && (p.take("||") || p.take("or")) {
		right := p.and(depth)
		v = boolean(v.truth() || right.truth())
	}
	return v
}

func (p *parser) and(depth int) operand {
	v := p.not(depth)
	for p.err == nil && (p.take("&&") || p.take("and")) {
		right := p.not(depth)
		v = boolean(v.truth() && right.truth())
	}
	return v
}

func (p *parser) not(depth int) operand {
	switch {
	case depth > maxDepth:
		return p.fail("too deep")
	case p.take("not"):
		return boolean(!p.not(depth + 1).truth())
	default:
		return p.comparison(depth)
	}
}

func (p *parser) comparison(depth int) operand {
	v := p.unary(depth)
	if p.err != nil {
		return v
	}
	switch {
	case p.take("=="):
		return boolean(v == p.unary(depth))
	case p.take("!="):
		return boolean(v != p.unary(depth))
	case p.take("<="):
		return p.ordered(v, p.unary(depth), func(a, b float64) bool { return a <= b })
	case p.take(">="):
		return p.ordered(v, p.unary(depth), func(a, b float64) bool { return a >= b })
	case p.take("<"):
		return p.ordered(v, p.unary(depth), func(a, b float64) bool { return a < b })
	case p.take(">"):
		return p.ordered(v, p.unary(depth), func(a, b float64) bool { return a > b })
	case p.take("in"):
		return boolean(slices.Contains(p.list(depth), v))
	case p.take("not"):
		if !p.take("in") {
			return p.fail("after a value, not is part of not in")
		}
		return boolean(!slices.Contains(p.list(depth), v))
	case p.take("contains"):
		return texts(v, p.unary(depth), strings.Contains)
	case p.take("startsWith"):
		return texts(v, p.unary(depth), strings.HasPrefix)
	case p.take("endsWith"):
		return texts(v, p.unary(depth), strings.HasSuffix)
	default:
		return v
	}
}

// ordered compares numbers. Texts have no order here: that of their bytes puts v10 before v9.
func (p *parser) ordered(a, b operand, holds func(a, b float64) bool) operand {
	if p.err != nil || a.null || b.null {
		return boolean(false)
	}
	x, errX := strconv.ParseFloat(a.text, 64)
	y, errY := strconv.ParseFloat(b.text, 64)
	if errX != nil || errY != nil {
		return p.fail(fmt.Sprintf("%q and %q are not both numbers, and only numbers have an order", a.text, b.text))
	}
	return boolean(holds(x, y))
}

func texts(a, b operand, holds func(a, b string) bool) operand {
	return boolean(!a.null && !b.null && holds(a.text, b.text))
}

// list reads [a, b].
func (p *parser) list(depth int) []operand {
	if !p.take("[") {
		p.fail("in takes a list, such as [\"a\", \"b\"]")
		return nil
	}
	var items []operand
	for p.err == nil && !p.take("]") {
		if len(items) > 0 && !p.take(",") {
			p.fail("missing ]")
			break
		}
		items = append(items, p.unary(depth))
	}
	return items
}

func (p *parser) unary(depth int) operand {
	switch {
	case depth > maxDepth:
		return p.fail("too deep")
	case p.take("!"):
		return boolean(!p.unary(depth + 1).truth())
	case p.take("("):
		v := p.or(depth + 1)
		if p.err == nil && !p.take(")") {
			return p.fail("missing )")
		}
		return v
	default:
		return p.literal()
	}
}

func (p *parser) literal() operand {
	start := p.space()
	if start == len(p.text) {
		return p.fail("it ends too early")
	}
	if c := p.text[start]; c == '"' || c == '\'' {
		end := strings.IndexByte(p.text[start+1:], c)
		if end < 0 {
			return p.fail("a quote is not closed")
		}
		p.pos = start + end + 2
		return operand{text: p.text[start+1 : start+1+end]}
	}
	for p.pos < len(p.text) && isWordByte(p.text[p.pos]) {
		p.pos++
	}
	return p.word(start)
}

func (p *parser) word(start int) operand {
	word := p.text[start:p.pos]
	switch word {
	case "true", "false":
		return operand{text: word}
	case "null", "nil":
		return operand{null: true}
	case "and", "or", "not", "in", "contains", "startsWith", "endsWith":
		p.pos = start
		return p.fail("a name or a value is expected at " + strconv.Quote(p.text[start:]))
	}
	if _, err := strconv.ParseFloat(word, 64); err == nil && !isNameRune(rune(word[0]), true) {
		return operand{text: word}
	}
	path := strings.TrimPrefix(strings.TrimPrefix(word, "ctx."), "data.")
	if !isPath(path) {
		p.pos = start
		return p.fail("a name or a value is expected at " + strconv.Quote(p.text[start:]))
	}
	text, ok := p.lookup(path)
	return operand{text: text, null: !ok}
}

func isWordByte(c byte) bool {
	return c == '.' || c == '-' || c == '+' || isNameRune(rune(c), false)
}
