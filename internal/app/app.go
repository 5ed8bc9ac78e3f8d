// Package app puts slipway together: it is the one place that knows every room, and it decides nothing that a room
// could decide.
//
// Open gives an App over a machine's state; its methods are what commands and the service do: Build an image, Run a
// pipeline, Warm a folder of base images.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"slipway/internal/build/cache"
	"slipway/internal/build/fetch"
	"slipway/internal/build/mount"
	"slipway/internal/build/solver"
	"slipway/internal/config"
	"slipway/internal/debian"
	"slipway/internal/isolation"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/acr"
	"slipway/internal/oci/registry/keychain"
	"slipway/internal/oci/registry/places"
	"slipway/internal/oci/transfer"
	"slipway/internal/sandbox"
	"slipway/internal/sandbox/chroot"
	"slipway/internal/snapshot"
	"slipway/internal/snapshot/overlay"
)

// Folders below the home folder. Of the first three there is one for each way of isolation whose files others cannot use.
const (
	snapshotsDir   = "snapshots"
	cacheDir       = "cache"
	mountsDir      = "mounts"
	fetchedDir     = "fetched"
	placesDir      = "places"
	locksDir       = "locks"
	acceleratedDir = "accelerated"
)

// Options say where an App's state is and how it meets the world.
type Options struct {
	// Home is the folder of slipway's state; it is made when it is missing.
	Home string
	// Config is what the user settled for all commands.
	Config config.Config
	// Getenv reads the environment, for secrets, build arguments without a value, and registries' credentials. Default: there
	// is none.
	Getenv func(string) string
	// Now is the clock.
	Now func() time.Time
	// Isolation is where this process is, see isolation.Enter. Default: where it can make namespaces itself.
	Isolation isolation.Place
	// DeviceDirs are folders of CDI specs. Default: those of the machine.
	DeviceDirs []string
	// Tries is how often a request to a registry is made before it has failed. Default: the registry client's.
	Tries int
	// Tools are the Debian packages of this machine that steps find, besides the essential ones, when no image is
	// configured. Default: debian.Tools.
	Tools []string
	// Logger hears what is not an event of a build. Default: nothing is logged.
	Logger *slog.Logger
}

// App is slipway on one machine's state. Its methods may be called at once, also by several processes.
type App struct {
	opts      Options
	blobs     *dir.Store
	snapshots *overlay.Overlay
	cache     *cache.Local
	mounts    *mount.Store
	names     *transfer.Names
	registry  *registry.Client
	stub      string
	acr       *acr.Keychain // nil without an access key
	network   *network
}

// runner makes what runs processes in a place.
func runner(p isolation.Place) func(func(context.Context) (snapshot.Draft, error)) solver.Engine {
	if p.Kind != isolation.PrivateRoot {
		return nil
	}
	return func(begin func(context.Context) (snapshot.Draft, error)) solver.Engine { return chroot.New(begin) }
}

// Open returns an App. What processes that died left behind is removed by the next build.
func Open(opts Options) (*App, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Tools == nil {
		opts.Tools = debian.Tools()
	}
	if err := os.MkdirAll(opts.Home, 0o700); err != nil {
		return nil, fmt.Errorf("open slipway's home: %w", err)
	}
	if opts.Getenv == nil {
		opts.Getenv = func(string) string { return "" }
	}
	a := &App{opts: opts, acr: newACR(opts), network: &network{known: map[string]bool{}, dial: (&net.Dialer{}).DialContext}}
	var err error
	if a.blobs, err = dir.Open(filepath.Join(opts.Home, "content"), dir.Options{Logger: opts.Logger}); err != nil {
		return nil, err
	}
	if a.snapshots, err = overlay.Open(filepath.Join(opts.Home, snapshotsDir+opts.Isolation.State), overlay.Options{Logger: opts.Logger}); err != nil {
		return nil, err
	}
	if a.cache, err = cache.Open(filepath.Join(opts.Home, cacheDir+opts.Isolation.State)); err != nil {
		return nil, err
	}
	a.names = transfer.OpenNames(filepath.Join(opts.Home, imagesDir))
	a.mounts = mount.Open(filepath.Join(opts.Home, mountsDir+opts.Isolation.State))
	a.stub = filepath.Join(opts.Home, "stub")
	if err := sandbox.MakeStub(a.stub); err != nil {
		return nil, err
	}
	keys := keychain.New(keychain.Options{Getenv: opts.Getenv, ACR: a.acr})
	a.registry = registry.New(registry.Options{
		Keychain: keys,
		Hint:     keys.Hint,
		Insecure: opts.Config.InsecureRegistries,
		Mirrors:  opts.Config.RegistryMirrors,
		Logger:   opts.Logger,
		Retry:    registry.Retry{Tries: opts.Tries},
	})
	return a, nil
}

// home is the path of a file or folder of the home folder.
func (a *App) home(name string) string { return filepath.Join(a.opts.Home, name) }

// newSolver returns a solver that sees blobs and cache mounts through stores.
func (a *App) newSolver(blobs blob.Store, mounts *mount.Store) *solver.Solver {
	return solver.New(solver.Options{
		Engine: runner(a.opts.Isolation),
		Blobs:  blobs, Snapshots: a.snapshots, Cache: a.cache, Registry: a.registry,
		Fetch:      fetch.New(fetch.Options{Dir: a.home(fetchedDir), Blobs: blobs}),
		Mounts:     mounts,
		Stub:       a.stub,
		Places:     places.Open(a.home(placesDir)),
		Lock:       locks(a.home(locksDir)).lock,
		DeviceDirs: a.opts.DeviceDirs,
		Now:        a.opts.Now,
		Logger:     a.opts.Logger,
	})
}
