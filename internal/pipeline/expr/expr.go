// Package expr evaluates the small languages of a pipeline file: the variables <% .git.branch %> inside a scalar, the
// expressions ${{ steps.test.status == 'success' }} of a step (Template), and the condition of a task template, such as
// enable == true.
//
// Expand works on one scalar after YAML has been parsed, and its result is text: a variable can neither add a key to
// the file nor turn a string into a number. Package expr is pure: it gets values and returns values.
//
// The variables are a subset of Go's text/template: a dotted path, or a quoted string (the way to write a literal <%).
// There are no functions, conditions or loops; whatever looks like one is an error that says so.
package expr

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	open   = "<%"
	closed = "%>"
)

// Error is a mistake in an expression.
type Error struct {
	// Index counts the <% of the scalar from 0, for finding the place in the source.
	Index int
	// Offset is the mistake's place in bytes from the start of the scalar or condition.
	Offset int
	// Name is the unknown variable, without its leading dot; empty for other mistakes.
	Name string
	Msg  string
	// Hint is what to do about it; may be empty.
	Hint string
	// Err is what a function failed of; nil for mistakes in the text.
	Err error
}

// Error returns the message.
func (e *Error) Error() string { return e.Msg }

// Unwrap returns what a function failed of.
func (e *Error) Unwrap() error { return e.Err }

// Has reports whether text holds a <% %> expression, or the beginning of one.
func Has(text string) bool { return strings.Contains(text, open) }

// Expand replaces every <% %> in text. lookup gives the value of a path such as "git.branch". opens are the places of the
// ${{ that the text itself held: one that a value brings along is text, so that nobody can put an expression into a
// pipeline with the message of a commit. For the same reason a value inside a ${{ }} must be a plain word. The error is an
// *Error.
func Expand(text string, lookup func(path string) (string, bool)) (out string, opens []int, err error) {
	var b strings.Builder
	for rest, index := text, 0; ; index++ {
		before, inside, found := strings.Cut(rest, open)
		for _, at := range Opens(before) {
			opens = append(opens, b.Len()+at)
		}
		b.WriteString(before)
		if !found {
			return b.String(), opens, nil
		}
		offset := len(text) - len(inside)
		end := closing(inside)
		if end < 0 {
			return "", nil, &Error{Index: index, Offset: offset - len(open), Msg: "<% without %>"}
		}
		value, err := evaluate(inside[:end], lookup)
		if err == nil && len(opens) > 0 && !strings.Contains(b.String()[opens[len(opens)-1]:], closedTemplate) && !isWord(value) {
			err = &Error{Msg: "a value inside ${{ }} must be a plain word, this one is not", Hint: "${{ }} knows the value too: git.branch, ctx.data.appName"}
		}
		if err != nil {
			err.Index, err.Offset = index, err.Offset+offset
			return "", nil, err
		}
		b.WriteString(value)
		rest = inside[end+len(closed):]
	}
}

// isWord reports whether a value can be put into an expression without changing what the rest of it means.
func isWord(value string) bool {
	return strings.IndexFunc(value, func(r rune) bool { return !isNameRune(r, false) && !strings.ContainsRune("./:@- ", r) }) < 0
}

// closing finds the %> that ends an expression, which may hold one inside a quoted string.
func closing(s string) int {
	var quote byte
	for i := 0; i < len(s); i++ {
		switch {
		case quote != 0:
			if s[i] == '\\' && quote == '"' {
				i++
			} else if s[i] == quote {
				quote = 0
			}
		case s[i] == '"' || s[i] == '`':
			quote = s[i]
		case strings.HasPrefix(s[i:], closed):
			return i
		}
	}
	return -1
}

func evaluate(src string, lookup func(string) (string, bool)) (string, *Error) {
	word := strings.TrimSpace(src)
	offset := strings.Index(src, word)
	if word == "" {
		return "", &Error{Msg: "nothing between <% and %>"}
	}
	if word[0] == '"' || word[0] == '`' {
		s, err := strconv.Unquote(word)
		if err != nil {
			return "", &Error{Offset: offset, Msg: word + " is not a quoted string"}
		}
		return s, nil
	}
	path, ok := strings.CutPrefix(word, ".")
	if !ok || !isPath(path) {
		return "", &Error{Offset: offset, Msg: fmt.Sprintf("<%% %%> takes the name of a variable, such as .git.branch, not %q", word)}
	}
	value, ok := lookup(path)
	if !ok {
		return "", &Error{Offset: offset, Name: path, Msg: "unknown variable ." + path}
	}
	return value, nil
}

// isPath reports whether s is names joined by dots, each as Go spells identifiers.
func isPath(s string) bool {
	for name := range strings.SplitSeq(s, ".") {
		for i, r := range name {
			if !isNameRune(r, i == 0) {
				return false
			}
		}
		if name == "" {
			return false
		}
	}
	return true
}

func isNameRune(r rune, first bool) bool {
	switch {
	case r == '_', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
		return true
	default:
		return r >= '0' && r <= '9' && !first
	}
}
