package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// imports are the caches outside this machine that a build reads. Their records are read at the start, beside the base
// images' manifests. A record that answers moves no byte of its layer: the layer is fetched when its files are needed,
// and a registry that shall have it is asked to mount it.
type imports struct {
	b       *builder
	places  []remote.Place
	records []remote.Records // of each place; nil when it has none or cannot be read
	loading sync.WaitGroup
	asking  chan struct{} // a place for each question under way

	there once[placedLayer, bool]
	mu    sync.Mutex
	found map[oci.Digest]build.Record // by key
	from  map[oci.Digest]remote.Place // by layer
}

// placedLayer is a layer in a place.
type placedLayer struct {
	place int
	layer oci.Digest
}

// asksAtOnce is how many layers are looked up side by side.
const asksAtOnce = 16

func newImports(b *builder) *imports {
	return &imports{
		b: b, places: b.req.CacheFrom, records: make([]remote.Records, len(b.req.CacheFrom)),
		asking: make(chan struct{}, asksAtOnce), found: map[oci.Digest]build.Record{}, from: map[oci.Digest]remote.Place{},
	}
}

// begin starts to read the records. Nobody may look for one before wait has returned.
func (m *imports) begin() {
	if m.b.req.NoCache {
		return
	}
	for i, p := range m.places {
		m.loading.Add(1)
		m.b.group.Go(func() error {
			defer m.loading.Done()
			return m.load(m.b.group.ctx, i, p)
		})
	}
}

// load reads the records of one place. A cache that cannot be read costs time, not the build.
func (m *imports) load(ctx context.Context, i int, p remote.Place) error {
	ev := m.b.events.start("read cache " + p.String())
	records, err := p.Load(ctx)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		ev.End("", err)
		return err
	case errors.Is(err, errs.NotFound):
		ev.End("nothing there yet", nil)
	case err != nil:
		ev.End("not used", nil)
		m.b.events.warn(err.Error())
	default:
		m.records[i] = records
		ev.End(fmt.Sprintf("%d results", len(records)), nil)
	}
	return nil
}

// wait waits for the records, and begins to ask for the layers of those that the plan may take: all at once, so that
// the lookups that follow step by step wait for one round trip and not for one each.
func (m *imports) wait(ctx context.Context) error {
	m.loading.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, s := range m.b.graph.Stages {
		for i, step := range s.Steps {
			if step.Op == nil {
				continue
			}
			for place, records := range m.records {
				if e, ok := records[m.b.keyOf(s, i)]; ok && e.Layer != nil {
					m.ask(place, *e.Layer)
				}
			}
		}
	}
	return nil
}

// ask begins to find out whether a layer can be had: from the store or from the place.
func (m *imports) ask(place int, l oci.Descriptor) *future[bool] {
	return m.there.start(m.b.group, placedLayer{place, l.Digest}, func() (bool, error) {
		ctx := m.b.group.ctx
		if size, err := m.b.Blobs.Stat(ctx, l.Digest); err == nil && size == l.Size {
			return true, nil
		}
		m.asking <- struct{}{}
		defer func() { <-m.asking }()
		ok, err := m.places[place].Has(ctx, l.Digest)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err != nil {
			m.b.events.warn(err.Error())
		}
		return ok && err == nil, nil
	})
}

// knows says whether there may be a record of key.
func (m *imports) knows(key oci.Digest) bool {
	for _, records := range m.records {
		if _, ok := records[key]; ok {
			return true
		}
	}
	return false
}

// find looks for what an operation left on a state. A record whose layer is gone is no answer.
func (m *imports) find(ctx context.Context, key, below oci.Digest) (build.Record, error) {
	for place, records := range m.records {
		e, ok := records[key]
		if !ok || e.Below != below {
			continue
		}
		if e.Layer != nil {
			there, err := m.ask(place, *e.Layer).wait(ctx)
			if err != nil {
				return build.Record{}, err
			}
			if !there {
				continue
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.found[key] = e.Record
		if e.Layer != nil {
			m.from[e.Layer.Digest] = m.places[place]
		}
		return e.Record, nil
	}
	return build.Record{}, errs.NotFound
}

// place returns where a layer was found, or nil.
func (m *imports) place(layer oci.Digest) remote.Place {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.from[layer]
}

// repositories are those that may have a layer: where it was found, or for a layer of a base image, which images built
// before have, too, any.
func (m *imports) repositories(r *rung) []ref.Ref {
	var repos []ref.Ref
	for _, p := range m.places {
		if p.Ref() == (ref.Ref{}) {
			continue
		}
		if r.base != nil || r.blob.ready() && m.place(r.blob.value.desc.Digest) == p {
			repos = append(repos, p.Ref())
		}
	}
	return repos
}

// open reads a layer that was found.
func (m *imports) open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	p := m.place(desc.Digest)
	if p == nil {
		return nil, fmt.Errorf("layer %s: %w", desc.Digest, errs.NotFound)
	}
	return p.Open(ctx, desc)
}

// adopt remembers on this machine a record that was found elsewhere and is used: once its layer has been fetched, a
// build can do without the place.
func (m *imports) adopt(ctx context.Context, key oci.Digest, r build.Record) error {
	m.mu.Lock()
	found, ok := m.found[key]
	m.mu.Unlock()
	if !ok || found.Below != r.Below || found.DiffID != r.DiffID || r.Folder != "" {
		return nil
	}
	return m.b.Cache.Store(ctx, key, r)
}

// answered looks a stage's operations up in order, on this machine first. Where that does not lead to the end, the
// caches outside may know a way of their own: what two machines made of one key can differ, and the records above fit
// only what they were made on. The longer way is taken.
func (b *builder) answered(ctx context.Context, s *plan.Stage, start probe) (*probe, error) {
	p, err := b.way(ctx, s, start, b.local, b.imports.find)
	if err != nil || p.full || len(b.imports.places) == 0 {
		return p, err
	}
	q, err := b.way(ctx, s, start, b.imports.find, b.local)
	if err != nil || len(q.records) <= len(p.records) {
		return p, err
	}
	return q, nil
}

// way looks up each operation in the places of looks, and stops at the first one that must run.
func (b *builder) way(ctx context.Context, s *plan.Stage, p probe, looks ...lookup) (*probe, error) {
	for i, st := range s.Steps {
		if st.Op == nil {
			continue
		}
		if !b.mayAnswer(s, st.Op) {
			return &p, nil
		}
		r, err := firstAnswer(ctx, b.keyOf(s, i), identityUnder(st.Op, p.chain), looks)
		if errors.Is(err, errs.NotFound) {
			return &p, nil
		}
		if err != nil {
			return nil, err
		}
		p.records = append(p.records, r)
		if !r.Empty() {
			p.chain = chain(p.chain, r.Identity())
		}
	}
	p.full = true
	return &p, nil
}

// lookup looks for what an operation left on a state, or returns errs.NotFound.
type lookup func(ctx context.Context, key, below oci.Digest) (build.Record, error)

func firstAnswer(ctx context.Context, key, below oci.Digest, looks []lookup) (build.Record, error) {
	for _, look := range looks {
		if r, err := look(ctx, key, below); !errors.Is(err, errs.NotFound) {
			return r, err
		}
	}
	return build.Record{}, errs.NotFound
}
