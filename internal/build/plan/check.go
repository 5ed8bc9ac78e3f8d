package plan

import (
	"slices"

	"slipway/internal/build/dockerfile"
)

// Lint says what the linter's rules find in the stages that a target needs or, without a target, in all stages. As with
// New, images that are missing come back as a *NeedImages; one that cannot be had is given as Unknown, and then what
// depends on its config is neither warned of nor refused. Every other error is a mistake in the Dockerfile or the
// options; the warnings up to there come with it.
func Lint(file *dockerfile.File, opts Options, images map[Need]Image) ([]dockerfile.Warning, error) {
	p, err := newPlanner(file, opts)
	if err != nil {
		return lintOnly(p.allWarnings()), err
	}
	p.all = opts.Target == ""
	if err := p.resolve(images); err != nil {
		return lintOnly(p.allWarnings()), err
	}
	for _, s := range p.reachable() {
		if err = s.plan(); err != nil {
			break
		}
	}
	return lintOnly(p.allWarnings()), err
}

// lintOnly leaves out what no rule says.
func lintOnly(list []dockerfile.Warning) []dockerfile.Warning {
	return slices.DeleteFunc(slices.Clone(list), func(w dockerfile.Warning) bool { return w.Rule == "" })
}
