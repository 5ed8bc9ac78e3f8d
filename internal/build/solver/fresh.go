package solver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/build/plan"
	"slipway/internal/errs"
)

// freshStages finds the stages, by their places in the Dockerfile, whose steps all run whatever a cache knows.
func (b *builder) freshStages() error {
	if len(b.req.NoCacheFilter) == 0 {
		return nil
	}
	_, stages, err := b.req.File.Instructions()
	if err != nil {
		return err
	}
	var names []string
	for i, s := range stages {
		if s.Name == "" {
			s.Name = strconv.Itoa(i)
		}
		names = append(names, s.Name)
	}
	b.fresh = map[int]bool{}
	for _, want := range b.req.NoCacheFilter {
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, want) })
		if n, err := strconv.Atoi(want); err == nil && i < 0 && n >= 0 && n < len(names) {
			i = n
		}
		if i < 0 {
			err := fmt.Errorf("--no-cache-filter %s: the Dockerfile has no such stage: %w", want, errs.Invalid)
			return errs.Hint(err, "its stages are "+strings.Join(names, ", "))
		}
		b.fresh[i] = true
	}
	return nil
}

// runsFresh says whether all of a stage's steps run.
func (b *builder) runsFresh(s *plan.Stage) bool { return b.req.NoCache || b.fresh[s.Index] }

// unsettled says whether it takes a run to know what a stage holds: its own, or that of a stage it needs.
func (b *builder) unsettled(s *plan.Stage) bool {
	if len(b.fresh) == 0 {
		return false
	}
	if b.runsFresh(s) || s.Base.Kind == plan.FromStage && b.unsettled(s.Base.Stage) {
		return true
	}
	return slices.ContainsFunc(s.Steps, func(st *plan.Step) bool { return slices.ContainsFunc(stagesRead(st.Op), b.unsettled) })
}

// mayAnswer says whether a record under an operation's key will do. What reads an unsettled stage is known by what it
// reads, once that is there; its key says only which operations led to it.
func (b *builder) mayAnswer(s *plan.Stage, op plan.Op) bool {
	return !b.runsFresh(s) && !slices.ContainsFunc(stagesRead(op), b.unsettled)
}
