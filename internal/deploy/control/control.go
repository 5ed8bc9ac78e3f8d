// Package control lets other processes of this machine give orders to the one that hosts functions: HTTP and JSON over a
// socket that only the home folder's owner can open.
//
//	l, err := control.Listen(socket)        // in the process that hosts
//	err = control.Serve(ctx, l, host, url)
//	deployed, err := control.Dial(socket).Deploy(ctx, f, tell)
//
// Errors keep their kind and their text on the way.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/deploy/function"
	"slipway/internal/deploy/host"
	"slipway/internal/errs"
)

// kinds are the kinds of error that are kept on the way.
var kinds = map[string]error{
	"not-found": errs.NotFound, "invalid": errs.Invalid, "exists": errs.Exists, "conflict": errs.Conflict, "denied": errs.Denied,
	"unavailable": errs.Unavailable, "corrupt": errs.Corrupt, "limit": errs.Limit, "canceled": errs.Canceled,
}

// startKind is the kind of a *host.StartError.
const startKind = "start"

// failure is an error on the way.
type failure struct {
	Text string `json:"text"`
	Kind string `json:"kind,omitempty"`
	Hint string `json:"hint,omitempty"`
}

func newFailure(err error) *failure {
	f := &failure{Text: err.Error(), Hint: errs.HintOf(err)}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			f.Kind = name
		}
	}
	if _, ok := errors.AsType[*host.StartError](err); ok {
		f.Kind = startKind
	}
	return f
}

func (f *failure) error() error {
	err := errors.New(f.Text)
	if f.Kind == startKind {
		err = &host.StartError{Err: err}
	}
	if kind, ok := kinds[f.Kind]; ok {
		err = errs.Mark(err, kind)
	}
	return errs.Hint(err, f.Hint)
}

// message is a line of the answer to a deployment: what goes on, and at last what came of it.
type message struct {
	Told     string             `json:"told,omitempty"`
	Deployed *function.Deployed `json:"deployed,omitempty"`
	Failure  *failure           `json:"failure,omitempty"`
}

// Listener is the socket, and the lock that says whose it is.
type Listener struct {
	net.Listener
	lock *os.File
}

// Listen takes the socket. Only one process can have it: the error is of kind errs.Conflict for another.
func Listen(socket string) (_ *Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	lock, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errs.Mark(fmt.Errorf("another process hosts the functions of %s", filepath.Dir(socket)), errs.Conflict)
	}
	// With the lock, a socket that is there is a dead process's.
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	return &Listener{l, lock}, nil
}

// Close lets go of the socket.
func (l *Listener) Close() error { return errors.Join(l.Listener.Close(), l.lock.Close()) }

// Serve takes orders until ctx is done, and closes l. url is the address that functions answer under, with a trailing slash.
func Serve(ctx context.Context, l *Listener, h *host.Host, url string) error {
	s := &http.Server{Handler: handler(h, url), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("take orders: %w", err)
	case <-ctx.Done():
		err := s.Close() // and with it the socket and its lock
		if last := <-ended; !errors.Is(last, http.ErrServerClosed) {
			err = errors.Join(err, last)
		}
		return err
	}
}

// maxOrder bounds the body of an order.
const maxOrder = 33 << 20

func handler(h *host.Host, url string) http.Handler {
	info := func(name string) (function.Deployed, error) {
		d, err := h.Info(name)
		d.URL = url + name + "/"
		return d, err
	}
	mux := http.NewServeMux()
	on := func(pattern string, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxOrder)
			got, err := do(r)
			if err != nil {
				w.WriteHeader(http.StatusUnprocessableEntity)
				got = newFailure(err)
			}
			// Whoever does not wait for the answer does not get it.
			_ = json.NewEncoder(w).Encode(got)
		})
	}
	mux.HandleFunc("PUT /functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		out := json.NewEncoder(w)
		say := func(m message) {
			_ = out.Encode(m)
			_ = http.NewResponseController(w).Flush()
		}
		var f function.Function
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder)).Decode(&f)
		if err == nil {
			_, err = h.Deploy(r.Context(), f, func(text string) { say(message{Told: text}) })
		}
		if err != nil {
			say(message{Failure: newFailure(err)})
			return
		}
		d, err := info(f.Name)
		if err != nil {
			say(message{Failure: newFailure(err)})
			return
		}
		say(message{Deployed: &d})
	})
	on("GET /functions", func(*http.Request) (any, error) { return h.Names(), nil })
	on("GET /functions/{name}", func(r *http.Request) (any, error) { return info(r.PathValue("name")) })
	on("DELETE /functions/{name}", func(r *http.Request) (any, error) { return nil, h.Remove(r.PathValue("name")) })
	on("GET /functions/{name}/log", func(r *http.Request) (any, error) {
		n, err := strconv.Atoi(r.URL.Query().Get("lines"))
		if err != nil {
			return nil, fmt.Errorf("lines: %w: %w", err, errs.Invalid)
		}
		return h.Tail(r.PathValue("name"), n)
	})
	on("POST /functions/{name}/invoke", func(r *http.Request) (any, error) {
		event, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, fmt.Errorf("read the event: %w", err)
		}
		return h.Invoke(r.Context(), r.PathValue("name"), r.URL.Query().Get("qualifier"), event)
	})
	on("POST /functions/{name}/versions", func(r *http.Request) (any, error) {
		return h.Publish(r.PathValue("name"), r.URL.Query().Get("description"))
	})
	on("DELETE /functions/{name}/versions/{id}", func(r *http.Request) (any, error) {
		return nil, h.RemoveVersion(r.PathValue("name"), r.PathValue("id"))
	})
	on("PUT /functions/{name}/aliases", func(r *http.Request) (any, error) {
		var a function.Alias
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			return nil, fmt.Errorf("alias: %w: %w", err, errs.Invalid)
		}
		return nil, h.SetAlias(r.PathValue("name"), a)
	})
	on("DELETE /functions/{name}/aliases/{alias}", func(r *http.Request) (any, error) {
		return nil, h.RemoveAlias(r.PathValue("name"), r.PathValue("alias"))
	})
	return mux
}
