package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipway/internal/deploy/function"
	"slipway/internal/deploy/host"
	"slipway/internal/errs"
)

// fake is a Starter whose images are handlers, reached through pipes in memory.
type fake struct {
	mu      sync.Mutex
	images  map[string]http.HandlerFunc
	started []*process
}

// process is a running handler.
type process struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
	err   error
	env   []string
	asked bool // it was asked to stop, not killed
}

func (f *fake) Pin(_ context.Context, image string) (string, error) {
	if f.images[image] == nil {
		return "", fmt.Errorf("image %s: %w", image, errs.NotFound)
	}
	return image + "@sha256:0", nil
}

func (f *fake) Start(_ context.Context, fn *function.Function, env []string, log func(string)) (host.Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	handler := f.images[strings.TrimSuffix(fn.Image, "@sha256:0")]
	p := &process{conns: make(chan net.Conn), done: make(chan struct{}), env: env}
	f.started = append(f.started, p)
	log("hello from " + fn.Image)
	if handler == nil {
		p.end(errors.New("exit status 1"))
		return p, nil
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(p) }()
	return p, nil
}

func (f *fake) processes() []*process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.started)
}

func (p *process) end(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
	})
}

func (p *process) Dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *process) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (*process) Close() error            { return nil }
func (*process) Addr() net.Addr          { return &net.UnixAddr{} }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Err() error            { return p.err }

func (p *process) Stop(ctx context.Context) {
	p.asked = ctx.Err() == nil
	p.end(errors.New("signal: terminated"))
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func quiet(string) {}

func open(t *testing.T, dir string, f *fake) *host.Host {
	t.Helper()
	h, err := host.Open(host.Options{Dir: dir, Starter: f, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func demo(image string) function.Function {
	return function.Function{
		Name: "demo", Image: image, Port: 9000, Timeout: 30, Concurrency: 1, Memory: 512,
		Triggers: []function.Trigger{{Name: "t", Type: "http", AuthType: "anonymous"}},
	}
}

func deploy(t *testing.T, h *host.Host, f function.Function) {
	t.Helper()
	if _, err := h.Deploy(t.Context(), f, quiet); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, h *host.Host, path string) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	h.Handler("/fn/").ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String(), w.Header()
}

func TestRequestsReachTheFunction(t *testing.T) {
	t.Parallel()
	f := &fake{images: map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "own")
		fmt.Fprintf(w, "%s?%s %s %s %q", r.URL.Path, r.URL.RawQuery, r.Header.Get("X-Fc-Control-Path"), r.Header.Get("X-Fc-Function-Name"), r.Header.Get("X-Fc-Account-Id"))
	}}}
	h := open(t, t.TempDir(), f)
	fn := demo("a")
	fn.Env = map[string]string{"COLOR": "blue"}
	deploy(t, h, fn)
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/fn/demo/a%2Fb/c?x=1", nil)
	r.Header.Set("X-Fc-Account-Id", "forged")
	h.Handler("/fn/").ServeHTTP(w, r)
	if got, want := w.Body.String(), `/a/b/c?x=1 /http-invoke demo ""`; w.Code != 200 || got != want {
		t.Errorf("got %d %s, want %s", w.Code, got, want)
	}
	if w.Header().Get("Server") != "" || len(w.Header().Values(host.RequestID)) != 1 {
		t.Errorf("headers %v: no server, and a request id", w.Header())
	}
	if env := f.processes()[0].env; !slices.Contains(env, "COLOR=blue") || !slices.Contains(env, "FC_CUSTOM_LISTEN_PORT=9000") {
		t.Errorf("environment %q", env)
	}
	answer, err := h.Invoke(t.Context(), "demo", "", []byte("event"))
	if err != nil || answer.Status != 200 || !strings.HasPrefix(string(answer.Body), "/invoke? /invoke demo") {
		t.Errorf("Invoke: %+v %s, %v", answer, answer.Body, err)
	}
	info, err := h.Info("demo")
	if err != nil || info.Latest.Function.Image != "a@sha256:0" || info.Instances != 1 {
		t.Errorf("Info: %+v, %v", info, err)
	}
	lines, err := h.Tail("demo", 100)
	if all := strings.Join(lines, "\n"); err != nil || !strings.Contains(all, "hello from a@sha256:0") || !strings.Contains(all, " start rid-") || !strings.Contains(all, " end rid-") {
		t.Errorf("log: %q, %v", lines, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	h := open(t, t.TempDir(), &fake{images: map[string]http.HandlerFunc{"a": say("a")}})
	deploy(t, h, demo("a"))
	closed := demo("a")
	closed.Name, closed.Triggers = "closed", nil
	deploy(t, h, closed)
	posts := demo("a")
	posts.Name, posts.Triggers = "posts", []function.Trigger{{Name: "t", Type: "http", AuthType: "anonymous", Methods: []string{"POST"}}}
	deploy(t, h, posts)
	for _, tt := range []struct {
		path, code string
		status     int
	}{
		{"/fn/other/", "FunctionNotFound", 404},
		{"/fn/", "FunctionNotFound", 404},
		{"/fn/demo.prod/", "FunctionNotFound", 404},
		{"/fn/closed/", "AccessDenied", 403},
		{"/fn/posts/", "MethodNotAllowed", 405},
		{"/fn/demo/" + strings.Repeat("x", 5000), "InvalidArgument", 400},
	} {
		status, body, header := get(t, h, tt.path)
		if status != tt.status || header.Get(host.ErrorType) != tt.code || !strings.Contains(body, tt.code) {
			t.Errorf("%.20s: %d %s %s, want %d %s", tt.path, status, header.Get(host.ErrorType), body, tt.status, tt.code)
		}
	}
}

func TestBadVersionGetsNoRequests(t *testing.T) {
	t.Parallel()
	sick := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
	f := &fake{images: map[string]http.HandlerFunc{"good": say("good"), "sick": sick, "dead": nil}}
	f.images["dead"] = nil
	h := open(t, t.TempDir(), f)
	deploy(t, h, demo("good"))
	bad := demo("sick")
	bad.Health = function.Health{URL: "/health", Timeout: 1, FailureThreshold: 1, SuccessThreshold: 1}
	_, err := h.Deploy(t.Context(), bad, quiet)
	if err == nil || !strings.Contains(err.Error(), "health check: GET /health answered 500") || !strings.Contains(err.Error(), "hello from sick") {
		t.Errorf("Deploy: %v", err)
	}
	if _, err := h.Deploy(t.Context(), demo("none"), quiet); !errors.Is(err, errs.NotFound) {
		t.Errorf("Deploy of an image that is not there: %v", err)
	}
	if status, body, _ := get(t, h, "/fn/demo/"); status != 200 || body != "good" {
		t.Errorf("after bad versions: %d %s", status, body)
	}
	if info, err := h.Info("demo"); err != nil || info.Latest.Function.Image != "good@sha256:0" {
		t.Errorf("Info: %+v, %v", info, err)
	}
}

// Requests go on while version after version is deployed, and none fails.
func TestDeployUnderLoad(t *testing.T) {
	t.Parallel()
	images := map[string]http.HandlerFunc{}
	for i := range 6 {
		images[fmt.Sprint(i)] = say(fmt.Sprint(i))
	}
	h := open(t, t.TempDir(), &fake{images: images})
	fn := demo("0")
	fn.Concurrency = 4
	deploy(t, h, fn)
	var failed atomic.Int64
	var served atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				w := httptest.NewRecorder()
				h.Handler("/fn/").ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/fn/demo/", nil))
				served.Add(1)
				if w.Code != http.StatusOK {
					failed.Add(1)
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
	for i := 1; i < 6; i++ {
		fn.Image = fmt.Sprint(i)
		deploy(t, h, fn)
	}
	close(stop)
	clients.Wait()
	if failed.Load() > 0 || served.Load() == 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), served.Load())
	}
	if _, body, _ := get(t, h, "/fn/demo/"); body != "5" {
		t.Errorf("the last version does not answer: %s", body)
	}
}

func TestInstancesStartAsRequestsCome(t *testing.T) {
	t.Parallel()
	arrived, leave := make(chan struct{}, 10), make(chan struct{})
	f := &fake{images: map[string]http.HandlerFunc{"a": func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-leave
	}}}
	h := open(t, t.TempDir(), f)
	fn := demo("a")
	fn.Concurrency = 2
	deploy(t, h, fn)
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() { get(t, h, "/fn/demo/") })
	}
	for range 5 { // all five are answered at once, which takes three instances
		<-arrived
	}
	if info, err := h.Info("demo"); err != nil || info.Instances != 3 {
		t.Errorf("%d instances, %v; want 3", info.Instances, err)
	}
	close(leave)
	clients.Wait()
}

func TestIdleInstancesStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan string, 1)
		f := &fake{images: map[string]http.HandlerFunc{"a": func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Fc-Control-Path") == "/pre-stop" {
				stopped <- r.Method + " " + r.URL.Path
			}
		}}}
		h, err := host.Open(host.Options{Dir: t.TempDir(), Starter: f, Now: time.Now, Idle: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		fn := demo("a")
		fn.PreStop = &function.Hook{Timeout: 3}
		if _, err := h.Deploy(t.Context(), fn, quiet); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		if status, _, _ := get(t, h, "/fn/demo/"); status != 200 {
			t.Error(status)
		}
		time.Sleep(50 * time.Second) // the request has begun the time anew
		if info, err := h.Info("demo"); err != nil || info.Instances != 1 {
			t.Errorf("%d instances, %v; want 1", info.Instances, err)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if info, err := h.Info("demo"); err != nil || info.Instances != 0 {
			t.Errorf("%d instances, %v; want none", info.Instances, err)
		}
		if got := <-stopped; got != "GET /pre-stop" {
			t.Errorf("before it stopped: %s", got)
		}
		if status, _, _ := get(t, h, "/fn/demo/"); status != 200 || len(f.processes()) != 2 {
			t.Errorf("%d, %d instances were started in all; want a second", status, len(f.processes()))
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestTimeLimitKillsTheInstance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{images: map[string]http.HandlerFunc{"a": func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-r.Context().Done()
			}
		}}}
		h, err := host.Open(host.Options{Dir: t.TempDir(), Starter: f, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		fn := demo("a")
		fn.Timeout = 3
		if _, err := h.Deploy(t.Context(), fn, quiet); err != nil {
			t.Fatal(err)
		}
		if status, body, header := get(t, h, "/fn/demo/slow"); status != 504 || header.Get(host.ErrorType) != "FunctionTimeout" || !strings.Contains(body, "within 3 s") {
			t.Errorf("%d %s", status, body)
		}
		synctest.Wait()
		if info, err := h.Info("demo"); err != nil || info.Instances != 0 {
			t.Errorf("%d instances, %v: it was not killed", info.Instances, err)
		}
		if status, _, _ := get(t, h, "/fn/demo/"); status != 200 {
			t.Errorf("after the limit: %d", status)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestInstanceThatDiesUnderARequest(t *testing.T) {
	t.Parallel()
	f := &fake{images: map[string]http.HandlerFunc{}}
	f.images["a"] = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/die" {
			f.processes()[0].end(errors.New("exit status 7"))
			panic(http.ErrAbortHandler)
		}
	}
	h := open(t, t.TempDir(), f)
	deploy(t, h, demo("a"))
	if status, body, header := get(t, h, "/fn/demo/die"); status != 503 || header.Get(host.ErrorType) != "FunctionProcessExited" || !strings.Contains(body, "exit status 7") {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := get(t, h, "/fn/demo/"); status != 200 {
		t.Errorf("the next request: %d %s", status, body)
	}
}

func TestInitializer(t *testing.T) {
	t.Parallel()
	var calls []string
	fail := atomic.Bool{}
	f := &fake{images: map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method+" "+r.URL.Path)
		if fail.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}}}
	h := open(t, t.TempDir(), f)
	fn := demo("a")
	fn.Initializer = &function.Hook{Timeout: 3}
	deploy(t, h, fn)
	get(t, h, "/fn/demo/x")
	if got := strings.Join(calls, ", "); got != "POST /initialize, GET /x" {
		t.Errorf("calls: %s", got)
	}
	fail.Store(true)
	if _, err := h.Deploy(t.Context(), fn, quiet); err == nil || !strings.Contains(err.Error(), "initialize: POST /initialize answered 500") {
		t.Errorf("Deploy: %v", err)
	}
}

func TestVersionsAndAliases(t *testing.T) {
	t.Parallel()
	h := open(t, t.TempDir(), &fake{images: map[string]http.HandlerFunc{"a": say("a"), "b": say("b")}})
	deploy(t, h, demo("a"))
	one, err := h.Publish("demo", "first")
	if err != nil || one.ID != "1" {
		t.Fatal(one, err)
	}
	if err := h.SetAlias("demo", function.Alias{Name: "prod", Version: "1"}); err != nil {
		t.Fatal(err)
	}
	deploy(t, h, demo("b"))
	for path, want := range map[string]string{"/fn/demo/": "b", "/fn/demo.LATEST/": "b", "/fn/demo.1/": "a", "/fn/demo.prod/": "a"} {
		if _, body, _ := get(t, h, path); body != want {
			t.Errorf("%s: %s, want %s", path, body, want)
		}
	}
	if two, err := h.Publish("demo", ""); err != nil || two.ID != "2" {
		t.Fatal(two, err)
	}
	if err := h.SetAlias("demo", function.Alias{Name: "prod", Version: "1", Additional: "2", Weight: 0.5}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for range 200 {
		_, body, _ := get(t, h, "/fn/demo.prod/")
		seen[body]++
	}
	if seen["a"] < 50 || seen["b"] < 50 || seen["a"]+seen["b"] != 200 {
		t.Errorf("with a weight of a half: %v", seen)
	}
	if err := h.RemoveVersion("demo", "1"); !errors.Is(err, errs.Conflict) {
		t.Errorf("removing a version that an alias names: %v", err)
	}
	for _, bad := range []function.Alias{{Name: "x", Version: "9"}, {Name: "LATEST", Version: "1"}, {Name: "x", Version: "1", Weight: 0.5}, {Name: "x", Version: "1", Additional: "2", Weight: 2}} {
		if err := h.SetAlias("demo", bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if err := errors.Join(h.RemoveAlias("demo", "prod"), h.RemoveVersion("demo", "1")); err != nil {
		t.Error(err)
	}
	if status, _, _ := get(t, h, "/fn/demo.1/"); status != 404 {
		t.Errorf("a version that was removed answers %d", status)
	}
}

// What was deployed comes back with a new Host; a record that is broken does not keep the others away.
func TestReopen(t *testing.T) {
	t.Parallel()
	dir, f := t.TempDir(), &fake{images: map[string]http.HandlerFunc{"a": say("a")}}
	first, err := host.Open(host.Options{Dir: dir, Starter: f, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, first, demo("a"))
	if err := errors.Join(first.Close(), os.WriteFile(filepath.Join(dir, "broken.json"), []byte(`{"latest": `), 0o600)); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, f)
	if status, body, _ := get(t, again, "/fn/demo/"); status != 200 || body != "a" {
		t.Errorf("%d %s", status, body)
	}
	if names := again.Names(); len(names) != 1 {
		t.Errorf("functions %v", names)
	}
	if _, err := os.Stat(filepath.Join(dir, "broken.json.broken")); err != nil {
		t.Error(err)
	}
	if err := again.Remove("demo"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, again, "/fn/demo/"); status != 404 {
		t.Errorf("after Remove: %d", status)
	}
	if err := again.Remove("demo"); !errors.Is(err, errs.NotFound) {
		t.Errorf("Remove again: %v", err)
	}
}
