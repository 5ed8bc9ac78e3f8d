package dockerfile

import (
	"strings"

	"slipway/internal/build"
)

// Excerpt is what to show of a place: the whole instruction when the place is where one begins, else the line. What is
// marked is the word at the column.
func (f *File) Excerpt(line, col int) build.Excerpt {
	if line < 1 || line > len(f.lines) {
		return build.Excerpt{}
	}
	last := line
	if f.ast != nil { // nil when the parser could not go on
		for _, n := range f.ast.Children {
			if n.StartLine == line && f.begins(line, col) {
				last = min(n.EndLine, len(f.lines))
			}
		}
	}
	e := build.Excerpt{Line: line}
	for _, text := range f.lines[line-1 : last] {
		e.Lines = append(e.Lines, strings.TrimRight(strings.TrimPrefix(text, byteOrderMark), "\r\n"))
	}
	if first := e.Lines[0]; col >= 1 && col <= len(first) {
		word, _, _ := strings.Cut(strings.ReplaceAll(first[col-1:], "\t", " "), " ")
		e.Col, e.Width = col, len(word)
	}
	return e
}

// begins says whether nothing but blanks stands before a column.
func (f *File) begins(line, col int) bool {
	before := strings.TrimPrefix(f.lines[line-1], byteOrderMark)
	return col < 1 || col <= len(before) && strings.TrimSpace(before[:col-1]) == ""
}
