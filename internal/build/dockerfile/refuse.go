package dockerfile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Feature is a flag beyond the classic language, one that a builder must know to build a file right.
type Feature string

// Features of the language, each with the instructions that have it.
const (
	Mount      Feature = "--mount"        // RUN
	Security   Feature = "--security"     // RUN
	Device     Feature = "--device"       // RUN
	Link       Feature = "--link"         // COPY, ADD
	Exclude    Feature = "--exclude"      // COPY, ADD
	Parents    Feature = "--parents"      // COPY
	Unpack     Feature = "--unpack"       // ADD
	Checksum   Feature = "--checksum"     // ADD
	KeepGitDir Feature = "--keep-git-dir" // ADD
)

// beyond says whether a flag of an instruction, with a value, asks for more than the classic language.
func beyond(instruction, flag, value string) bool {
	switch Feature(flag) {
	case Mount, Device:
		return instruction == "run"
	case Security:
		return instruction == "run" && value != "sandbox" // which is what every RUN gets
	case Link, Exclude, Parents, Unpack, Checksum, KeepGitDir:
		return (instruction == "copy" || instruction == "add") && !strings.EqualFold(value, "false")
	}
	return false
}

// Unsupported lists, as Errors, every flag of the file that asks for a feature that a builder does not support. It is
// nil when there is none.
func (f *File) Unsupported(supports []Feature) error {
	var wrong Errors
	for _, n := range f.ast.Children {
		wrong = append(wrong, f.refuse(n, supports)...)
	}
	if len(wrong) == 0 {
		return nil
	}
	return wrong
}

func (f *File) refuse(n *parser.Node, supports []Feature) Errors {
	var wrong Errors
	instruction := strings.ToLower(n.Value)
	for _, word := range n.Flags {
		flag, value, _ := strings.Cut(word, "=")
		if !beyond(instruction, flag, value) || slices.Contains(supports, Feature(flag)) {
			continue
		}
		line, col := f.Find(n.Location(), flag)
		wrong = append(wrong, &Error{
			File: f.Name, Line: line, Col: col,
			Msg:    strings.ToUpper(instruction) + " " + flag + " is not supported yet",
			Hint:   "build without " + flag + "; slipway refuses what it cannot do rather than ignore it",
			Source: f.Excerpt(line, col),
		})
	}
	return wrong
}
