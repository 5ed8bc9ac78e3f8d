// Package host runs functions on this machine: images under the custom-container contract of Function Compute 3.0.
//
// A Host keeps what is deployed in a folder, starts instances when requests come and stops them when none do. Deploying
// a function starts the new version first, asks for its health, and only then moves requests to it; a version that does
// not start never gets one, and the last good one stays. What an instance is, a Starter decides.
//
//	host, err := host.Open(host.Options{Dir: dir, Starter: starter, Now: time.Now})
//	deployed, err := host.Deploy(ctx, f, tell)
//	http.Handle("/fn/", host.Handler("/fn/"))
//
// Package host pulls no images and knows no s.yaml.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"slipway/internal/deploy/function"
	"slipway/internal/errs"
)

// Starter starts instances.
type Starter interface {
	// Pin gives the reference of exactly what image names now, registry/repository@digest, and makes it ready to start.
	Pin(ctx context.Context, image string) (string, error)
	// Start starts one instance. It returns at once; whether it listens yet is for the caller to find out. Canceling ctx
	// kills the instance. Output goes to log, whole lines at a time.
	Start(ctx context.Context, f *function.Function, env []string, log func(line string)) (Process, error)
}

// Process is a running instance.
type Process interface {
	// Dial connects to the port that the function listens on.
	Dial(ctx context.Context) (net.Conn, error)
	// Done is closed when the process has ended, and Err says why from then on: never nil.
	Done() <-chan struct{}
	Err() error
	// Stop asks the process to end, kills it when ctx is done, and waits for it.
	Stop(ctx context.Context)
}

// Options say where a Host keeps its state, and its bounds.
type Options struct {
	// Dir holds what is deployed and the logs. Required.
	Dir string
	// Starter starts instances. Required.
	Starter Starter
	// Now is the clock. Required.
	Now func() time.Time
	// Idle is how long an instance without requests lives. Default: 5 minutes.
	Idle time.Duration
	// StartTime is how long an instance may take until it listens, and is healthy. Default: 2 minutes.
	StartTime time.Duration
	// Instances bounds how many instances a version has. Default: 100.
	Instances int
	// Logger hears what no request tells. Default: nothing is logged.
	Logger *slog.Logger
}

// Host runs functions. Its methods may be called at once.
type Host struct {
	opts Options

	mu        sync.Mutex
	functions map[string]*entry
	changing  map[string]*sync.Mutex // one change of a function at a time
	loops     sync.WaitGroup
}

// record is what the folder keeps of a function.
type record struct {
	Latest   function.Version   `json:"latest"`
	Versions []function.Version `json:"versions,omitempty"`
	Aliases  []function.Alias   `json:"aliases,omitempty"`
	Next     int                `json:"next"`
}

// entry is a function and its running versions.
type entry struct {
	record record
	pools  map[string]*pool // by version
	log    *logFile
}

// Open returns a Host over its folder. Functions come back as they were when they were last deployed well; their instances
// start with their first requests. Close it.
func Open(opts Options) (*Host, error) {
	if opts.Idle == 0 {
		opts.Idle = 5 * time.Minute
	}
	if opts.StartTime == 0 {
		opts.StartTime = 2 * time.Minute
	}
	if opts.Instances == 0 {
		opts.Instances = 100
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the function host: %w", err)
	}
	h := &Host{opts: opts, functions: map[string]*entry{}, changing: map[string]*sync.Mutex{}}
	names, err := filepath.Glob(filepath.Join(opts.Dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("open the function host: %w", err)
	}
	for _, name := range names {
		if err := h.restore(name); err != nil {
			h.opts.Logger.Error("function set aside", slog.String("file", name), slog.Any("error", err))
		}
	}
	return h, nil
}

// restore takes up one function. A record that cannot be read is set aside: it must not keep the others from running.
func (h *Host) restore(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	e := &entry{pools: map[string]*pool{}}
	if err = json.Unmarshal(data, &e.record); err == nil {
		err = function.CheckName(e.record.Latest.Function.Name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("decode: %w", err), os.Rename(file, file+".broken"))
	}
	name := e.record.Latest.Function.Name
	e.log = openLog(h.logFile(name), h.opts.Now)
	h.functions[name] = e
	return nil
}

func (h *Host) file(name string) string    { return filepath.Join(h.opts.Dir, name+".json") }
func (h *Host) logFile(name string) string { return filepath.Join(h.opts.Dir, name+".log") }

// Close stops all instances and waits for them. What is deployed stays deployed.
func (h *Host) Close() error {
	h.mu.Lock()
	var pools []*pool
	for _, e := range h.functions {
		pools = append(pools, slices.Collect(maps.Values(e.pools))...)
	}
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range pools {
		all.Go(p.close)
	}
	all.Wait()
	h.loops.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	for _, e := range h.functions {
		err = errors.Join(err, e.log.close())
	}
	return err
}

// lock lets one change of a function go on at a time.
func (h *Host) lock(name string) func() {
	h.mu.Lock()
	m, ok := h.changing[name]
	if !ok {
		m = &sync.Mutex{}
		h.changing[name] = m
	}
	h.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// Deploy makes f the LATEST version: it pins the image's digest, starts an instance, waits until it is healthy, and moves
// requests to it; requests that the old version answers are let finish. When the new version does not get healthy, the
// error says why, with the last lines of its output, and everything is as before.
func (h *Host) Deploy(ctx context.Context, f function.Function, tell func(string)) (function.Deployed, error) {
	if err := function.CheckName(f.Name); err != nil {
		return function.Deployed{}, err
	}
	defer h.lock(f.Name)()
	image := f.Image
	pinned, err := h.opts.Starter.Pin(ctx, image)
	if err != nil {
		return function.Deployed{}, fmt.Errorf("deploy %s: %w", f.Name, err)
	}
	f.Image = pinned
	tell("image " + pinned)
	e, known := h.entry(f.Name)
	if !known {
		e = &entry{pools: map[string]*pool{}, record: record{Next: 1}, log: openLog(h.logFile(f.Name), h.opts.Now)}
	}
	version := function.Version{ID: function.Latest, Deployed: h.opts.Now().UTC(), Function: f}
	next := h.newPool(version, e.log)
	if err := next.prime(ctx); err != nil {
		next.close()
		if !known {
			err = errors.Join(err, e.log.close())
		}
		return function.Deployed{}, fmt.Errorf("deploy %s: the new version does not start, and gets no requests: %w", f.Name, &StartError{err})
	}
	tell("healthy")
	changed := e.record
	changed.Latest = version
	if err := h.save(f.Name, changed); err != nil {
		next.close()
		return function.Deployed{}, fmt.Errorf("deploy %s: %w", f.Name, err)
	}
	h.mu.Lock()
	old := e.pools[function.Latest]
	e.record, e.pools[function.Latest] = changed, next
	h.functions[f.Name] = e
	h.mu.Unlock()
	if old != nil {
		h.loops.Go(old.drain)
	}
	return h.Info(f.Name)
}

// StartError says that a function's program did not get ready: a failure of what was deployed, not of slipway.
type StartError struct{ Err error }

// Error says why it did not get ready.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *StartError) Unwrap() error { return e.Err }

// ExitCode makes it a failure of the program's.
func (*StartError) ExitCode() int { return 1 }

func (h *Host) entry(name string) (*entry, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.functions[name]
	return e, ok
}

// save writes a function's record, so that a crash leaves the old one or the new one.
func (h *Host) save(name string, r record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return replace(h.file(name), data)
}

// change changes a function's record.
func (h *Host) change(name string, edit func(*record) error) error {
	defer h.lock(name)()
	e, ok := h.entry(name)
	if !ok {
		return notDeployed(name)
	}
	changed := e.record
	changed.Versions, changed.Aliases = slices.Clone(changed.Versions), slices.Clone(changed.Aliases)
	if err := edit(&changed); err != nil {
		return fmt.Errorf("function %s: %w", name, err)
	}
	if err := h.save(name, changed); err != nil {
		return fmt.Errorf("function %s: %w", name, err)
	}
	h.mu.Lock()
	e.record = changed
	var gone []*pool
	for id, p := range e.pools {
		if changed.version(id) == nil {
			gone = append(gone, p)
			delete(e.pools, id)
		}
	}
	h.mu.Unlock()
	for _, p := range gone {
		h.loops.Go(p.drain)
	}
	return nil
}

func notDeployed(name string) error {
	return fmt.Errorf("function %s: %w", name, errs.NotFound)
}

func (r *record) version(id string) *function.Version {
	if id == function.Latest {
		return &r.Latest
	}
	for i := range r.Versions {
		if r.Versions[i].ID == id {
			return &r.Versions[i]
		}
	}
	return nil
}

func (r *record) alias(name string) *function.Alias {
	for i := range r.Aliases {
		if r.Aliases[i].Name == name {
			return &r.Aliases[i]
		}
	}
	return nil
}

// Publish makes a numbered version of LATEST, which never changes.
func (h *Host) Publish(name, description string) (function.Version, error) {
	var v function.Version
	err := h.change(name, func(r *record) error {
		v = r.Latest
		v.ID, v.Description, v.Deployed = strconv.Itoa(r.Next), description, h.opts.Now().UTC()
		r.Versions, r.Next = append(r.Versions, v), r.Next+1
		return nil
	})
	return v, err
}

// RemoveVersion deletes a numbered version that no alias names.
func (h *Host) RemoveVersion(name, id string) error {
	return h.change(name, func(r *record) error {
		if id == function.Latest || r.version(id) == nil {
			return fmt.Errorf("version %s: %w", id, errs.NotFound)
		}
		for _, a := range r.Aliases {
			if a.Version == id || a.Additional == id {
				return fmt.Errorf("version %s: the alias %s names it: %w", id, a.Name, errs.Conflict)
			}
		}
		r.Versions = slices.DeleteFunc(r.Versions, func(v function.Version) bool { return v.ID == id })
		return nil
	})
}

// SetAlias makes or changes an alias.
func (h *Host) SetAlias(name string, a function.Alias) error {
	if err := function.CheckName(a.Name); err != nil || a.Name == function.Latest {
		return fmt.Errorf("alias %q: %w", a.Name, errs.Invalid)
	}
	return h.change(name, func(r *record) error {
		for _, id := range []string{a.Version, a.Additional} {
			if r.version(id) == nil && (id != "" || id == a.Version) {
				return fmt.Errorf("alias %s: version %q: %w", a.Name, id, errs.NotFound)
			}
		}
		if a.Weight < 0 || a.Weight > 1 || (a.Additional == "") != (a.Weight == 0) {
			return fmt.Errorf("alias %s: a weight above 0 up to 1 goes with an additional version: %w", a.Name, errs.Invalid)
		}
		if old := r.alias(a.Name); old != nil {
			*old = a
		} else {
			r.Aliases = append(r.Aliases, a)
		}
		return nil
	})
}

// RemoveAlias deletes an alias.
func (h *Host) RemoveAlias(name, alias string) error {
	return h.change(name, func(r *record) error {
		if r.alias(alias) == nil {
			return fmt.Errorf("alias %s: %w", alias, errs.NotFound)
		}
		r.Aliases = slices.DeleteFunc(r.Aliases, func(a function.Alias) bool { return a.Name == alias })
		return nil
	})
}

// Info tells what is deployed under a name.
func (h *Host) Info(name string) (function.Deployed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.functions[name]
	if !ok {
		return function.Deployed{}, notDeployed(name)
	}
	out := function.Deployed{Latest: e.record.Latest, Versions: slices.Clone(e.record.Versions), Aliases: slices.Clone(e.record.Aliases)}
	for _, p := range e.pools {
		out.Instances += p.count()
	}
	return out, nil
}

// Names are the functions that are deployed.
func (h *Host) Names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.functions))
}

// Remove takes a function away, with its versions, aliases and log. Requests under way are let finish.
func (h *Host) Remove(name string) error {
	defer h.lock(name)()
	h.mu.Lock()
	e, ok := h.functions[name]
	delete(h.functions, name)
	h.mu.Unlock()
	if !ok {
		return notDeployed(name)
	}
	for _, p := range e.pools {
		p.drain()
	}
	err := e.log.close()
	for _, file := range []string{h.file(name), h.logFile(name)} {
		if e := os.Remove(file); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Tail gives the last lines of a function's log.
func (h *Host) Tail(name string, lines int) ([]string, error) {
	e, ok := h.entry(name)
	if !ok {
		return nil, notDeployed(name)
	}
	return e.log.tail(lines)
}

// route finds the instances that answer a request for a function under a qualifier: a version, or an alias, which may
// give a part of its requests to another version.
func (h *Host) route(name, qualifier string) (*pool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.functions[name]
	if !ok {
		return nil, notDeployed(name)
	}
	if qualifier == "" {
		qualifier = function.Latest
	}
	if a := e.record.alias(qualifier); a != nil {
		qualifier = a.Version
		if a.Additional != "" && rand.Float64() < a.Weight { //nolint:gosec // shares out requests, and guards nothing
			qualifier = a.Additional
		}
	}
	if p, ok := e.pools[qualifier]; ok {
		return p, nil
	}
	v := e.record.version(qualifier)
	if v == nil {
		return nil, fmt.Errorf("function %s: version or alias %s: %w", name, qualifier, errs.NotFound)
	}
	p := h.newPool(*v, e.log)
	e.pools[qualifier] = p
	return p, nil
}
