package solver

import (
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
)

// Features are those beyond the classic language that a Solver can do. A Dockerfile that asks for another is refused.
func Features() []dockerfile.Feature {
	return []dockerfile.Feature{dockerfile.Exclude, dockerfile.Parents, dockerfile.Unpack, dockerfile.Link, dockerfile.Mount, dockerfile.Checksum, dockerfile.KeepGitDir}
}

// sources are what a COPY or ADD takes out of its From.
func sources(op *plan.Copy) []tree.Source {
	list := make([]tree.Source, 0, len(op.Sources)+len(op.Parents))
	for _, s := range op.Sources {
		list = append(list, tree.Source{Pattern: s, Exclude: op.Exclude})
	}
	for _, p := range op.Parents {
		list = append(list, tree.Source{Pattern: p.Dir, Include: p.Pattern, Required: p.Required, Exclude: op.Exclude})
	}
	return list
}
