package solver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"slipway/internal/build"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// probe is how far the cache takes a stage without running anything.
type probe struct {
	records []build.Record // of the stage's first operations, all answered
	full    bool           // the whole stage, with what it stands on, is answered
	chain   oci.Digest     // of the state after records; meaningful when the base is answered too
	known   bool           // chain is known: whatever is below is answered
}

// probeLocked is probe for those that do not hold the lock.
func (b *builder) probeLocked(ctx context.Context, s *plan.Stage) (*probe, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probe(ctx, s)
}

// probe looks up a stage's operations in order and stops at the first one that must run.
func (b *builder) probe(ctx context.Context, s *plan.Stage) (*probe, error) {
	if p, ok := b.probed[s]; ok {
		return p, nil
	}
	p := &probe{known: true}
	switch s.Base.Kind {
	case plan.FromStage:
		below, err := b.probe(ctx, s.Base.Stage)
		if err != nil {
			return nil, err
		}
		p.chain, p.known = below.chain, below.full
	case plan.FromImage:
		for _, d := range s.Base.Image.Config.RootFS.DiffIDs {
			p.chain = chain(p.chain, d)
		}
	}
	b.probed[s] = p
	if !p.known {
		return p, nil
	}
	p, err := b.answered(ctx, s, *p)
	if err != nil {
		return nil, err
	}
	b.probed[s] = p
	return p, nil
}

// lookup asks the caches for what an operation left on a state.
func (b *builder) lookup(ctx context.Context, key, below oci.Digest) (build.Record, error) {
	return firstAnswer(ctx, key, below, []lookup{b.local, b.imports.find})
}

// local asks this machine's cache. A record whose blob and folder are gone is no answer; those of an answer stay until
// the end of the build.
func (b *builder) local(ctx context.Context, key, below oci.Digest) (build.Record, error) {
	r, err := b.Cache.Lookup(ctx, key)
	if err != nil {
		return r, err
	}
	if r.Below != below {
		return r, errs.NotFound
	}
	if r.Layer != nil {
		if size, err := b.Blobs.Stat(ctx, r.Layer.Digest); err == nil && size == r.Layer.Size {
			return r, nil
		}
		r.Layer = nil
	}
	if r.Folder != "" {
		_, err = b.findFolder(ctx, r.Folder)
	} else if r.DiffID != "" {
		err = errs.NotFound
	}
	return r, err
}

// stage returns the file system at the end of a stage, and begins to work on it if nobody has.
func (b *builder) stage(s *plan.Stage) *future[*stack] {
	return b.stages.start(b.group, s, func() (*stack, error) { return b.walk(b.group.ctx, s) })
}

// walk goes through a stage's steps.
func (b *builder) walk(ctx context.Context, s *plan.Stage) (*stack, error) {
	p, err := b.probeLocked(ctx, s)
	if err != nil {
		return nil, err
	}
	b.prefetch(s, p)
	st, err := b.baseStack(ctx, s)
	if err != nil {
		return nil, err
	}
	hits := p.records
	for i, step := range s.Steps {
		if step.Op == nil {
			st = st.with(oci.History{CreatedBy: step.CreatedBy, EmptyLayer: true, Created: stamp(st)})
			continue
		}
		var hit *build.Record
		if len(hits) > 0 {
			hit, hits = &hits[0], hits[1:]
		}
		next, err := b.step(ctx, s, i, st, hit)
		if err != nil {
			return nil, err
		}
		b.exports.note(s, i, st, next)
		st = next
	}
	return st, nil
}

// prefetch begins what steps to be run will need: the stages that they copy from, which run beside this one, and the
// first sandbox.
func (b *builder) prefetch(s *plan.Stage, p *probe) {
	done := len(p.records)
	for _, step := range s.Steps {
		if step.Op == nil {
			continue
		}
		if done--; done >= 0 {
			continue
		}
		for _, from := range stagesRead(step.Op) {
			b.stage(from)
		}
		if _, ok := step.Op.(*plan.Run); ok {
			b.engine.Warm() // a process takes longer to start than the files it will see take to find
		}
	}
}

func (b *builder) baseStack(ctx context.Context, s *plan.Stage) (*stack, error) {
	switch s.Base.Kind {
	case plan.FromStage:
		return b.stage(s.Base.Stage).wait(ctx)
	case plan.FromImage:
		im, err := b.image(ctx, s.Base.Image)
		if err != nil {
			return nil, err
		}
		st := b.imageStack(im)
		b.announce(s, st.rungs...)
		return st, nil
	default:
		return &stack{}, nil
	}
}

// announce tells the pusher of layers that will be in the image.
func (b *builder) announce(s *plan.Stage, rungs ...*rung) {
	if b.push == nil || !b.target[s] {
		return
	}
	for _, r := range rungs {
		if r.base != nil || !b.req.Shape.Squash { // what is squashed is not in the image itself
			b.push.layer(r)
		}
	}
}

// step brings a stack one operation further: with the record that the probe found, with one that turns out to fit now
// that the state below is known, or by running it.
func (b *builder) step(ctx context.Context, s *plan.Stage, i int, st *stack, hit *build.Record) (*stack, error) {
	step, key := s.Steps[i], b.keyOf(s, i)
	name := stepName(s, step.Number, step.Text)
	b.count(func(n *build.Stats) { n.Steps++ })
	if hit == nil && b.mayAnswer(s, step.Op) {
		var err error
		if hit, err = b.late(ctx, key, under(step.Op, st)); err != nil {
			return nil, err
		}
	}
	if hit != nil {
		b.events.cached(name)
		return b.take(ctx, s, step, key, st, *hit)
	}
	if err := b.await(ctx, step); err != nil {
		return nil, err
	}
	ev := b.events.start(name)
	if err := b.explain(ctx, ev, s, i, st); err != nil {
		ev.End("", err)
		return nil, err
	}
	r, err := b.run(ctx, ev, s, i, st)
	if err != nil {
		err = b.at(step, err)
		ev.End("", err)
		return nil, err
	}
	ev.End("", nil)
	return b.put(s, step, st, r), nil
}

// await waits for the stage that a step copies from, so that the step's own time is its own, and its failure too.
func (b *builder) await(ctx context.Context, step *plan.Step) error {
	c, ok := step.Op.(*plan.Copy)
	if !ok || c.From.Kind != plan.FromStage {
		return nil
	}
	_, err := b.stage(c.From.Stage).wait(ctx)
	return err
}

// late looks an operation up whose state below was not known when the stage was probed. Packing is waited for only
// when there is a record to compare with.
func (b *builder) late(ctx context.Context, key oci.Digest, st *stack) (*build.Record, error) {
	if _, err := b.Cache.Lookup(ctx, key); err != nil {
		if !errors.Is(err, errs.NotFound) {
			return nil, err
		}
		if !b.imports.knows(key) {
			return nil, nil
		}
	}
	below, err := st.identity(ctx)
	if err != nil {
		return nil, err
	}
	r, err := b.lookup(ctx, key, below)
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	return &r, err
}

// take puts a remembered result on a stack.
func (b *builder) take(ctx context.Context, s *plan.Stage, step *plan.Step, key oci.Digest, st *stack, hit build.Record) (*stack, error) {
	b.count(func(n *build.Stats) { n.Cached++ })
	if err := b.imports.adopt(ctx, key, hit); err != nil {
		return nil, err
	}
	created := b.recordedAt(hit.Created)
	h := oci.History{CreatedBy: step.CreatedBy, Created: &created, EmptyLayer: hit.Empty()}
	if hit.Empty() {
		return st.with(h), nil
	}
	r, err := b.recorded(ctx, hit, key)
	if err != nil {
		return nil, err
	}
	b.announce(s, r)
	return st.on(r).with(h), nil
}

// put puts the result of an operation that ran on a stack; nil when it changed nothing.
func (b *builder) put(s *plan.Stage, step *plan.Step, st *stack, r *rung) *stack {
	created := b.created()
	if r != nil {
		created = r.created
	}
	h := oci.History{CreatedBy: step.CreatedBy, Created: &created, EmptyLayer: r == nil}
	if r == nil {
		return st.with(h)
	}
	b.announce(s, r)
	return st.on(r).with(h)
}

// run does an operation's work.
func (b *builder) run(ctx context.Context, ev *step, s *plan.Stage, i int, st *stack) (*rung, error) {
	switch op := s.Steps[i].Op.(type) {
	case *plan.Run:
		if err := runnable(s.Platform); err != nil {
			return nil, err
		}
		return b.runShown(ctx, ev, s, i, op, st)
	case *plan.Copy:
		return b.copyFiles(ctx, op, b.purpose(s, i), b.parentOf(s, i), under(op, st))
	case *plan.Mkdir:
		return b.makeDir(ctx, op, b.purpose(s, i), st)
	default:
		return nil, bug("operation %T", op)
	}
}

// purpose is what a new layer is for, which decides the forms it is made in, and the keys it is remembered under.
type purpose struct {
	step   *plan.Step // that it is of; nil when it is of several
	keys   []oci.Digest
	fresh  bool // it is made whatever a cache knows
	folder bool // somebody will read its files
	blob   bool // the image will have it
}

// name is what a list of results calls it: the instruction's first line, not all of a long one.
func (p *purpose) name() string {
	if p.step == nil {
		return "several steps"
	}
	line, _, _ := strings.Cut(p.step.Text, "\n")
	const long = 120
	if len(line) > long {
		line = strings.ToValidUTF8(line[:long], "") + "…"
	}
	return line
}

func (b *builder) purpose(s *plan.Stage, i int) purpose {
	return purpose{
		step:   s.Steps[i],
		keys:   []oci.Digest{b.keyOf(s, i)},
		fresh:  b.runsFresh(s),
		folder: b.wantsFolder(s, i) || b.target[s] && (b.wantsFiles() || b.req.Shape.Squash),
		blob:   b.target[s] && (b.wantsImage() && !b.req.Shape.Squash || len(b.req.CacheTo) > 0) || b.exports.max(),
	}
}

// wantsFolder says whether something will read the files of step i's layer from a folder: a process that runs later on
// top of it, or another stage that stands on this one or reads from it.
func (b *builder) wantsFolder(s *plan.Stage, i int) bool {
	for _, st := range s.Steps[i+1:] {
		if _, ok := st.Op.(*plan.Run); ok {
			return true
		}
	}
	for _, other := range b.graph.Stages {
		if other.Base.Stage == s {
			return true
		}
		for _, st := range other.Steps {
			if slices.Contains(stagesRead(st.Op), s) {
				return true
			}
		}
	}
	return false
}

// at names the instruction that an error came from.
func (b *builder) at(st *plan.Step, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if failed, ok := errors.AsType[*build.StepError](err); ok {
		if failed.File == "" { // else another step failed, on which this one was waiting
			failed.File, failed.Line, failed.Text = b.req.File.Name, st.Line, st.Text
			failed.Source = b.req.File.Excerpt(st.Line, st.Col)
		}
		return err
	}
	if _, ok := errors.AsType[*dockerfile.Error](err); ok {
		return err
	}
	return &stepError{
		error:  fmt.Errorf("%s:%d:%d: %s: %w", b.req.File.Name, st.Line, st.Col, st.Text, err),
		source: b.req.File.Excerpt(st.Line, st.Col),
	}
}

// stepError is what went wrong with an instruction, other than a process that failed.
type stepError struct {
	error
	source build.Excerpt
}

func (e *stepError) Unwrap() error { return e.error }

// Excerpt is what to show of the Dockerfile below the message.
func (e *stepError) Excerpt() build.Excerpt { return e.source }
