package solver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/build/address"
	"slipway/internal/build/attest"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// attest states of an image what the request asks for. Its layers may still be on their way meanwhile.
func (b *builder) attest(ctx context.Context, st *stack, im *build.Image) error {
	if err := b.provenance(im); err != nil {
		return fmt.Errorf("provenance: %w", err)
	}
	if err := b.bill(ctx, st, im); err != nil {
		return fmt.Errorf("SBOM: %w", err)
	}
	return b.wrap(im)
}

// wrap makes manifests of what is stated: one for each statement or, in the index around the image, one for all.
func (b *builder) wrap(im *build.Image) error {
	if b.req.Attest.Listed && len(b.stated) > 0 {
		a, err := attest.Entry(im.Manifest, b.stated)
		im.Attached = append(im.Attached, a)
		return err
	}
	for _, s := range b.stated {
		a, err := attest.Artifact(im.Manifest, s)
		if err != nil {
			return err
		}
		im.Attached = append(im.Attached, a)
	}
	return nil
}

// provenance adds how the image was made. Whoever only describes the build, in a file beside it, gets the short form.
func (b *builder) provenance(im *build.Image) error {
	opts := b.req.Attest
	if opts.Provenance == "" && !b.req.Describe {
		return nil
	}
	made, err := b.madeOf(im)
	if err != nil {
		return err
	}
	if im.Provenance, err = oci.Marshal(attest.NewProvenance(made, opts.Provenance)); err != nil || opts.Provenance == "" {
		return err
	}
	return b.state(im, attest.PredicateSLSA, json.RawMessage(im.Provenance))
}

// state adds a statement about an image.
func (b *builder) state(im *build.Image, predicateType string, predicate any) error {
	var names []string
	for _, t := range b.req.Tags {
		names = append(names, attest.ImageURL(t, *im.Manifest.Platform))
	}
	s, err := attest.New(im.Manifest, names, predicateType, predicate)
	b.stated = append(b.stated, s)
	return err
}

func (b *builder) madeOf(im *build.Image) (attest.Made, error) {
	p := b.req.Plan
	m := attest.Made{
		Dockerfile: b.req.Attest.Dockerfile, Text: []byte(b.hide(b.req.File.Text())), Target: p.Target, Labels: p.Labels,
		Platform: *im.Manifest.Platform, Source: b.req.Attest.Source, BuilderVersion: b.req.Attest.Version,
		Began: b.began, Ended: b.Now(), Secrets: slices.Sorted(maps.Keys(b.req.Secrets)), Args: map[string]string{},
	}
	for k, v := range p.Args {
		m.Args[k] = b.hide(v)
	}
	var err error
	m.Dependencies, err = b.dependencies()
	return m, err
}

// dependencies are what the build took from elsewhere, in the order of the plan, each once.
func (b *builder) dependencies() ([]attest.Dependency, error) {
	var list []attest.Dependency
	seen := map[string]bool{}
	add := func(d attest.Dependency) {
		if key := fmt.Sprint(d); !seen[key] {
			seen[key] = true
			list = append(list, d)
		}
	}
	for _, d := range b.fetchedContexts() {
		add(d)
	}
	for _, s := range b.graph.Stages {
		images := []plan.Source{s.Base}
		for _, st := range s.Steps {
			images = append(images, sourcesOf(st.Op)...)
			if c, ok := st.Op.(*plan.Copy); ok {
				for i := range c.Remotes {
					add(b.remoteDependency(&c.Remotes[i]))
				}
			}
		}
		for _, from := range images {
			if from.Kind != plan.FromImage {
				continue
			}
			r, err := ref.Parse(from.Image.Ref)
			if err != nil {
				return nil, err
			}
			add(attest.ImageDependency(r, s.Platform, from.Image.Digest))
		}
	}
	return list, nil
}

// sourcesOf are the places that an operation takes files from.
func sourcesOf(op plan.Op) []plan.Source {
	switch op := op.(type) {
	case *plan.Copy:
		return []plan.Source{op.From}
	case *plan.Run:
		var list []plan.Source
		for i := range op.Mounts {
			list = append(list, op.Mounts[i].From)
		}
		return list
	}
	return nil
}

func (b *builder) remoteDependency(r *plan.Remote) attest.Dependency {
	f := b.fetched[r]
	switch {
	case r.Git != nil:
		return attest.GitDependency(address.Redact(r.Git.Remote), f.commit.ID)
	case f.file != nil:
		return attest.FileDependency(address.Redact(r.URL), f.file.Digest)
	default:
		return attest.FileDependency(address.Redact(r.URL), r.Checksum)
	}
}

// bill adds what is in the image.
func (b *builder) bill(ctx context.Context, st *stack, im *build.Image) error {
	format := b.req.Attest.SBOM
	if format == "" {
		return nil
	}
	ev := b.events.start("look for packages")
	contents, err := b.contents(ctx, st)
	ev.End(fmt.Sprintf("%d packages", len(contents.Packages)), err)
	if err != nil {
		return err
	}
	for _, db := range contents.Unread {
		b.events.warn("SBOM: packages of " + db + " are missing: slipway does not read databases of rpm")
	}
	d := attest.Described{Digest: im.Manifest.Digest, Created: b.recordedAt(st.created), Version: b.req.Attest.Version}
	if len(b.req.Tags) > 0 {
		d.Name = b.req.Tags[0].String()
	}
	if format == attest.CycloneDX {
		doc, err := attest.NewCycloneDX(d, contents)
		if err != nil {
			return err
		}
		return b.state(im, attest.PredicateCycloneDX, doc)
	}
	doc, err := attest.NewSPDX(d, contents)
	if err != nil {
		return err
	}
	return b.state(im, attest.PredicateSPDX, doc)
}

func (b *builder) contents(ctx context.Context, st *stack) (attest.Contents, error) {
	v, err := b.fullView(ctx, st)
	if err != nil {
		return attest.Contents{}, err
	}
	return attest.Scan(v.Walk(ctx, "."))
}

// pushAttached brings what is attached to an image to its repositories: to all of them at once, and one after another to
// each, since a registry without referrers keeps them in a list that is read and written.
func (b *builder) pushAttached(ctx context.Context, repos []ref.Ref, im *build.Image) error {
	g, ctx := errgroup.WithContext(b.noticed(ctx))
	for _, repo := range repos {
		g.Go(func() error {
			for i := range im.Attached {
				if err := b.pushOne(ctx, repo.WithTag(""), &im.Attached[i]); err != nil {
					return fmt.Errorf("push attestation to %s: %w", repo.Name(), err)
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if err != nil && errs.HintOf(err) == "" {
		err = errs.Hint(err, "the image is pushed; a registry that takes no attestations needs a build without --provenance and --sbom")
	}
	return err
}

func (b *builder) pushOne(ctx context.Context, repo ref.Ref, a *build.Attached) error {
	for _, blob := range append([]build.Statement{{Layer: a.Config, Data: a.RawConfig}}, a.Statements...) {
		pushed, err := b.Registry.PushBlob(ctx, repo, bytesSource(blob.Layer, blob.Data))
		if err != nil {
			return err
		}
		b.counted(pushed)
	}
	_, err := b.Registry.PushManifest(ctx, repo, a.Manifest.MediaType, a.Raw)
	return err
}
