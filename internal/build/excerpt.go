package build

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Excerpt is the part of a file that a message is about, to be shown below it. The zero value shows nothing.
type Excerpt struct {
	Line  int      // of the first of Lines, from 1
	Lines []string // without their ends
	// Col and Width are where the mark in the first line begins, from 1, and how long it is, both in bytes. A Width of 0
	// marks nothing.
	Col, Width int
}

const (
	// maxExcerptLines are shown of an instruction that goes on and on, as RUN often does.
	maxExcerptLines = 8
	// maxExcerptWidth is how many characters of a line are shown.
	maxExcerptWidth = 160
)

// String draws the lines with their numbers, the first with a mark below it, as compilers do. It ends in a newline
// unless there is nothing to show.
func (e Excerpt) String() string {
	var b strings.Builder
	shown := e.Lines[:min(len(e.Lines), maxExcerptLines)]
	digits := len(fmt.Sprint(e.Line + len(shown) - 1))
	for i, line := range shown {
		line = strings.TrimRight(line, " \t\r\n")
		fmt.Fprintf(&b, "%*d |%s\n", digits+2, e.Line+i, spacedLine(cut(line)))
		if mark := e.mark(line); i == 0 && mark != "" {
			fmt.Fprintf(&b, "%*s | %s\n", digits+2, "", mark)
		}
	}
	if more := len(e.Lines) - len(shown); more > 0 {
		fmt.Fprintf(&b, "%*s | … (%d more lines)\n", digits+2, "", more)
	}
	return b.String()
}

func spacedLine(line string) string {
	if line == "" {
		return ""
	}
	return " " + line
}

func cut(line string) string {
	runes := 0
	for i := range line {
		if runes == maxExcerptWidth {
			return line[:i] + "…"
		}
		runes++
	}
	return line
}

// mark is what stands below a line: blanks as wide as what is before the marked word, tabs for tabs, then ^^^.
func (e Excerpt) mark(line string) string {
	from, to := e.Col-1, min(e.Col-1+e.Width, len(line))
	if e.Width == 0 || from < 0 || from >= to || utf8.RuneCountInString(line[:to]) > maxExcerptWidth {
		return ""
	}
	blanks := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, line[:from])
	return blanks + strings.Repeat("^", utf8.RuneCountInString(line[from:to]))
}
