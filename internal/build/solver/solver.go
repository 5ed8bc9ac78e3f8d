// Package solver builds what a plan says: it looks results up by key, runs what has none, packs what ran into layers
// while the next steps run, sends layers to registries while they are being packed, and puts the image together.
//
// A file system is a stack of layers. Each layer exists in up to three forms, made when somebody needs them: a folder
// to run on, a blob to push, an index to look paths up in. What nobody needs is not made: a rebuild that changes
// nothing touches no layer at all.
//
//	s := solver.New(solver.Options{…})
//	image, err := s.Build(ctx, solver.Request{…})
//
// Stages run side by side. Within a stage one step follows another, but a step does not wait for the packing of the
// one before it.
package solver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/attest"
	"slipway/internal/build/cache/remote"
	"slipway/internal/build/dockerfile"
	"slipway/internal/build/fetch"
	"slipway/internal/build/mount"
	"slipway/internal/build/origin"
	"slipway/internal/build/output"
	"slipway/internal/build/plan"
	"slipway/internal/build/tree"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/places"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// Options are what a Solver works with. All fields but Logger are needed.
type Options struct {
	Blobs     blob.Store
	Snapshots snapshot.Snapshotter
	Cache     build.Cache
	Registry  *registry.Client
	Mounts    *mount.Store // of cache mounts
	Fetch     *fetch.Client
	// Places remembers which repositories have which blobs. Default: nothing does.
	Places *places.Places
	// Stub is the sandbox's layer of mount points (sandbox.MakeStub), on the file system of Snapshots. Default: mount
	// points that an image lacks are made for each RUN and taken away again.
	Stub string
	// Lock keeps other processes of this machine from working on the same layer until unlock is called.
	Lock func(ctx context.Context, d oci.Digest) (unlock func(), err error)
	// Engine makes what runs the processes of one build; it may put files of its own into drafts of begin. Default: a
	// sandbox.Launcher.
	Engine func(begin func(context.Context) (snapshot.Draft, error)) Engine
	// DeviceDirs are folders of CDI specs, which describe the devices for RUN --device. Default: device.DefaultDirs.
	DeviceDirs []string
	Now        func() time.Time
	Logger     *slog.Logger // Default: nothing is logged.
}

// Solver builds images on one machine's state. Several builds may run at once, in this process and in others.
type Solver struct {
	Options
}

// New returns a solver over opts.
func New(opts Options) *Solver {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Solver{Options: opts}
}

// Bases answers for base images before the registry is asked. It is how a folder of warmed images takes part.
type Bases interface {
	// Base returns the manifest of an image for a platform, whose blobs Blobs of the request's BaseBlobs has, or
	// errs.NotFound.
	Base(ctx context.Context, r ref.Ref, p oci.Platform) (oci.Descriptor, []byte, error)
	// Open reads a blob of such an image.
	Open(ctx context.Context, d oci.Digest) (blob.Reader, error)
}

// Request is one build.
type Request struct {
	File *dockerfile.File
	// Plan are the choices of the build; Supports is the solver's own.
	Plan plan.Options
	// Context is the build context. Default: an empty one.
	Context tree.Tree
	// Sums gives the digests of the context's files. Default: every file is read.
	Sums tree.Sums
	// Contexts are the named contexts that Plan knows of, by the same keys.
	Contexts map[string]Context
	// Tags are where the image goes when Push is set.
	Tags []ref.Ref
	Push bool
	// SkipPushCheck does not ask, before building, whether the push will be allowed.
	SkipPushCheck bool
	// Shape says how the image is put together from its layers.
	Shape Shape
	// Attest says what is stated of the image, in artifacts beside it. Default: nothing.
	Attest attest.Options
	// Describe asks for the image's Provenance, whether it is attached or not.
	Describe bool
	// Compression of the layers that this build packs.
	Compression layer.Compression
	// Format is an accelerated format for those layers, which is not stacked and reads a tar once. Compression says
	// nothing then. Default: they are ordinary layers.
	Format accel.Format
	// NoCache runs every step.
	NoCache bool
	// NoCacheFilter names stages whose steps all run.
	NoCacheFilter []string
	// Explain tells of each step that runs why the cache did not answer it.
	Explain bool
	// Last is the file in which what this build's keys are taken over is kept, for the next build's Explain. It is for
	// builds of this Dockerfile, context and target alone. Default: it is not kept.
	Last string
	// CacheFrom are caches outside this machine that are asked after its own.
	CacheFrom []remote.Place
	// CacheTo are caches outside this machine that the build's results go to.
	CacheTo []Export
	// CacheMounts are where cache mounts are kept outside this machine.
	CacheMounts []MountPlace
	// CacheInline puts the results of the image's own stages into its manifest, as a cache to read.
	CacheInline bool
	// Epoch dates the image, and bounds the times of files in the layers that the build adds, so that the same input
	// gives the same digest. Default: times as they are.
	Epoch *time.Time
	// Hosts are lines added to /etc/hosts of every RUN: a name and its address.
	Hosts []Host
	// Secrets and SSH are what RUN --mount=type=secret and type=ssh ask for by id: values, and sockets of agents.
	Secrets map[string][]byte
	SSH     map[string]string
	// Allow is what the Dockerfile may ask for besides what a sandbox is for. Default: nothing.
	Allow Grants
	// Limits of the build. A limit that is hit ends it with an error of kind errs.Limit.
	Limits Limits
	// Bases is asked for base images before the registry. Default: nobody is.
	Bases Bases
	// MapRef says where an image of FROM or COPY --from really is. Default: where it says.
	MapRef func(ref.Ref) ref.Ref
	// Keep brings every layer of the image into the blob store, those of base images too.
	Keep bool
	// Outputs are where the image goes besides registries.
	Outputs []output.Output
	// Events hears what happens. Default: nobody does.
	Events build.Sink
	// Steps is how many steps Events has heard of before. Default: none.
	Steps int
}

// Host is a name that RUN can reach under an address.
type Host struct{ Name, Addr string }

// Limits bound a build. Zero fields bound nothing.
type Limits struct {
	Memory int64         // bytes, of all processes of RUN together
	CPUs   float64       // cores
	Disk   int64         // bytes that the build may write
	Time   time.Duration // from start to end
	// Of says whose limits they are, for the message: "the default environment". Default: "this build".
	Of string
}

// builder is one Build under way.
type builder struct {
	*Solver
	req    Request
	graph  *plan.Graph
	group  *group
	events *events
	began  time.Time

	images  once[string, *baseImage]
	keys    map[*plan.Stage][]oci.Digest // of the states: below the first step, and after each
	fresh   map[int]bool                 // stages whose steps all run, by their places in the file
	linked  map[*plan.Step]oci.Digest    // of the operations that do not depend on the state below
	probed  map[*plan.Stage]*probe
	stages  once[*plan.Stage, *stack]
	unpack  once[oci.Digest, snapshot.ID]
	fetched map[*plan.Remote]*fetched
	opened  map[string]*Opened             // contexts, by name; the main one has none
	placed  once[string, string]           // folders with files of the context, by path
	hide    func(string) string            // blanks secrets
	parts   map[oci.Digest]json.RawMessage // what keys are taken over, while the plan's are; nil afterwards
	why     *explainer
	imports *imports
	exports *exports
	sender  *sender
	push    *pusher
	target  map[*plan.Stage]bool  // the target and the stages it stands on
	dates   map[plan.Op]time.Time // of the operations' layers; nil without an epoch
	limits  *sandbox.Group
	engine  Engine
	devices deviceUse
	origin  *origin.Opener
	stated  []build.Statement // of the image
	packs   chan struct{}     // a place for each layer packed at once
	unpacks chan struct{}     // a place for each layer unpacked at once
	written atomic.Int64      // bytes of blobs, counted when the disk has a limit
	watched []string          // folders that count, as drafts do, when the disk has a limit

	mu      sync.Mutex
	drafts  []snapshot.Draft
	watches []func()              // wait for what watches the build
	mounted map[string]mount.Want // cache mounts that RUNs have used, by path
	stats   build.Stats

	holdMu sync.Mutex
	held   map[snapshot.ID]func() // folders, and how to let go of them
}

// packsAtOnce keeps two cores busy with compression, which is parallel itself, while bounding its memory.
const packsAtOnce = 2

// unpacksAtOnce overlaps the download of some layers with the unpacking of others.
const unpacksAtOnce = 4

// Build runs a request. The error is a *build.StepError when a RUN's process failed, of kind errs.Invalid when the
// Dockerfile asks for something impossible, of kind errs.Limit when a limit was hit. Whatever happens, nothing is
// left running and nothing half written is left behind.
func (s *Solver) Build(ctx context.Context, req Request) (image *build.Image, err error) {
	ctx, cancel := req.Limits.Apply(ctx)
	defer cancel()
	b := s.builder(ctx, req)
	b.engine = s.newEngine(b.begin)
	defer func() {
		if cleanup := b.close(); err == nil {
			err = cleanup
		}
	}()
	var result *build.Image
	b.group.Go(func() (err error) {
		result, err = b.build(b.group.ctx)
		return err
	})
	if err := b.group.Wait(); err != nil {
		return nil, err
	}
	result.Stats = b.stats
	result.Stats.Took = s.Now().Sub(b.began)
	return result, nil
}

// builder prepares a build.
func (s *Solver) builder(ctx context.Context, req Request) *builder {
	b := &builder{
		Solver: s, req: req, began: s.Now(), events: newEvents(req.Events, s.Now), group: newGroup(ctx),
		keys: map[*plan.Stage][]oci.Digest{}, linked: map[*plan.Step]oci.Digest{}, hide: hiding(req.Secrets), probed: map[*plan.Stage]*probe{},
		held: map[snapshot.ID]func(){}, mounted: map[string]mount.Want{},
		packs: make(chan struct{}, packsAtOnce), unpacks: make(chan struct{}, unpacksAtOnce),
	}
	b.events.last.Store(int64(req.Steps))
	b.origin = origin.New(origin.Options{
		Fetch: s.Fetch, Snapshots: s.Snapshots, Lock: s.Lock, Secrets: req.Secrets, Begin: b.begin,
		Start: b.startStep,
	})
	b.imports, b.exports, b.sender = newImports(b), newExports(b), newSender(b)
	return b
}

func (b *builder) build(ctx context.Context) (*build.Image, error) {
	if b.req.Context == nil {
		b.req.Context = tree.Empty{}
	}
	if b.req.Sums == nil {
		b.req.Sums = tree.Plain{}
	}
	if err := b.req.Limits.enforce(ctx, b); err != nil {
		return nil, err
	}
	if err := b.checkInline(); err != nil {
		return nil, err
	}
	if err := b.freshStages(); err != nil {
		return nil, err
	}
	if err := b.checkHostname(); err != nil {
		return nil, err
	}
	b.tellSyntax()
	b.imports.begin()
	b.checkPush()
	if err := b.plan(ctx); err != nil {
		return nil, err
	}
	if err := b.checkGrants(); err != nil {
		return nil, err
	}
	if err := b.resolveRemotes(ctx); err != nil {
		return nil, err
	}
	if err := b.openContexts(ctx); err != nil {
		return nil, err
	}
	b.parts = map[oci.Digest]json.RawMessage{}
	if err := b.computeKeys(ctx); err != nil {
		return nil, err
	}
	if err := b.newExplainer(); err != nil {
		return nil, err
	}
	if err := b.imports.wait(ctx); err != nil {
		return nil, err
	}
	b.target = map[*plan.Stage]bool{}
	for s := b.graph.Target; s != nil; s = s.Base.Stage {
		b.target[s] = true
	}
	if b.req.Push {
		b.push = newPusher(b, b.req.Tags)
	}
	st, err := b.stage(b.graph.Target).wait(ctx)
	if err != nil {
		return nil, err
	}
	b.exports.begin()
	image, err := b.finish(ctx, st)
	if err != nil {
		return nil, err
	}
	return image, b.saveMounts(ctx)
}

// plan resolves base images until the plan needs no more.
func (b *builder) plan(ctx context.Context) error {
	b.req.Plan.Supports = Features()
	needs, err := plan.Images(b.req.File, b.req.Plan)
	if err != nil {
		return err
	}
	have := map[plan.Need]plan.Image{}
	for {
		if err := b.resolve(ctx, needs, have); err != nil {
			return err
		}
		g, err := plan.New(b.req.File, b.req.Plan, have)
		more, ok := asNeedImages(err)
		if !ok {
			b.graph = g
			if err == nil {
				b.warn(g)
			}
			return err
		}
		needs = more
	}
}

func (b *builder) warn(g *plan.Graph) {
	for _, w := range g.Warnings {
		b.events.warn(w.String())
	}
}

// close gives back what the build held.
func (b *builder) close() error {
	b.mu.Lock()
	watches := b.watches
	b.mu.Unlock()
	for _, wait := range watches { // they look at the drafts, for which they need the lock
		wait()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	keep(b.engine.Close())
	keep(b.origin.Close())
	for _, d := range b.drafts {
		keep(d.Discard()) // harmless for those that were published
	}
	b.holdMu.Lock()
	defer b.holdMu.Unlock()
	for _, release := range b.held {
		release()
	}
	clear(b.held)
	if b.limits != nil {
		keep(b.limits.Close())
	}
	if first != nil {
		return fmt.Errorf("clean up after the build: %w", first)
	}
	return nil
}

// begin starts a draft that close discards unless it is published.
func (b *builder) begin(ctx context.Context) (snapshot.Draft, error) {
	d, err := b.Snapshots.Begin(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drafts = append(b.drafts, d)
	return d, nil
}

func (b *builder) count(f func(*build.Stats)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.stats)
}

// bug is a state that the code before it excludes.
func bug(format string, args ...any) error {
	return fmt.Errorf("[bug] "+format+": %w", append(args, errs.Invalid)...)
}
