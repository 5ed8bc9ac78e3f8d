package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"slipway/internal/build"
	"slipway/internal/build/solver"
	"slipway/internal/deploy/function"
	"slipway/internal/deploy/host"
	"slipway/internal/deploy/netns"
	"slipway/internal/errs"
	"slipway/internal/oci/ref"
	"slipway/internal/task/image"
)

const functionsDir = "functions"

// OpenFunctions opens the host of the functions that are deployed on this machine.
func (a *App) OpenFunctions() (*host.Host, error) {
	return host.Open(host.Options{Dir: a.home(functionsDir), Starter: functionStarter{a}, Now: a.opts.Now, Logger: a.opts.Logger})
}

// FunctionsSocket is where the process that hosts functions takes orders of others, for a home folder.
func FunctionsSocket(home string) string { return filepath.Join(home, functionsDir, "host.sock") }

// functionStarter starts instances of functions in sandboxes, each in a network of its own: every one may listen on the
// same port.
type functionStarter struct{ app *App }

var _ host.Starter = functionStarter{}

func (s functionStarter) Pin(ctx context.Context, name string) (_ string, err error) {
	r, err := ref.Parse(name)
	if err != nil {
		return "", err
	}
	w, err := s.app.begin(ctx, noEvents)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.end(err != nil)) }()
	r = image.MapRegistry(s.app.opts.Config.MapRegistry)(r)
	digest, err := w.solver.Pull(ctx, solver.Start{Image: r.String(), Platform: machine(), Events: noEvents})
	if err != nil {
		return "", err
	}
	return r.WithDigest(digest).String(), nil
}

func noEvents(build.Event) {}

func (s functionStarter) Start(ctx context.Context, f *function.Function, env []string, log func(string)) (host.Process, error) {
	ns, err := netns.New(f.Internet)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	p := &functionProcess{namespace: ns, port: f.Port, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		out := &lines{to: log}
		p.err = errors.Join(s.run(ctx, f, env, ns, out), ns.Close())
		out.end()
		cancel(p.err)
	}()
	return p, nil
}

// run runs an instance until it ends, and says why it did: never nil.
func (s functionStarter) run(ctx context.Context, f *function.Function, env []string, ns *netns.Namespace, out *lines) (err error) {
	w, err := s.app.begin(ctx, noEvents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.end(false)) }()
	code, err := w.solver.Start(ctx, solver.Start{
		Image: f.Image, Platform: machine(), Entrypoint: f.Entrypoint, Args: f.Command, Env: env,
		Namespace: ns.Path(), Grace: instanceGrace,
		Limits: solver.Limits{Memory: f.Memory << 20, CPUs: f.CPUs, Disk: f.Disk << 20, Of: "the function " + f.Name},
		Stdout: out, Stderr: out, Events: noEvents,
	})
	if err == nil {
		err = fmt.Errorf("exit status %d", code)
	}
	return err
}

// instanceGrace is how long an instance may take to end after SIGTERM.
const instanceGrace = 4 * time.Second

var errStopped = errs.Mark(errors.New("it was stopped"), errs.Canceled)

// functionProcess is an instance that runs in a sandbox.
type functionProcess struct {
	namespace *netns.Namespace
	port      int
	cancel    context.CancelCauseFunc
	done      chan struct{}
	err       error // once done is closed
}

func (p *functionProcess) Dial(ctx context.Context) (net.Conn, error) {
	return p.namespace.Dial(ctx, p.port)
}

func (p *functionProcess) Done() <-chan struct{} { return p.done }
func (p *functionProcess) Err() error            { return p.err }

// Stop ends the process with SIGTERM first, and kills it after instanceGrace.
func (p *functionProcess) Stop(context.Context) {
	p.cancel(errStopped)
	<-p.done
}

// lines hands over whole lines of what is written to it.
type lines struct {
	mu   sync.Mutex
	to   func(string)
	rest []byte
}

// maxLine is when a line is handed over though it is not over.
const maxLine = 64 << 10

func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, data...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			break
		}
		l.to(string(bytes.TrimSuffix(line, []byte("\r"))))
		l.rest = rest
	}
	if len(l.rest) > maxLine {
		l.to(string(l.rest))
		l.rest = nil
	}
	return len(data), nil
}

func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.to(string(l.rest))
		l.rest = nil
	}
}
