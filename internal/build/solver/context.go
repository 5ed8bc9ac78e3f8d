package solver

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build/attest"
	"slipway/internal/build/origin"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
)

// Context is what the name of a build context stands for, when that is no image in a registry.
type Context struct {
	// Open opens the context's files, if the build turns out to read them. Steps on the way are told by start.
	Open func(ctx context.Context, start func(name string) origin.Step) (Opened, error)
	// Bases has the image that the name stands for.
	Bases Bases
}

// Opened is a context whose files can be read.
type Opened struct {
	Tree tree.Tree
	// Sums gives the digests of its files. Default: every file is read.
	Sums tree.Sums
	// From is where it was fetched from. Default: it was not.
	From *attest.Dependency
}

// openContexts opens the named contexts that the plan reads, all at once.
func (b *builder) openContexts(ctx context.Context) error {
	b.opened = map[string]*Opened{"": {Tree: b.req.Context, Sums: b.req.Sums}}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range b.graph.Stages {
		for _, st := range s.Steps {
			for _, from := range sourcesOf(st.Op) {
				if from.Kind != plan.FromContext || b.opened[from.Context] != nil {
					continue
				}
				opened := &Opened{}
				b.opened[from.Context] = opened
				g.Go(func() error { return b.at(st, b.openContext(ctx, from.Context, opened)) })
			}
		}
	}
	return g.Wait()
}

func (b *builder) openContext(ctx context.Context, name string, to *Opened) (err error) {
	c, ok := b.req.Contexts[name]
	if !ok || c.Open == nil {
		return bug("build context %s has no files", name)
	}
	if *to, err = c.Open(ctx, b.startStep); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if to.Sums == nil {
		to.Sums = tree.Plain{}
	}
	return nil
}

func (b *builder) startStep(name string) origin.Step { return b.events.start(name) }

// read is what an operation reads of one context.
type read struct {
	context string
	sources []tree.Source
}

// reads are what an operation reads of contexts: for a RUN, each of its mounts.
func reads(op plan.Op) []read {
	var list []read
	switch op := op.(type) {
	case *plan.Copy:
		if op.From.Kind == plan.FromContext {
			list = append(list, read{op.From.Context, sources(op)})
		}
	case *plan.Run:
		for i := range op.Mounts {
			if m := &op.Mounts[i]; m.Type == plan.MountBind && m.From.Kind == plan.FromContext {
				list = append(list, read{m.From.Context, bindSource(m)})
			}
		}
	}
	return list
}

// readKey is the digest of what is read.
func (b *builder) readKey(r read) (string, error) {
	c := b.opened[r.context]
	return contentKey(c.Tree, r.sources, c.Sums)
}

// fetchedContexts are the contexts that came from elsewhere, in the order of their names.
func (b *builder) fetchedContexts() []attest.Dependency {
	var names []string
	for name, c := range b.opened {
		if c.From != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := make([]attest.Dependency, len(names))
	for i, name := range names {
		list[i] = *b.opened[name].From
	}
	return list
}
