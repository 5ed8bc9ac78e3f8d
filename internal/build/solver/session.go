package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// OpenSession says what the processes of a Session find.
type OpenSession struct {
	// Image is a reference; its blobs are fetched when this machine lacks them.
	Image    string
	Platform oci.Platform
	// Root is a folder of the snapshotter's to use in place of an image, as the one layer below all others.
	Root snapshot.ID
	// Mounts are put over the root of every process.
	Mounts []sandbox.Mount
	// Counted are folders of this machine whose files count against the limit of the disk, as those of the root do.
	Counted []string
	Limits  Limits
	Events  build.Sink
}

// Session is a root file system on which processes run one after the other. Each finds what those before it changed, and
// all of it is thrown away at the end. Limits hold for all of them together.
type Session struct {
	b      *builder
	cancel context.CancelFunc
	mounts []sandbox.Mount
	dirs   []string // layers, bottom first
	env    []string
}

// Process is a command to run in a Session, as root.
type Process struct {
	Args []string
	// Env is added to the image's, and wins over it.
	Env []string
	// Dir is the working directory, which must exist.
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// grace is how long a process may take to end when it is asked to, before it is killed.
const grace = 5 * time.Second

// Open prepares a session, which the caller closes. It lives as long as ctx.
func (s *Solver) Open(ctx context.Context, o OpenSession) (_ *Session, err error) {
	ctx, cancel := o.Limits.Apply(ctx)
	b := s.builder(ctx, Request{Limits: o.Limits, Events: o.Events})
	b.engine, b.watched = s.newEngine(b.begin), o.Counted
	session := &Session{b: b, cancel: cancel, mounts: o.Mounts}
	defer func() {
		if err != nil {
			err = errors.Join(err, session.Close())
		}
	}()
	b.group.Go(func() error { return session.prepare(b.group.ctx, o) })
	b.group.wg.Wait()
	return session, b.group.err
}

// prepare unpacks the layers and begins to enforce the limits.
func (s *Session) prepare(ctx context.Context, o OpenSession) error {
	if err := o.Limits.enforce(ctx, s.b); err != nil {
		return err
	}
	if o.Root != "" {
		s.dirs = []string{s.b.Snapshots.Dir(o.Root)}
		return s.b.hold(ctx, o.Root)
	}
	im, err := s.b.resolveOne(ctx, plan.Need{Ref: o.Image, Platform: oci.FormatPlatform(o.Platform)})
	if err != nil {
		return err
	}
	s.env = im.config.Config.Env
	s.dirs, err = s.b.folders(ctx, s.b.imageStack(im))
	return err
}

// Env is the environment that processes have anyway: the image's.
func (s *Session) Env() []string { return slices.Clone(s.env) }

// Run runs a process until it ends, or ctx does, or a limit is hit: then the error is of kind errs.Limit. Of a process that
// failed under chroot isolation nothing is kept but what it wrote to mounts.
func (s *Session) Run(ctx context.Context, p Process) (_ sandbox.Result, err error) {
	if len(s.dirs) >= maxLayers {
		return sandbox.Result{}, fmt.Errorf("more than %d processes changed the root file system: %w", maxLayers, errs.Invalid)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.b.group.ctx, func() { cancel(context.Cause(s.b.group.ctx)) })() //nolint:contextcheck // the session's
	draft, err := s.b.begin(ctx)
	if err != nil {
		return sandbox.Result{}, err
	}
	op := &plan.Run{Args: p.Args, Env: mergeEnv(s.env, p.Env), Dir: p.Dir, Network: plan.NetworkHost}
	spec, err := s.b.spec(op, draft, s.dirs)
	if err != nil {
		return sandbox.Result{}, err
	}
	spec.Mounts = slices.Clone(s.mounts)
	spec.Stdin, spec.Stdout, spec.Stderr = p.Stdin, p.Stdout, p.Stderr
	if s.b.Engine == nil {
		spec.Grace = grace
	}
	result, err := s.b.engine.Run(ctx, spec)
	s.dirs = append(s.dirs, draft.Dir())
	if err == nil && result.OOM {
		err = s.b.outOfMemory()
	}
	return result, err
}

// maxLayers is below what an overlay can have.
const maxLayers = 480

// Close throws everything away.
func (s *Session) Close() error {
	s.cancel()
	s.b.group.cancel(nil) // what watches the disk
	s.b.group.wg.Wait()
	return s.b.close()
}
