package solver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"slipway/internal/build"
	"slipway/internal/build/cache/last"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
)

// explainer says of each step that runs why the cache did not answer it, by what the keys of the last build of the same
// Dockerfile were taken over. Every build notes that for the next one, in a file that is only written when it changes.
type explainer struct {
	b   *builder
	old *last.Build // nil: none is known
	now *last.Build
	is  map[*plan.Step]*last.Step // what each step is in this build
	was map[*plan.Step]*last.Step // what it was in the last one
}

// newExplainer compares this build's keys with the last one's, and has them noted in their place.
func (b *builder) newExplainer() error {
	x := &explainer{b: b, is: map[*plan.Step]*last.Step{}, was: map[*plan.Step]*last.Step{}}
	b.why = x
	x.keys()
	b.parts = nil
	if b.req.Last == "" {
		return nil
	}
	if b.req.Explain {
		var err error
		if x.old, err = last.Read(b.req.Last); err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
		x.match()
	}
	if !last.Same(b.req.Last, x.now.ID()) {
		b.group.Go(func() error {
			if err := x.note(); err != nil { // costs the next build an explanation
				b.events.warn(err.Error())
			}
			return nil
		})
	}
	return nil
}

// keys gathers what there is to remember of this build, but for its files.
func (x *explainer) keys() {
	x.now = &last.Build{Files: map[string]last.Sum{}}
	for _, s := range x.b.graph.Stages {
		kept := last.Stage{Name: stageID(s)}
		if s.Base.Kind == plan.FromImage {
			kept.Base = imageKey(s.Base.Image.Ref, s.Base.Image.Digest)
		}
		for i, st := range s.Steps {
			if st.Op == nil {
				continue
			}
			key := x.b.keyOf(s, i)
			one := last.Step{Name: stepName(s, st.Number, st.Text), Key: key, Parts: x.b.parts[key]}
			kept.Steps, x.is[st] = append(kept.Steps, one), &one
		}
		x.now.Stages = append(x.now.Stages, kept)
	}
}

func stageID(s *plan.Stage) string {
	if s.Name != "" {
		return s.Name
	}
	return strconv.Itoa(s.Index)
}

// note writes down what this build's keys were taken over.
func (x *explainer) note() error {
	for _, s := range x.b.graph.Stages {
		for _, st := range s.Steps {
			for _, from := range reads(st.Op) {
				files, err := x.files(from)
				if err != nil {
					return err
				}
				for p, sum := range files {
					x.now.Files[p] = sum
				}
			}
		}
	}
	return x.now.Write(x.b.req.Last)
}

// files lists what is read of a context, by path. Those of a named one begin with its name.
func (x *explainer) files(r read) (map[string]last.Sum, error) {
	c := x.b.opened[r.context]
	list, err := tree.Files(c.Tree, r.sources, c.Sums)
	if err != nil {
		return nil, err
	}
	files := make(map[string]last.Sum, len(list))
	for _, f := range list {
		files[r.named(f.Path)] = last.Sum(f.Sum[:len(last.Sum{})])
	}
	return files, nil
}

// named is what people call a path of the context.
func (r read) named(path string) string {
	if r.context == "" {
		return path
	}
	return r.context + contextMark + path
}

// unnamed is the path in the context that a name stands for.
func (r read) unnamed(name string) (path string, ok bool) {
	if r.context == "" {
		return name, !strings.Contains(name, contextMark)
	}
	return strings.CutPrefix(name, r.context+contextMark)
}

// contextMark stands between the name of a context and a path in it, which is clean: no path has two slashes itself.
const contextMark = "://"

// explain tells why a step runs, if that was asked for.
func (b *builder) explain(ctx context.Context, ev *step, s *plan.Stage, i int, st *stack) error {
	if !b.req.Explain {
		return nil
	}
	why, err := b.why.reason(ctx, s, i, st)
	if err != nil {
		return err
	}
	word, _, _ := strings.Cut(s.Steps[i].Text, " ")
	b.events.send(build.Event{Kind: build.Reason, Step: ev.id, Name: ev.name, Text: word + ": " + why})
	return nil
}

func (x *explainer) reason(ctx context.Context, s *plan.Stage, i int, st *stack) (string, error) {
	step := s.Steps[i]
	old := x.was[step]
	switch {
	case x.b.req.NoCache:
		return "--no-cache", nil
	case x.b.runsFresh(s):
		return "--no-cache-filter " + stageID(s), nil
	case x.old == nil:
		return "no earlier build of this Dockerfile is known here", nil
	case old == nil:
		return "the instruction is new", nil
	case old.Key == x.is[step].Key:
		return x.unanswered(ctx, s, i, st)
	}
	var was, is parts
	if err := errors.Join(json.Unmarshal(old.Parts, &was), json.Unmarshal(x.is[step].Parts, &is)); err != nil {
		return "", fmt.Errorf("explain: %w", err)
	}
	changes, err := x.changes(step.Op, was, is)
	if err != nil {
		return "", err
	}
	if len(changes) == 0 {
		return x.inherited(s, i), nil
	}
	return strings.Join(changes, ", "), nil
}

// unanswered is why a step runs whose key is that of the last build.
func (x *explainer) unanswered(ctx context.Context, s *plan.Stage, i int, st *stack) (string, error) {
	key := x.b.keyOf(s, i)
	r, err := x.b.Cache.Lookup(ctx, key)
	switch {
	case errors.Is(err, errs.NotFound):
		return "no cache has its result: the last build did not get so far, or it was pruned", nil
	case err != nil:
		return "", err
	}
	below, err := under(s.Steps[i].Op, st).identity(ctx)
	if err != nil {
		return "", err
	}
	if r.Below == below {
		for _, from := range stagesRead(s.Steps[i].Op) {
			if x.b.unsettled(from) {
				return "stage " + stageID(from) + " may have changed: --no-cache-filter", nil
			}
		}
		return "the layer that the cache knows is no longer stored", nil
	}
	return "it was last run on other files: a step below ran again and left something else", nil
}

// inherited is why a step runs that is what it was: something below it is not.
func (x *explainer) inherited(s *plan.Stage, i int) string {
	for j := i - 1; j >= 0; j-- {
		if below := s.Steps[j]; below.Op != nil {
			return "it stands on " + stepName(s, below.Number, below.Text) + ", which changed"
		}
	}
	switch s.Base.Kind {
	case plan.FromStage:
		return "it stands on stage " + stageID(s.Base.Stage) + ", which changed"
	case plan.FromImage:
		is := imageKey(s.Base.Image.Ref, s.Base.Image.Digest)
		for _, old := range x.old.Stages {
			if old.Name == stageID(s) && old.Base != is {
				return fmt.Sprintf("the base image changed from %s to %s", orNone(old.Base), is)
			}
		}
	}
	return "slipway makes keys in another way than it did"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// match finds for each step what it was in the last build: of the same stage the operation that was taken over the same
// but for what is below it, else, among those that are left, the one in the same place if it is of the same kind.
func (x *explainer) match() {
	if x.old == nil {
		return
	}
	for i, s := range x.b.graph.Stages {
		var ops []*plan.Step
		for _, st := range s.Steps {
			if st.Op != nil {
				ops = append(ops, st)
			}
		}
		for _, old := range x.old.Stages {
			if old.Name == stageID(s) {
				x.matchStage(ops, x.now.Stages[i].Steps, old.Steps)
			}
		}
	}
}

func (x *explainer) matchStage(ops []*plan.Step, now, old []last.Step) {
	taken := make([]bool, len(old))
	own := func(st last.Step) string {
		var p parts
		if json.Unmarshal(st.Parts, &p) != nil {
			return ""
		}
		p.Parent = ""
		text, err := json.Marshal(p)
		if err != nil {
			return ""
		}
		return string(text)
	}
	for i, op := range ops {
		for j := range old {
			if !taken[j] && own(old[j]) == own(now[i]) {
				x.was[op], taken[j] = &old[j], true
				break
			}
		}
	}
	for i, op := range ops {
		if x.was[op] == nil && i < len(old) && !taken[i] && kind(old[i]) == kind(now[i]) {
			x.was[op], taken[i] = &old[i], true
		}
	}
}

// kind is the operation of a remembered step.
func kind(st last.Step) string {
	var p parts
	if json.Unmarshal(st.Parts, &p) != nil {
		return ""
	}
	return p.Op
}
