package solver

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Export is a cache outside this machine that a build writes.
type Export struct {
	Place remote.Place
	// Max adds the results of the stages that the image is not made of.
	Max bool
	// TTL drops entries that no build has had for so long. Default: entries are kept.
	TTL time.Duration
	// IgnoreError makes a failure to write a warning.
	IgnoreError bool
}

// exports gathers what a build's operations left, for the caches that it writes. Layers are on their way from the
// moment they exist, also while they are being packed; the records follow when all is there.
type exports struct {
	b *builder

	mu    sync.Mutex
	steps map[stepID]exported
	alias map[oci.Digest]oci.Digest // other keys of results, by key
}

type stepID struct {
	stage *plan.Stage
	step  int
}

// exported is what an operation left on a state.
type exported struct {
	key     oci.Digest
	under   *stack
	layer   *rung // nil: nothing
	created time.Time
	sends   []*future[struct{}] // for each Export; nil where it is not for it
}

func newExports(b *builder) *exports {
	return &exports{b: b, steps: map[stepID]exported{}, alias: map[oci.Digest]oci.Digest{}}
}

// max says whether results of all stages are wanted.
func (x *exports) max() bool {
	for _, e := range x.b.req.CacheTo {
		if e.Max {
			return true
		}
	}
	return false
}

// wants says whether the result of a stage's step belongs into an export.
func (x *exports) wants(e Export, s *plan.Stage) bool { return e.Max || x.b.target[s] }

// note takes down that step i of a stage led from one state to another, and sends its layer off.
func (x *exports) note(s *plan.Stage, i int, before, after *stack) {
	if len(x.b.req.CacheTo) == 0 && !x.b.req.CacheInline {
		return
	}
	done := exported{
		key: x.b.keyOf(s, i), under: under(s.Steps[i].Op, before), created: *after.history[len(after.history)-1].Created,
		sends: make([]*future[struct{}], len(x.b.req.CacheTo)),
	}
	if len(after.rungs) > len(before.rungs) {
		done.layer = after.rungs[len(after.rungs)-1]
		for n, e := range x.b.req.CacheTo {
			if x.wants(e, s) {
				done.sends[n] = x.b.sender.start(done.layer, destination{place: e.Place, what: "write cache"})
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.steps[stepID{s, i}] = done
}

// also names another key of a result, if there is one.
func (x *exports) also(key, alias oci.Digest) {
	if alias == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.alias[key] = alias
}

// begin starts to write the caches.
func (x *exports) begin() {
	if len(x.b.req.CacheTo) == 0 {
		return
	}
	x.b.group.Go(func() error { return x.write(x.b.group.ctx) })
}

func (x *exports) write(ctx context.Context) error {
	if err := x.visit(ctx); err != nil {
		return err
	}
	for n, e := range x.b.req.CacheTo {
		ev := x.b.events.start("write cache " + e.Place.String())
		records, err := x.records(ctx, n)
		if err == nil {
			err = e.Place.Save(ctx, remote.Update{Records: records, Now: x.b.began, TTL: e.TTL})
		}
		if err != nil && e.IgnoreError && ctx.Err() == nil {
			ev.End("not written", nil)
			x.b.events.warn(err.Error())
			continue
		}
		ev.End(fmt.Sprintf("%d results", len(records)), err)
		if err != nil {
			return err
		}
	}
	return nil
}

// visit goes through the stages that nobody has needed, as far as that takes no work, so that a cache of all stages
// has them all.
func (x *exports) visit(ctx context.Context) error {
	if !x.max() {
		return nil
	}
	for _, s := range x.b.graph.Stages {
		p, err := x.b.probeLocked(ctx, s)
		if err != nil {
			return err
		}
		if !p.full {
			continue
		}
		if _, err := x.b.stage(s).wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// records are those of the nth export, in terms that hold on every machine, when their layers are there.
func (x *exports) records(ctx context.Context, n int) (map[oci.Digest]build.Record, error) {
	x.mu.Lock()
	steps, alias := maps.Clone(x.steps), maps.Clone(x.alias)
	x.mu.Unlock()
	records := map[oci.Digest]build.Record{}
	for id, done := range steps {
		if !x.wants(x.b.req.CacheTo[n], id.stage) {
			continue
		}
		r, err := done.record(ctx)
		if err != nil {
			return nil, err
		}
		if f := done.sends[n]; f != nil {
			if _, err := f.wait(ctx); err != nil {
				return nil, err
			}
		}
		records[done.key] = r
		if a, ok := alias[done.key]; ok {
			records[a] = r
		}
	}
	return records, nil
}

// record is a result without anything of this machine: a layer that exists here as a folder alone, and is known by that
// folder's name, is packed first.
func (e exported) record(ctx context.Context) (build.Record, error) {
	r := build.Record{Created: e.created.UTC()}
	for _, below := range e.under.rungs {
		p, err := below.packed(ctx)
		if err != nil {
			return r, err
		}
		r.Below = chain(r.Below, p.diffID)
	}
	if e.layer == nil {
		return r, nil
	}
	p, err := e.layer.packed(ctx)
	if err != nil {
		return r, err
	}
	r.Layer, r.DiffID = &p.desc, p.diffID
	return r, nil
}

// inline is the annotation with the records of an image itself; "" when it was not asked for.
func (x *exports) inline(st *stack) (string, error) {
	if !x.b.req.CacheInline {
		return "", nil
	}
	place := map[*rung]int{}
	for i, r := range st.rungs {
		place[r] = i + 1
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var steps []remote.InlineStep
	for _, s := range x.b.graph.Stages {
		for i := range s.Steps {
			done, ok := x.steps[stepID{s, i}]
			if !ok || !x.b.target[s] {
				continue
			}
			steps = append(steps, remote.InlineStep{
				Key: done.key, Below: len(done.under.rungs), Layer: place[done.layer], Created: done.created.UTC(),
			})
		}
	}
	return remote.Inline(steps)
}

// checkInline refuses an inline cache where the image cannot hold one.
func (b *builder) checkInline() error {
	switch {
	case b.req.CacheInline && b.req.Shape.DockerTypes:
		return dockerError("annotations, which an inline cache is", "use a cache of type=registry, or --media-types oci")
	case b.req.CacheInline && b.req.Shape.Squash:
		return errs.Hint(fmt.Errorf("inline cache: a squashed image has no layers of its steps: %w", errs.Invalid), "use a cache of type=registry")
	}
	return nil
}

// annotations are those of the image's manifest.
func (b *builder) annotations(st *stack) (map[string]string, error) {
	inline, err := b.exports.inline(st)
	if err != nil || inline == "" {
		return b.req.Shape.Annotations, err
	}
	all := maps.Clone(b.req.Shape.Annotations)
	if all == nil {
		all = map[string]string{}
	}
	all[remote.InlineAnnotation] = inline
	return all, nil
}
