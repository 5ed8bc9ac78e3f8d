package control_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/deploy/control"
	"slipway/internal/deploy/function"
	"slipway/internal/deploy/host"
	"slipway/internal/errs"
)

// starter starts instances that are listeners on loopback, and none of the image "bad".
type starter struct{}

func (starter) Pin(_ context.Context, image string) (string, error) {
	if image == "none" {
		return "", errs.Hint(errs.Mark(errors.New("there is no such image"), errs.NotFound), "push it first")
	}
	return image, nil
}

func (starter) Start(ctx context.Context, f *function.Function, _ []string, log func(string)) (host.Process, error) {
	p := &process{done: make(chan struct{})}
	if f.Image == "bad" {
		log("no settings")
		close(p.done)
		return p, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.listener = l
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(f.Image))
	})}
	go func() { _ = server.Serve(l) }()
	return p, nil
}

type process struct {
	listener net.Listener
	done     chan struct{}
}

func (p *process) Dial(ctx context.Context) (net.Conn, error) {
	if p.listener == nil {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", p.listener.Addr().String())
}

func (p *process) Done() <-chan struct{} { return p.done }
func (*process) Err() error              { return errors.New("exit status 9") }

func (p *process) Stop(context.Context) {
	if p.listener != nil {
		_ = p.listener.Close()
		close(p.done)
		p.listener = nil
	}
}

func start(t *testing.T) *control.Client {
	t.Helper()
	dir := t.TempDir()
	h, err := host.Open(host.Options{Dir: dir, Starter: starter{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "host.sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(socket); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second listener: %v, want a conflict", err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, l, h, "http://127.0.0.1:7081/fn/") }()
	t.Cleanup(func() {
		stop(errs.Canceled)
		if err := errors.Join(<-ended, h.Close()); err != nil {
			t.Error(err)
		}
		again, err := control.Listen(socket)
		if err != nil {
			t.Fatalf("after the first has ended: %v", err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
	return control.Dial(socket)
}

func TestOrders(t *testing.T) {
	t.Parallel()
	c, ctx := start(t), t.Context()
	var told []string
	tell := func(text string) { told = append(told, text) }
	f := function.Function{Name: "demo", Image: "a", Timeout: 5, Concurrency: 1}
	d, err := c.Deploy(ctx, f, tell)
	if err != nil || d.URL != "http://127.0.0.1:7081/fn/demo/" || d.Instances != 1 || strings.Join(told, ", ") != "image a, healthy" {
		t.Fatalf("Deploy: %+v, %v, told %q", d, err, told)
	}
	if got, err := c.Invoke(ctx, "demo", "", []byte("event")); err != nil || string(got.Body) != "a" || got.Status != 200 {
		t.Errorf("Invoke: %+v, %v", got, err)
	}
	v, err := c.Publish(ctx, "demo", "first & only")
	if err != nil || v.ID != "1" || v.Description != "first & only" {
		t.Errorf("Publish: %+v, %v", v, err)
	}
	if err := c.SetAlias(ctx, "demo", function.Alias{Name: "prod", Version: "1"}); err != nil {
		t.Error(err)
	}
	if d, err := c.Info(ctx, "demo"); err != nil || len(d.Versions) != 1 || len(d.Aliases) != 1 {
		t.Errorf("Info: %+v, %v", d, err)
	}
	if lines, err := c.Tail(ctx, "demo", 10); err != nil || len(lines) != 2 {
		t.Errorf("Tail: %q, %v", lines, err)
	}
	if names, err := c.Names(ctx); err != nil || len(names) != 1 || names[0] != "demo" {
		t.Errorf("Names: %v, %v", names, err)
	}
	for _, err := range []error{c.RemoveAlias(ctx, "demo", "prod"), c.RemoveVersion(ctx, "demo", "1"), c.Remove(ctx, "demo")} {
		if err != nil {
			t.Error(err)
		}
	}
}

// An error is on this side what it was on the other: its text, its kind, its hint.
func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	c, ctx := start(t), t.Context()
	if _, err := c.Info(ctx, "demo"); !errors.Is(err, errs.NotFound) || err.Error() != "function demo: not found" {
		t.Errorf("Info: %v", err)
	}
	_, err := c.Deploy(ctx, function.Function{Name: "demo", Image: "none"}, func(string) {})
	if !errors.Is(err, errs.NotFound) || errs.HintOf(err) != "push it first" {
		t.Errorf("Deploy of no image: %v, hint %q", err, errs.HintOf(err))
	}
	_, err = c.Deploy(ctx, function.Function{Name: "demo", Image: "bad", Concurrency: 1}, func(string) {})
	if _, ok := errors.AsType[*host.StartError](err); !ok || !strings.Contains(err.Error(), "no settings") {
		t.Errorf("Deploy of what does not start: %v (%T)", err, err)
	}
	nobody := control.Dial(filepath.Join(t.TempDir(), "host.sock"))
	if _, err := nobody.Names(ctx); !errors.Is(err, errs.Unavailable) || errs.HintOf(err) == "" {
		t.Errorf("without a host: %v", err)
	}
}
