package solver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/plan"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Start says which image to start, and how.
type Start struct {
	// Image is a reference; its blobs are fetched when this machine lacks them.
	Image    string
	Platform oci.Platform
	// Args replace the image's CMD. Default: the image's.
	Args []string
	// Env is added to the image's, and wins over it.
	Env     []string
	Network string // plan.NetworkHost or plan.NetworkNone. Default: host
	// Namespace is the path of a network namespace to be in, in place of Network.
	Namespace string
	// Entrypoint replaces the image's, and with it the image's CMD. Default: the image's.
	Entrypoint []string
	// Grace is how long the process may take to end after SIGTERM when the context is done. Default: it is killed at once.
	Grace  time.Duration
	Limits Limits
	// Stdin, Stdout and Stderr are the process's.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Events         build.Sink
}

// Start runs an image's command in the sandbox until it ends, and returns its exit status. What it writes to its files
// is thrown away.
func (s *Solver) Start(ctx context.Context, r Start) (code int, err error) {
	ctx, cancel := r.Limits.Apply(ctx)
	defer cancel()
	b := s.builder(ctx, Request{Limits: r.Limits, Events: r.Events})
	b.engine = s.newEngine(b.begin)
	defer func() { err = errors.Join(err, b.close()) }()
	b.group.Go(func() (err error) {
		code, err = b.startImage(b.group.ctx, r)
		return err
	})
	return code, b.group.Wait()
}

// Pull brings an image to this machine, ready to start, and returns the digest of its manifest.
func (s *Solver) Pull(ctx context.Context, r Start) (digest oci.Digest, err error) {
	b := s.builder(ctx, Request{Events: r.Events})
	b.engine = s.newEngine(b.begin)
	defer func() { err = errors.Join(err, b.close()) }()
	b.group.Go(func() error {
		im, err := b.resolveOne(b.group.ctx, plan.Need{Ref: r.Image, Platform: oci.FormatPlatform(r.Platform)})
		if err != nil {
			return err
		}
		digest = im.digest
		_, err = b.folders(b.group.ctx, b.imageStack(im))
		return err
	})
	return digest, b.group.Wait()
}

func (b *builder) startImage(ctx context.Context, r Start) (int, error) {
	if err := b.req.Limits.enforce(ctx, b); err != nil {
		return 0, err
	}
	im, err := b.resolveOne(ctx, plan.Need{Ref: r.Image, Platform: oci.FormatPlatform(r.Platform)})
	if err != nil {
		return 0, err
	}
	dirs, err := b.folders(ctx, b.imageStack(im))
	if err != nil {
		return 0, err
	}
	draft, err := b.begin(ctx)
	if err != nil {
		return 0, err
	}
	c := im.config.Config
	entrypoint, cmd := c.Entrypoint, c.Cmd
	if len(r.Entrypoint) > 0 {
		entrypoint, cmd = r.Entrypoint, nil
	}
	if len(r.Args) > 0 {
		cmd = r.Args
	}
	op := &plan.Run{
		Args: slices.Concat(entrypoint, cmd), Env: mergeEnv(c.Env, r.Env), Dir: c.WorkingDir, User: c.User, Network: r.Network,
	}
	if len(op.Args) == 0 {
		return 0, errs.Hint(fmt.Errorf("start %s: the image names no command: %w", r.Image, errs.Invalid), "give one after the image")
	}
	if op.Dir == "" {
		op.Dir = "/"
	}
	spec, err := b.spec(op, draft, dirs)
	if err != nil {
		return 0, err
	}
	if err := b.workdir(draft, dirs, op); err != nil {
		return 0, err
	}
	spec.Stdin, spec.Stdout, spec.Stderr = r.Stdin, r.Stdout, r.Stderr
	if r.Grace > 0 {
		spec.Grace = r.Grace
	}
	if r.Namespace != "" {
		spec.Network, spec.Namespace = "", r.Namespace
	}
	res, err := b.engine.Run(ctx, spec)
	if err == nil && res.OOM {
		err = b.outOfMemory()
	}
	return res.ExitCode, err
}

// mergeEnv lays variables over others of the same name.
func mergeEnv(below, over []string) []string {
	env := slices.Clone(below)
	for _, kv := range over {
		k := name(kv)
		env = slices.DeleteFunc(env, func(old string) bool { return name(old) == k })
		env = append(env, kv)
	}
	return env
}

// name is the name in NAME=value.
func name(kv string) string {
	k, _, _ := strings.Cut(kv, "=")
	return k
}
