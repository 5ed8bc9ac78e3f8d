package dockerfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"slipway/internal/build"
	"slipway/internal/errs"
)

// Error is one thing that is wrong in a Dockerfile or an ignore file, and where. It is an errs.Invalid.
type Error struct {
	File string
	Line int // from 1; 0 when the place is not known
	Col  int // from 1, in bytes
	Msg  string
	Hint string // what to do about it, often ""
	// Source is what to show of the file below the message.
	Source build.Excerpt
}

// Error is "file:line:column: what is wrong".
func (e *Error) Error() string {
	return place(e.File, e.Line, e.Col) + ": " + e.Msg
}

// Excerpt is what to show of the file below the message.
func (e *Error) Excerpt() build.Excerpt { return e.Source }

// Unwrap gives the error its kind and its hint.
func (e *Error) Unwrap() error { return errs.Hint(errs.Invalid, e.Hint) }

// Errors is everything that is wrong in one file, in the order of the file. It is never empty.
type Errors []*Error

// Error is one line per mistake.
func (l Errors) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.Is and errors.AsType each of the mistakes.
func (l Errors) Unwrap() []error {
	list := make([]error, len(l))
	for i, e := range l {
		list[i] = e
	}
	return list
}

// Warning is something that works and is likely not what was meant, with the rule of BuildKit's linter that says so.
type Warning struct {
	Rule string // "" for what no rule of the linter covers
	// About says what the rule is about, whatever the place.
	About string
	File  string
	Line  int // from 1; 0 when it is about no line
	Col   int // from 1, in bytes
	// First and Last are the lines of the instruction.
	First, Last int
	Msg         string
	URL         string // a page that explains the rule, "" if there is none
	// Source is what to show of the file below the message: the instruction that the warning is about.
	Source build.Excerpt
}

// String is "file:line:column: Rule: what is meant".
func (w Warning) String() string {
	msg := w.Msg
	if w.Rule != "" {
		msg = w.Rule + ": " + msg
	}
	return w.Place() + ": " + msg
}

// Place is "file:line:column", as far as it is known.
func (w Warning) Place() string { return place(w.File, w.Line, w.Col) }

func place(file string, line, col int) string {
	switch {
	case line == 0:
		return file
	case col == 0:
		return fmt.Sprintf("%s:%d", file, line)
	}
	return fmt.Sprintf("%s:%d:%d", file, line, col)
}

// Linter returns a linter that follows the file's check directive and hands each warning to warn.
func (f *File) Linter(warn func(Warning)) *linter.Linter {
	config := f.Check
	config.Warn = func(rule, about, url, msg string, location []parser.Range) {
		line, col, source := f.locate(location, msg)
		w := Warning{Rule: rule, About: about, File: f.Name, Line: line, Col: col, Msg: msg, URL: url, Source: source}
		if len(location) > 0 {
			w.First, w.Last = location[0].Start.Line, location[len(location)-1].End.Line
		}
		warn(w)
	}
	return linter.New(&config)
}

// Place turns an error of BuildKit's parser, or of whoever works on its instructions, into an *Error at its place, or
// at another if it has none. An error that has a place already stays as it is.
func (f *File) Place(err error, otherwise []parser.Range) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return Errors{f.place(err, otherwise)}
}

func (f *File) place(err error, otherwise []parser.Range) *Error {
	at := otherwise
	if located, ok := errors.AsType[*parser.LocationError](err); ok && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		at = located.Locations[0]
	}
	msg := bare(err).Error()
	line, col, source := f.locate(at, msg)
	return &Error{File: f.Name, Line: line, Col: col, Msg: msg, Hint: errs.HintOf(err), Source: source}
}

// locate finds what a message is about, and what to show of it: the flag or the quoted word that it names, else the
// instruction.
func (f *File) locate(at []parser.Range, msg string) (line, col int, source build.Excerpt) {
	flag := flagIn(msg)
	if flag == "" {
		if line, col, width := f.findOnce(at, quotedIn(msg)); width > 0 {
			source = f.Excerpt(line, col)
			source.Width = width
			return line, col, source
		}
	}
	line, col = f.Find(at, flag)
	return line, col, f.Excerpt(line, col)
}

// quotedIn is the first text in quotes of a message. An apostrophe is no quote: "can't find".
func quotedIn(msg string) string {
	for i := range len(msg) {
		if c := msg[i]; c != '"' && (c != '\'' || i > 0 && isName(msg[i-1])) {
			continue
		}
		word, _, _ := strings.Cut(msg[i+1:], msg[i:i+1])
		return word
	}
	return ""
}

// findOnce finds a word of an instruction that stands in it once: with more of them there is no telling. The width is 0
// when it does not.
func (f *File) findOnce(at []parser.Range, word string) (line, col, width int) {
	if len(at) == 0 || word == "" {
		return 0, 0, 0
	}
	spellings := []string{word}
	if name, variable := strings.CutPrefix(word, "$"); variable {
		spellings = append(spellings, "${"+name)
	}
	found := 0
	for n := max(at[0].Start.Line, 1); n <= f.lastLine(at); n++ {
		text := strings.TrimPrefix(f.lines[n-1], byteOrderMark)
		for _, s := range spellings {
			for from := 0; ; {
				i := strings.Index(text[from:], s)
				if i < 0 {
					break
				}
				i += from
				if from = i + len(s); !inWord(text, i, from) {
					found, line, col, width = found+1, n, i+1, len(s)
				}
			}
		}
	}
	if found != 1 {
		return 0, 0, 0
	}
	return line, col, width
}

// lastLine is that of an instruction. The parser gives some of its own errors a first one alone.
func (f *File) lastLine(at []parser.Range) int {
	return min(max(at[0].Start.Line, at[len(at)-1].End.Line), len(f.lines))
}

// inWord says whether a part of a text is only a part of a name.
func inWord(text string, from, to int) bool {
	return from > 0 && isName(text[from-1]) && isName(text[from]) || to < len(text) && isName(text[to-1]) && isName(text[to])
}

// isName says whether a byte is one of a name's.
func isName(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// bare takes the places off an error of BuildKit's parser, and "dockerfile parse error on line 3: " with them.
func bare(err error) error {
	if located, ok := errors.AsType[*parser.LocationError](err); ok {
		return located.Unwrap()
	}
	return err
}

// flagIn finds the flag that a message of BuildKit's flag parser is about: "unknown flag: --form".
func flagIn(msg string) string {
	i := strings.Index(msg, "--")
	if i < 0 {
		return ""
	}
	flag, _, _ := strings.Cut(msg[i:], " ")
	flag, _, _ = strings.Cut(flag, "=")
	return strings.TrimRight(flag, ",.:;'\")")
}

// Position returns the line and column where an instruction begins, 0 and 0 when that is not known.
func (f *File) Position(at []parser.Range) (line, col int) {
	if len(at) == 0 {
		return 0, 0
	}
	line = at[0].Start.Line
	if line < 1 || line > len(f.lines) {
		return max(line, 0), 0
	}
	text := strings.TrimPrefix(f.lines[line-1], byteOrderMark)
	return line, len(text) - len(strings.TrimLeft(text, " \t\v\f\r")) + 1
}

// Find returns the line and column of a word of an instruction, or of the instruction when the word is not in it.
func (f *File) Find(at []parser.Range, word string) (line, col int) {
	if len(at) == 0 || word == "" {
		return f.Position(at)
	}
	for n := max(at[0].Start.Line, 1); n <= f.lastLine(at); n++ {
		if i := wordIndex(strings.TrimPrefix(f.lines[n-1], byteOrderMark), word); i >= 0 {
			return n, i + 1
		}
	}
	return f.Position(at)
}

// wordIndex finds word where a blank, or the line's beginning, stands before it.
func wordIndex(line, word string) int {
	for from := 0; ; {
		i := strings.Index(line[from:], word)
		if i < 0 {
			return -1
		}
		i += from
		if i == 0 || line[i-1] == ' ' || line[i-1] == '\t' {
			return i
		}
		from = i + 1
	}
}
