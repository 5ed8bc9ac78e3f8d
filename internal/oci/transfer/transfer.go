// Package transfer brings whole images from one place to another: the manifest or index as it is, byte for byte, so that
// its digest stays, and everything that it leads to, for all platforms.
//
// A place is a [Registry], a [Layout] in a folder, an [Archive] that some tool saved, or the local [Store]. Images are
// read from a [Source] and written to a [Target]:
//
//	report, err := transfer.Copy(ctx, from, to, transfer.Options{})
//
// Nothing that a source says is believed: manifests are held against their digests, blobs too, and how deep and how wide
// an index may be is bounded. What has no digest to be held against, in archives of docker save, gets one.
package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// Source is an image to be read.
type Source interface {
	// String names it for people.
	String() string
	// Root returns the manifest or index that the source names.
	Root(ctx context.Context) (oci.Descriptor, []byte, error)
	// Manifest reads a manifest that an index lists. It is what its digest says.
	Manifest(ctx context.Context, desc oci.Descriptor) ([]byte, error)
	// Blob reads a blob that a manifest names. Its bytes are verified when the reader has returned io.EOF.
	Blob(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error)
	// Repository is where a registry can mount blobs from; the zero Ref when there is none.
	Repository() ref.Ref
}

// Target is where an image goes.
type Target interface {
	// String names it for people.
	String() string
	// Has says whether the target names a manifest with this digest already, and so has all that it leads to.
	Has(ctx context.Context, d oci.Digest) (bool, error)
	// PutBlob brings a blob there, by the cheapest way, and says how many bytes that took. open reads it from its source.
	PutBlob(ctx context.Context, desc oci.Descriptor, mount ref.Ref, open func() (io.ReadCloser, error)) (int64, error)
	// PutManifest brings a manifest there. Everything that it leads to is there.
	PutManifest(ctx context.Context, desc oci.Descriptor, raw []byte) error
	// Name makes the target name a manifest that is the image's, in the place of what it named.
	Name(ctx context.Context, desc oci.Descriptor, raw []byte) error
}

// Step hears how a part of the work goes on.
type Step interface {
	Progress(n, total int64)
	End(text string, err error)
}

// Options change how an image is copied.
type Options struct {
	// Start tells of a part of the work. Default: nobody hears of it.
	Start func(name string) Step
}

// Report says what a copy did.
type Report struct {
	Digest oci.Digest `json:"digest"`
	// Manifests counts those that were copied, Blobs those that were not there.
	Manifests int   `json:"manifests"`
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"`
}

const (
	// maxDepth is how deep indexes may be nested.
	maxDepth = 4
	// maxManifests is how many manifests an image may lead to.
	maxManifests = 1000
	// atOnce is how many blobs are copied side by side.
	atOnce = 4
)

// Copy copies an image, its digest unchanged. What the target has is not copied again.
func Copy(ctx context.Context, from Source, to Target, opts Options) (Report, error) {
	c := &copier{from: from, to: to, opts: opts, blobs: map[oci.Digest]bool{}}
	if opts.Start == nil {
		c.opts.Start = func(string) Step { return silent{} }
	}
	if err := c.copy(ctx); err != nil {
		return c.report, fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return c.report, nil
}

type silent struct{}

func (silent) Progress(int64, int64) {}
func (silent) End(string, error)     {}

type copier struct {
	from Source
	to   Target
	opts Options

	mu     sync.Mutex
	blobs  map[oci.Digest]bool // that are copied, or being copied
	report Report
}

func (c *copier) copy(ctx context.Context) error {
	desc, raw, err := c.from.Root(ctx)
	if err != nil {
		return err
	}
	c.report.Digest = desc.Digest
	if there, err := c.to.Has(ctx, desc.Digest); there || err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	manifests, err := c.walk(gctx, g, desc, raw, 0)
	if err = errors.Join(g.Wait(), err); err != nil {
		return err
	}
	for _, m := range manifests[1:] { // the root is named last of all
		if err := c.to.PutManifest(ctx, m.desc, m.raw); err != nil {
			return err
		}
	}
	c.report.Manifests = len(manifests)
	return c.to.Name(ctx, desc, raw)
}

// document is a manifest or index.
type document struct {
	desc oci.Descriptor
	raw  []byte
}

// walk begins to copy the blobs of an image, and returns its manifests: each after that which lists it.
func (c *copier) walk(ctx context.Context, g *errgroup.Group, desc oci.Descriptor, raw []byte, depth int) ([]document, error) {
	all := []document{{desc, raw}}
	children, blobs, err := parts(desc, raw)
	if err != nil {
		return nil, err
	}
	for _, b := range blobs {
		c.blob(ctx, g, b)
	}
	if len(children) > 0 && depth == maxDepth {
		return nil, fmt.Errorf("index %s: indexes are nested more than %d deep: %w", desc.Digest, maxDepth, errs.Limit)
	}
	for _, child := range children {
		raw, err := c.from.Manifest(ctx, child)
		if err != nil {
			return nil, err
		}
		below, err := c.walk(ctx, g, child, raw, depth+1)
		if err != nil {
			return nil, err
		}
		if all = append(all, below...); len(all) > maxManifests {
			return nil, fmt.Errorf("index %s leads to more than %d manifests: %w", desc.Digest, maxManifests, errs.Limit)
		}
	}
	return all, nil
}

// parts are what a manifest or index leads to.
func parts(desc oci.Descriptor, raw []byte) (children, blobs []oci.Descriptor, err error) {
	if oci.IsIndex(desc.MediaType) {
		var index oci.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, nil, errs.Mark(fmt.Errorf("index %s: %w", desc.Digest, err), errs.Corrupt)
		}
		children = index.Manifests
	} else {
		var m oci.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, nil, errs.Mark(fmt.Errorf("manifest %s: %w", desc.Digest, err), errs.Corrupt)
		}
		if m.Config.Digest == "" {
			return nil, nil, fmt.Errorf("manifest %s: %q is no image: %w", desc.Digest, desc.MediaType, errs.Invalid)
		}
		blobs = append([]oci.Descriptor{m.Config}, m.Layers...)
	}
	for _, d := range append(children, blobs...) {
		if err := d.Digest.Validate(); err != nil {
			return nil, nil, errs.Mark(fmt.Errorf("manifest %s: %q: %w", desc.Digest, d.Digest, err), errs.Corrupt)
		}
	}
	return children, blobs, nil
}

// blob begins to copy a blob, unless that has begun. Layers that are only to be had from their vendor stay there.
func (c *copier) blob(ctx context.Context, g *errgroup.Group, desc oci.Descriptor) {
	c.mu.Lock()
	begun := c.blobs[desc.Digest]
	c.blobs[desc.Digest] = true
	c.mu.Unlock()
	if begun || desc.MediaType == oci.DockerForeignLayer && len(desc.URLs) > 0 {
		return
	}
	g.Go(func() error {
		st := c.opts.Start("copy " + desc.Digest.String()[:min(19, len(desc.Digest))])
		sent, err := c.to.PutBlob(ctx, desc, c.from.Repository(), func() (io.ReadCloser, error) {
			r, err := c.from.Blob(ctx, desc)
			if err != nil {
				return nil, err
			}
			return &told{ReadCloser: r, step: st, total: desc.Size}, nil
		})
		text := ""
		if sent == 0 {
			text = "is there"
		}
		st.End(text, err)
		c.mu.Lock()
		defer c.mu.Unlock()
		if sent > 0 {
			c.report.Blobs++
			c.report.Bytes += sent
		}
		return err
	})
}

// told tells how much has been read, not more often than a person can see.
type told struct {
	io.ReadCloser
	step           Step
	n, said, total int64
}

const tellEvery = 4 << 20

func (t *told) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if t.n += int64(n); t.n-t.said >= tellEvery {
		t.said = t.n
		t.step.Progress(t.n, t.total)
	}
	return n, err
}

// checked returns raw if it is what a descriptor says.
func checked(desc oci.Descriptor, raw []byte) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, errs.Mark(err, errs.Corrupt)
	}
	if got := desc.Digest.Algorithm().FromBytes(raw); got != desc.Digest {
		return nil, fmt.Errorf("manifest %s: its content has another digest: %w", desc.Digest, errs.Corrupt)
	}
	return raw, nil
}

// verified reads what must have a digest and a size.
type verified struct {
	io.ReadCloser
	desc     oci.Descriptor
	left     int64
	verifier interface {
		io.Writer
		Verified() bool
	}
}

func verify(r io.ReadCloser, desc oci.Descriptor) io.ReadCloser {
	return &verified{ReadCloser: r, desc: desc, left: desc.Size, verifier: desc.Digest.Verifier()}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.verifier.Write(p[:n]) // a hash never fails
	v.left -= int64(n)
	if v.left < 0 || errors.Is(err, io.EOF) && (v.left != 0 || !v.verifier.Verified()) {
		return n, fmt.Errorf("blob %s: its content has another digest: %w", v.desc.Digest, errs.Corrupt)
	}
	return n, err
}

// readAll reads a small thing whole.
func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, oci.MaxManifestBytes+1))
	if err == nil && len(data) > oci.MaxManifestBytes {
		err = fmt.Errorf("larger than %d bytes: %w", oci.MaxManifestBytes, errs.Limit)
	}
	return data, err
}
