package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"slipway/internal/deploy/function"
)

// instance is one process that answers requests of a version.
type instance struct {
	id        string
	pool      *pool
	process   Process
	transport *http.Transport
	retire    chan struct{} // holds a word when the instance shall be stopped
	tail      *tail

	// Guarded by the pool's mutex.
	active    int
	used      time.Time
	gone, bad bool
}

// idle wakes the watcher when the instance shall be stopped.
func (i *instance) idle(stop bool) {
	if stop {
		select {
		case i.retire <- struct{}{}:
		default:
		}
	}
}

// tail keeps the last lines of an instance's output, for errors.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, line); len(t.lines) > 10 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// startInstance starts an instance and waits until it listens, has been initialized and is healthy.
func startInstance(ctx context.Context, p *pool) (_ *instance, err error) {
	f := &p.version.Function
	i := &instance{id: "c-" + ulid.Make().String(), pool: p, retire: make(chan struct{}, 1), tail: &tail{}, used: p.host.opts.Now()}
	limit := fmt.Errorf("it was not ready within %s", p.host.opts.StartTime)
	ready, cancel := context.WithTimeoutCause(ctx, p.host.opts.StartTime, limit)
	defer cancel()
	i.process, err = p.host.opts.Starter.Start(ctx, f, environment(f, i.id), func(line string) {
		i.tail.add(line)
		p.log.line(i.id, line)
	})
	if err != nil {
		return nil, err
	}
	i.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return i.process.Dial(ctx) },
		MaxIdleConnsPerHost: f.Concurrency,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	defer func() {
		if err != nil {
			i.kill(ctx)
			err = unhealthy(i.tail.all(), err)
		}
	}()
	if err := i.listens(ready); err != nil {
		return nil, err
	}
	if f.Initializer != nil {
		hook, cancel := context.WithTimeoutCause(ready, hookTime(f.Initializer), errors.New("the initializer took too long"))
		defer cancel()
		if err := i.hook(hook, http.MethodPost, "/initialize"); err != nil {
			return nil, fmt.Errorf("initialize: %w", err)
		}
	}
	if f.Health.URL != "" {
		if err := i.becomesHealthy(ready); err != nil {
			return nil, err
		}
		p.done.Go(func() { i.staysHealthy(ctx) })
	}
	return i, nil
}

// environment is what an instance finds in its environment beside what its function sets.
func environment(f *function.Function, id string) []string {
	env := []string{
		"FC_FUNCTION_NAME=" + f.Name, "FC_REGION=" + f.Region, "FC_INSTANCE_ID=" + id,
		"FC_FUNCTION_MEMORY_SIZE=" + strconv.FormatInt(f.Memory, 10), "FC_CUSTOM_LISTEN_PORT=" + strconv.Itoa(f.Port),
	}
	for k, v := range f.Env {
		env = append(env, k+"="+v)
	}
	return env
}

// pause is how long to wait before an instance is asked again whether it listens: soon at first, for cold starts count.
func pause(n int) time.Duration { return min(time.Duration(1+n)*time.Millisecond, 25*time.Millisecond) }

// wait waits, unless the instance ends or ctx is done first.
func (i *instance) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-i.process.Done():
		return fmt.Errorf("it ended: %w", i.process.Err())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listens waits until the port can be connected to.
func (i *instance) listens(ctx context.Context) error {
	for n := 0; ; n++ {
		conn, dialErr := i.process.Dial(ctx)
		if dialErr == nil {
			return conn.Close()
		}
		if err := i.wait(ctx, pause(n)); err != nil {
			return fmt.Errorf("port %d: %w (it must listen on 0.0.0.0)", i.pool.version.Function.Port, err)
		}
	}
}

// hook calls one of the paths that the contract reserves; any 2xx answer is good.
func (i *instance) hook(ctx context.Context, method, path string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://function"+path, nil)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	i.pool.contract(req.Header, "rid-"+ulid.Make().String(), path)
	return i.ask(req)
}

func (i *instance) ask(req *http.Request) (err error) {
	res, err := i.transport.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil {
			err = cause
		}
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("%s %s answered %d", req.Method, req.URL.Path, res.StatusCode)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	return err
}

// healthy asks once.
func (i *instance) healthy(ctx context.Context) error {
	h := &i.pool.version.Function.Health
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(h.Timeout)*time.Second, errors.New("the health check took too long"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://function"+h.URL, nil)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	return i.ask(req)
}

// becomesHealthy asks until it was healthy as often in a row as the function says, or unhealthy too often.
func (i *instance) becomesHealthy(ctx context.Context) error {
	h := &i.pool.version.Function.Health
	if err := i.wait(ctx, time.Duration(h.InitialDelay)*time.Second); err != nil {
		return err
	}
	for good, bad := 0, 0; ; {
		err := i.healthy(ctx)
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		if good >= h.SuccessThreshold {
			return nil
		}
		if bad >= h.FailureThreshold {
			return fmt.Errorf("health check: %w, %d times in a row", err, bad)
		}
		if err := i.wait(ctx, time.Duration(h.Period)*time.Second); err != nil {
			return err
		}
	}
}

// staysHealthy asks until the instance ends, and discards it when it is unhealthy too often in a row.
func (i *instance) staysHealthy(ctx context.Context) {
	h := &i.pool.version.Function.Health
	for bad := 0; ; {
		if i.wait(ctx, time.Duration(h.Period)*time.Second) != nil {
			return
		}
		if err := i.healthy(ctx); err == nil {
			bad = 0
		} else if bad++; bad >= h.FailureThreshold {
			i.pool.discard(i, "health check: "+err.Error())
			return
		}
	}
}

// grace is how long a process may take to end after it was asked to.
const grace = 5 * time.Second

var (
	errGrace  = errors.New("it did not end when it was asked to")
	errAtOnce = errors.New("it is killed at once")
)

// stop ends an instance as the contract has it: GET /pre-stop when the function asks for it, then the process.
func (i *instance) stop(ctx context.Context) {
	defer i.transport.CloseIdleConnections()
	if f := &i.pool.version.Function; f.PreStop != nil && !i.bad {
		hook, cancel := context.WithTimeoutCause(ctx, hookTime(f.PreStop), errors.New("/pre-stop took too long"))
		if err := i.hook(hook, http.MethodGet, "/pre-stop"); err != nil {
			i.pool.log.line(i.id, "pre-stop: "+err.Error())
		}
		cancel()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, grace, errGrace)
	defer cancel()
	i.process.Stop(ctx)
}

// kill ends an instance at once.
func (i *instance) kill(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(errAtOnce)
	i.process.Stop(ctx)
	i.transport.CloseIdleConnections()
}
