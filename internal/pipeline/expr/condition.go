package expr

import (
	"fmt"
	"strconv"
	"strings"
)

// maxDepth bounds the parentheses and negations of a condition: it is a stranger's text, parsed by recursion.
const maxDepth = 100

// Evaluate decides a condition such as `enable == true && stage != "prod"`: names of context data joined by dots, the
// literals true, false, null, numbers and quoted strings, compared with == and !=, joined by !, && and || and
// parentheses. lookup gives a name's value as text; a name it does not know is null. Values are compared as text, so
// that a boolean that came out of a <% %> equals a boolean. Both sides of && and || are always evaluated, which makes
// every mistake in the text show. The error is an *Error.
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

func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.space():], token) {
		return false
	}
	p.pos += len(token)
	return true
}

func (p *parser) or(depth int) operand {
	v := p.and(depth)
	for p.err == nil && p.take("||") {
		right := p.and(depth)
		v = boolean(v.truth() || right.truth())
	}
	return v
}

func (p *parser) and(depth int) operand {
	v := p.comparison(depth)
	for p.err == nil && p.take("&&") {
		right := p.comparison(depth)
		v = boolean(v.truth() && right.truth())
	}
	return v
}

func (p *parser) comparison(depth int) operand {
	v := p.unary(depth)
	switch {
	case p.err != nil:
		return v
	case p.take("=="):
		return boolean(v == p.unary(depth))
	case p.take("!="):
		return boolean(v != p.unary(depth))
	default:
		return v
	}
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
