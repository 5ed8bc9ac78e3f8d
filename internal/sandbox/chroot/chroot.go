// Package chroot runs commands where there are neither namespaces nor mounts: as root with CAP_SYS_CHROOT in a plain
// container. It takes the place of a sandbox.Launcher and understands the same specs.
//
// The layers are copied to a private folder, sharing blocks where the file system can. The command runs there, and what
// it changed is found afterwards by comparing every file's inode and change time with those before; that goes to the
// spec's upper folder, in an overlay's form. What would be mounted is put in its place for the time of the run: files and
// binds as copies, caches by moving them there and back. The next command of the same stage finds the folder as the last
// one left it.
//
// What it cannot do: there is no /proc and no /sys, the network and the processes of the machine are there, read-only
// mounts can be written to (that is thrown away), and secrets lie on the disk during the run. docs/isolation.md tells all.
package chroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
	"slipway/internal/sandbox"
	"slipway/internal/snapshot"
)

// Engine runs commands for one build. Its methods may be called at once.
type Engine struct {
	begin func(context.Context) (snapshot.Draft, error)

	mu   sync.Mutex
	idle []*root
}

// New returns an engine that puts private folders into drafts of begin, on the file system of the layers. Whoever gives
// them discards them.
func New(begin func(context.Context) (snapshot.Draft, error)) *Engine { return &Engine{begin: begin} }

// Warm does nothing: there is nothing to start ahead.
func (e *Engine) Warm() {}

// Close does nothing: the drafts are their giver's.
func (e *Engine) Close() error { return nil }

// root is a private folder.
type root struct {
	dir    string   // the command's root
	aside  string   // a folder beside it, for what is put away for the time of a run
	layers []string // what dir has, top first
}

// Run is sandbox.Launcher.Run. errs.Invalid also says that the spec needs what only namespaces have.
func (e *Engine) Run(ctx context.Context, spec *sandbox.Spec) (sandbox.Result, error) {
	if err := check(spec); err != nil {
		return sandbox.Result{}, err
	}
	r, err := e.take(ctx, spec.Lower)
	if err != nil {
		return sandbox.Result{}, fmt.Errorf("make a private root: %w", err)
	}
	res, err := e.runIn(ctx, r, spec)
	if err != nil || res.ExitCode != 0 {
		return res, err // the folder is of no more use
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle = append(e.idle, r)
	return res, nil
}

// check refuses what cannot be had.
func check(spec *sandbox.Spec) error {
	what := ""
	switch {
	case spec.Network == sandbox.NetworkNone:
		what = "a network of its own (--network none)"
	case spec.Insecure:
		what = "all privileges (--security insecure)"
	case len(spec.Devices) > 0:
		what = "devices (--device)"
	case spec.Root != "" || spec.Upper == "":
		return fmt.Errorf("chroot needs layers: %w", errs.Invalid)
	}
	if what == "" {
		return nil
	}
	err := fmt.Errorf("isolation chroot cannot give a command %s: %w", what, errs.Invalid)
	return errs.Hint(err, "build with --isolation namespaces, which needs CAP_SYS_ADMIN or user namespaces; see slipway doctor")
}

// take returns a folder with the files of layers, top first: one that has them, or most of them, or a new one.
func (e *Engine) take(ctx context.Context, layers []string) (*root, error) {
	e.mu.Lock()
	best := -1
	for i, r := range e.idle {
		fits := len(r.layers) <= len(layers) && slices.Equal(r.layers, layers[len(layers)-len(r.layers):])
		if fits && (best < 0 || len(r.layers) > len(e.idle[best].layers)) {
			best = i
		}
	}
	var r *root
	if best >= 0 {
		r = e.idle[best]
		e.idle = slices.Delete(e.idle, best, best+1)
	}
	e.mu.Unlock()
	if r == nil {
		return e.fresh(ctx, layers)
	}
	for i := len(layers) - len(r.layers) - 1; i >= 0; i-- {
		if err := r.add(ctx, layers[i]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// fresh copies layers.
func (e *Engine) fresh(ctx context.Context, layers []string) (*root, error) {
	draft, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	r := &root{dir: filepath.Join(draft.Dir(), "root"), aside: filepath.Join(draft.Dir(), "aside"), layers: slices.Clone(layers)}
	for _, dir := range []string{r.dir, r.aside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(draft.Dir(), 0o700); err != nil { // what lies aside is nobody's business
		return nil, err
	}
	return r, layer.Place(ctx, r.dir, view(layers).Walk(ctx, "/"), layer.PlaceOptions{})
}

// view shows layers, top first.
func view(layers []string) *snapshot.View {
	var list []snapshot.Layer
	for i := len(layers) - 1; i >= 0; i-- {
		list = append(list, snapshot.Layer{Dir: layers[i]})
	}
	return snapshot.NewView(list...)
}

// runIn runs a command in a folder and leaves what it changed in the spec's upper folder.
func (e *Engine) runIn(ctx context.Context, r *root, spec *sandbox.Spec) (res sandbox.Result, err error) {
	before, err := entries(ctx, spec.Upper) // the working directory, when the layers lack it
	if err != nil {
		return res, err
	}
	if len(before) > 0 {
		if err := r.add(ctx, spec.Upper); err != nil {
			return res, err
		}
		r.layers = r.layers[1:]
	}
	s := &stage{root: r}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.furnish(ctx, spec); err != nil {
		return res, err
	}
	was, err := s.scan(ctx)
	if err != nil {
		return res, err
	}
	awaitTick(was)
	inner := *spec
	inner.Root, inner.Chroot = r.dir, true
	inner.Lower, inner.Upper, inner.Work, inner.Stub, inner.Mounts, inner.Files = nil, "", "", "", nil, nil
	if res, err = sandbox.Run(ctx, &inner); err != nil || res.ExitCode != 0 {
		return res, err
	}
	changed, err := s.changes(ctx, was, before)
	if err != nil || len(changed) == 0 {
		return res, err
	}
	if err := empty(spec.Upper); err != nil {
		return res, err
	}
	if err := layer.Place(ctx, spec.Upper, files(changed), layer.PlaceOptions{}); err != nil {
		return res, err
	}
	r.layers = append([]string{spec.Upper}, r.layers...)
	return res, nil
}

// awaitTick waits until the clock that dates changes of files has moved on from the latest one, which without that could
// have happened before or after a scan.
func awaitTick(was map[string]stamp) {
	var latest int64
	for _, s := range was {
		latest = max(latest, s.ctime)
	}
	for {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil || now.Nano() > latest {
			return
		}
		pause := unix.Timespec{Nsec: 500_000}
		_ = unix.Nanosleep(&pause, nil) // woken early, it looks again
	}
}

// empty removes what is in a folder.
func empty(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
