// Package serve is the embedded registry: an OCI distribution-spec registry on a folder, for `slipway registry serve`,
// for the service and for tests. It implements pull, push, content discovery (tags and referrers) and content
// management; docs/decisions/0004-embedded-registry.md tells why it is not a third party's.
//
// A Registry is an http.Handler; Start and Stop run it on an address of its own:
//
//	r, err := serve.New(serve.Options{Dir: dir})
//	err = r.Start(ctx, "127.0.0.1:0")
//	defer r.Stop()
//	// push to r.Addr()+"/app:v1"
//
// On disk everything is a plain file that appears whole, by rename, under its name; a process killed at any moment leaves
// uploads that can be resumed, or are purged, and nothing half written:
//
//	blobs/sha256/ab/ab12…                        content, once per registry
//	repositories/NAME/_blobs/sha256/ab12…        NAME has this blob
//	repositories/NAME/_manifests/sha256/cd34…    a manifest's bytes; cd34….type is its media type
//	repositories/NAME/_tags/TAG                  the digest that the tag names
//	repositories/NAME/_referrers/sha256/ab12…/   one descriptor per manifest whose subject is ab12…
//	repositories/NAME/_uploads/ID                an upload under way
//
// One process at a time owns a folder. Package serve knows nothing of mirrors, quotas or users; Options.Authorize asks.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"slipway/internal/errs"
)

// Options say where a Registry lives. Only Dir must be set.
type Options struct {
	// Dir is the folder of the registry; it is created. It belongs to one process at a time.
	Dir string
	// Logger gets one debug line a request, and what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Authorize is asked before every request, with the user and password of the Authorization header, both "" when
	// there is none. An errs.Denied is answered with 403, any other error with 401 and a Basic challenge.
	// Default: everybody may do everything.
	Authorize func(ctx context.Context, user, password string, a Access) error
	// UploadTTL is how long an upload may lie without progress, and a blob without a manifest, before it is removed.
	// Default: 24 hours.
	UploadTTL time.Duration
	// Sync makes content survive a power failure, not only a killed process, at the price of an fsync per file.
	// Default: false.
	Sync bool
}

// Access is what a request wants.
type Access struct {
	// Repository is "" for requests about the registry as a whole: the version check and the catalog.
	Repository string
	// Write is set for pushes and deletions.
	Write bool
}

// Registry serves one folder. All methods may be called from several goroutines.
type Registry struct {
	opts    Options
	log     *slog.Logger
	files   *files
	lock    *os.File
	uploads uploads
	buffers sync.Pool // of *[copyBufferBytes]byte
	// names is held while manifests, tags and links change, so that two requests never see half of the other's change.
	// Content is written outside it.
	names sync.RWMutex

	mu       sync.Mutex // guards the fields below
	listener net.Listener
	stop     chan struct{} // closed to shut the server down; nil before Start
	running  sync.WaitGroup
	closed   bool
}

var _ http.Handler = (*Registry)(nil)

// New opens the registry in opts.Dir and purges the uploads that have expired. It is an errs.Conflict when another
// process has the folder. Stop closes what New opened.
func New(opts Options) (*Registry, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.UploadTTL == 0 {
		opts.UploadTTL = 24 * time.Hour
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create registry folder: %w", err)
	}
	lock, err := lockFolder(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", opts.Dir, err)
	}
	files, err := openFiles(opts.Dir, opts.Sync)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", errors.Join(err, lock.Close()))
	}
	r := &Registry{opts: opts, log: opts.Logger, files: files, lock: lock}
	r.uploads.open = make(map[uploadKey]*upload)
	if err := r.purge(); err != nil {
		return nil, fmt.Errorf("open registry %s: purge uploads: %w", opts.Dir, errors.Join(err, r.Stop()))
	}
	return r, nil
}

// Start listens on addr ("127.0.0.1:0" picks a port, see Addr) and serves until Stop. Requests inherit ctx's values and
// its cancellation; canceling ctx also stops the server. A Registry starts once.
func (r *Registry) Start(ctx context.Context, addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.stop != nil {
		return fmt.Errorf("start registry on %s: %w: it has been started before", addr, errs.Conflict)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	silent := &unused{}
	server := &http.Server{
		Handler:           r,
		ConnState:         silent.track,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	r.listener, r.stop = listener, make(chan struct{})
	r.running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("registry stopped serving", slog.Any("error", err))
		}
	})
	r.running.Go(func() { r.tend(ctx, server, silent, r.stop) })
	return nil
}

// tend keeps the folder tidy until it is time to shut the server down.
func (r *Registry) tend(ctx context.Context, server *http.Server, silent *unused, stop <-chan struct{}) {
	ticker := time.NewTicker(max(time.Minute, r.opts.UploadTTL/24))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			r.shutdown(ctx, server, silent)
			return
		case <-stop:
			r.shutdown(context.WithoutCancel(ctx), server, silent)
			return
		case <-ticker.C:
			_, err := r.Sweep(ctx)
			if err := errors.Join(err, r.purge()); err != nil {
				r.log.Warn("registry not tidied", slog.Any("error", err))
			}
		}
	}
}

// stopGrace is how long requests under way may take to finish.
const stopGrace = 5 * time.Second

func (r *Registry) shutdown(ctx context.Context, server *http.Server, silent *unused) {
	silent.close()
	ctx, cancel := context.WithTimeoutCause(ctx, stopGrace, errs.Canceled)
	defer cancel()
	if server.Shutdown(ctx) == nil {
		return
	}
	if err := server.Close(); err != nil {
		r.log.Debug("registry connections not closed", slog.Any("error", err))
	}
}

// Addr returns host:port of a started registry, which is also how references name it; "" before Start.
func (r *Registry) Addr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener == nil {
		return ""
	}
	return r.listener.Addr().String()
}

// Stop lets requests that are under way finish for some seconds, then cuts them off, and releases the folder. It waits
// for every goroutine of the registry, and may be called twice and without Start.
func (r *Registry) Stop() error {
	r.mu.Lock()
	stop, closed := r.stop, r.closed
	r.closed = true
	r.mu.Unlock()
	if !closed && stop != nil {
		close(stop)
	}
	r.running.Wait()
	if closed {
		return nil
	}
	return errors.Join(r.files.close(), r.lock.Close())
}
