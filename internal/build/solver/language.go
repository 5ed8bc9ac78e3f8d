package solver

import (
	"slices"

	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/oci/ref"
)

// Features are those beyond the classic language that a Solver can do. A Dockerfile that asks for another is refused.
func Features() []dockerfile.Feature {
	return []dockerfile.Feature{dockerfile.Exclude, dockerfile.Parents, dockerfile.Unpack, dockerfile.Link, dockerfile.Mount, dockerfile.Checksum, dockerfile.KeepGitDir, dockerfile.Security, dockerfile.Device}
}

// tellSyntax says that nothing is fetched for a syntax directive. BuildKit would run the image that it names; the
// language of Docker's own images is the one that is read here, and any other is another language.
func (b *builder) tellSyntax() {
	syntax := b.req.File.Syntax
	if syntax == "" || syntax == "dockerfile.v0" { // BuildKit's word for "without an image"
		return
	}
	r, err := ref.Parse(syntax)
	if err == nil && slices.Contains([]string{"docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"}, r.Name()) {
		b.events.note("syntax " + syntax + ": slipway reads the Dockerfile itself and fetches no frontend")
		return
	}
	b.events.warn("syntax " + syntax + ": slipway reads the file as a Dockerfile and runs no frontend; if this one has a language of its own, the result is another")
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
