package dockerfile

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// notYet says whether a flag belongs to the language but slipway cannot do it, as "copy --link". A line less is a
// feature more.
func notYet(instruction, flag string) bool {
	switch instruction + " " + flag {
	case "run --mount", "run --security", "run --device",
		"copy --link", "copy --parents", "copy --exclude",
		"add --link", "add --exclude", "add --checksum", "add --keep-git-dir", "add --unpack":
		return true
	}
	return false
}

// refuse lists the flags of an instruction that slipway cannot do.
func (f *File) refuse(n *parser.Node) Errors {
	var wrong Errors
	instruction := strings.ToLower(n.Value)
	for _, word := range n.Flags {
		flag, value, _ := strings.Cut(word, "=")
		if !notYet(instruction, flag) || strings.EqualFold(value, "false") {
			continue
		}
		line, col := f.Find(n.Location(), flag)
		wrong = append(wrong, &Error{
			File: f.Name, Line: line, Col: col,
			Msg:  strings.ToUpper(instruction) + " " + flag + " is not supported yet",
			Hint: "build without " + flag + "; slipway refuses what it cannot do rather than ignore it",
		})
	}
	return wrong
}
