// Package mistake holds the mistakes that people make in files: each at its line and column, with what to do about it, and
// shown with a caret under the place. Every reader of a file that people write reports all of its mistakes at once as
// Errors, and the command line, the service and its console show them alike.
package mistake

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

// Error is one mistake in a file, or a warning.
type Error struct {
	File string `json:"file"`
	// Line and Col count from 1, Col in characters. Both are 0 for a mistake in a flag.
	Line int    `json:"line"`
	Col  int    `json:"column"`
	Msg  string `json:"message"`
	// Hint is what to do about it; may be empty.
	Hint string `json:"hint,omitempty"`
	// Source is the line of the file, what looks like a secret masked; may be empty.
	Source  string `json:"source,omitempty"`
	Warning bool   `json:"warning,omitempty"`
}

// Error prints file:line:column: message.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg)
}

// Is makes every Error one of kind errs.Invalid.
func (e *Error) Is(target error) bool { return target == errs.Invalid }

// Excerpt shows the line with a caret under the place and the hint beside it, or the hint alone where there is no line:
//
//	44 |           - name: build-push
//	   |                   ^ did you mean build-image?
//
// Every line is indented by two spaces and ends with a line break. It is empty when there is nothing to show.
func (e *Error) Excerpt() string {
	switch {
	case e.Source == "" && e.Hint == "":
		return ""
	case e.Source == "":
		return "  " + e.Hint + "\n"
	}
	number := strconv.Itoa(e.Line)
	pad := strings.Repeat(" ", len(number))
	caret := strings.TrimRight(strings.Repeat(" ", columns(e.Source, e.Col-1))+"^ "+e.Hint, " ")
	return fmt.Sprintf("  %s | %s\n  %s | %s\n", number, e.Source, pad, caret)
}

// columns is how many columns of a terminal the first n characters of line take: Chinese, Japanese and Korean ones take
// two, as Unicode's East Asian Width has them.
func columns(line string, n int) int {
	total := 0
	for _, r := range line {
		if n--; n < 0 {
			return total
		}
		total++
		if r >= 0x1100 && r <= 0x115f || r >= 0x2e80 && r <= 0xa4cf || r >= 0xac00 && r <= 0xd7a3 || r >= 0xf900 && r <= 0xfaff ||
			r >= 0xfe30 && r <= 0xfe6f || r >= 0xff00 && r <= 0xff60 || r >= 0xffe0 && r <= 0xffe6 || r >= 0x1f300 && r <= 0x3fffd {
			total++
		}
	}
	return total + max(n, 0)
}

// Errors are the mistakes of one or several files. As an error it is never empty.
type Errors []*Error

// Error prints one mistake a line.
func (e Errors) Error() string {
	var lines []string
	for _, one := range e {
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes, each of kind errs.Invalid.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// Sorted returns the mistakes by place, each once: two tasks of one template would report the same line twice.
func (e Errors) Sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// OrNil returns the mistakes by place as an error, and nil when there are none.
func (e Errors) OrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e.Sorted()
}

// IsSecret reports whether a key names something that must not be shown: a password, a token, a signing secret, or an
// address that carries one.
func IsSecret(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"secret", "password", "passwd", "token", "webhook", "credential", "accesskey", "access_key", "privatekey", "private_key"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// Mask hides the value on a line such as `secret: abc`, for source lines in messages.
func Mask(line string) string {
	key, value, ok := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(value) == "" || !IsSecret(key) {
		return line
	}
	return key + ": ***"
}
