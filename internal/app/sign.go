package app

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/build/attest"
	"slipway/internal/build/output"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/sign"
)

// Signed is an image and what its signatures say.
type Signed struct {
	Image    string         `json:"image"` // the repository
	Digest   oci.Digest     `json:"digest"`
	Payloads []sign.Payload `json:"payloads,omitempty"` // those that were verified
}

// Sign signs the manifest or index that a reference names now.
func (a *App) Sign(ctx context.Context, image string, key sign.Signer) (Signed, error) {
	r, d, err := a.named(ctx, image)
	if err != nil {
		return Signed{}, err
	}
	return Signed{Image: r.Name(), Digest: d}, sign.Sign(ctx, a.registry, r, d, key)
}

// Verify says by which payloads a key signed what a reference names now. That it did not is an error.
func (a *App) Verify(ctx context.Context, image string, key sign.Verifier) (Signed, error) {
	r, d, err := a.named(ctx, image)
	if err != nil {
		return Signed{}, err
	}
	payloads, err := sign.Verify(ctx, a.registry, r, d, key)
	return Signed{Image: r.Name(), Digest: d, Payloads: payloads}, err
}

func (a *App) named(ctx context.Context, image string) (ref.Ref, oci.Digest, error) {
	r, err := ref.Parse(image)
	if err != nil || r.Digest() != "" {
		return r, r.Digest(), err
	}
	desc, _, err := a.registry.Resolve(ctx, r)
	return r, desc.Digest, err
}

// sign signs what a build pushed, in each repository: what the tags name, and what is attached to it.
func (a *App) sign(ctx context.Context, r Build, im *build.Image) error {
	if r.Key == nil {
		return nil
	}
	tags, err := parseTags(r)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	repos := repositories(tags)
	for _, repo := range repos {
		for _, d := range signable(im) {
			g.Go(func() error { return sign.Sign(gctx, a.registry, repo, d, *r.Key) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if r.Events != nil {
		for _, repo := range repos {
			r.Events(build.Event{Kind: build.Note, Time: a.opts.Now(), Text: "Signed " + repo.Familiar() + "@" + im.Manifest.Digest.String()})
		}
	}
	return nil
}

// checkTrust refuses what would have to be kept beside an image that goes nowhere.
func (r *Build) checkTrust() error {
	if r.Key != nil && !r.Push {
		return errs.Hint(fmt.Errorf("sign: what is not pushed cannot be signed: %w", errs.Invalid), "add --push")
	}
	holds := func(o output.Output) bool { return output.HoldsIndex(o.Type) }
	if r.Attest.Any() && !r.Push && !slices.ContainsFunc(r.Outputs, holds) {
		err := fmt.Errorf("provenance and SBOM: there is nowhere to keep them: %w", errs.Invalid)
		return errs.Hint(err, "add --push, or an output of type oci or layout")
	}
	if r.Attest.Listed {
		switch {
		case !r.Attest.Any():
			return errs.Hint(fmt.Errorf("nothing is stated of the image that its index could list: %w", errs.Invalid), "add --provenance or --sbom")
		case r.DockerTypes:
			return fmt.Errorf("provenance and SBOM: a list of manifests of Docker's types cannot hold them: %w", errs.Invalid)
		}
	}
	return nil
}

// attest says what is stated of an image.
func (r *Build) attest(ctx context.Context, in *inputs) attest.Options {
	opts := r.Attest
	opts.Dockerfile = in.dockerfile()
	if opts.Provenance != "" {
		opts.Source = in.source(ctx)
	}
	return opts
}

// signable are the digests that a key vouches for: the image's, those that an index lists, and what is attached to them.
func signable(im *build.Image) []oci.Digest {
	list := []oci.Digest{im.Manifest.Digest}
	for i := range im.Attached {
		list = append(list, im.Attached[i].Manifest.Digest)
	}
	for _, p := range im.Platforms {
		list = append(list, signable(p)...)
	}
	return list
}
