package dockerfile

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// DidYouMean returns " (did you mean X?)" with the known word that resembles one that was written, or "". Of equals it
// takes the first in alphabetical order, so that the same mistake gets the same answer; BuildKit's own suggestions
// depend on the order of a map.
func DidYouMean(word string, known []string) string {
	const tooFar = 3
	best, distance := "", tooFar
	for _, k := range slices.Sorted(slices.Values(known)) {
		switch d := edits(word, k); {
		case d == 0:
			return ""
		case d < distance:
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// edits counts insertions, deletions, substitutions and swaps of neighbours between two words.
func edits(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// explain replaces the suggestion of BuildKit's parser by DidYouMean's.
func explain(err error, n *parser.Node) error {
	msg, _, _ := strings.Cut(bare(err).Error(), " (did you mean ")
	if unknown, ok := errors.AsType[*instructions.UnknownInstructionError](err); ok {
		return errors.New(msg + DidYouMean(strings.ToUpper(unknown.Instruction), instructionNames()))
	}
	if flag, ok := strings.CutPrefix(msg, "unknown flag: --"); ok {
		return errors.New(msg + DidYouMean(flag, flagNames(n.Value)))
	}
	return err
}

func instructionNames() []string {
	return []string{
		"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD",
		"RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
	}
}

// flagNames are the flags of an instruction, in any case.
func flagNames(instruction string) []string {
	switch strings.ToLower(instruction) {
	case "from":
		return []string{"platform"}
	case "run":
		return []string{"device", "mount", "network", "security"}
	case "copy":
		return []string{"chmod", "chown", "exclude", "from", "link", "parents"}
	case "add":
		return []string{"checksum", "chmod", "chown", "exclude", "keep-git-dir", "link", "unpack"}
	case "healthcheck":
		return []string{"interval", "retries", "start-interval", "start-period", "timeout"}
	}
	return nil
}
