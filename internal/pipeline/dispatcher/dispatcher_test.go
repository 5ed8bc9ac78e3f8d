package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/dispatcher"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/store/sqlite"
	"slipway/internal/pipeline/supervisor"
)

// hands is where attempts run in these tests: they end when the test says so.
type hands struct {
	mu       sync.Mutex
	attempts map[store.Key]*supervisor.State
	launched []string
	killed   []string
	settled  []string
	twice    []string // launched a second time
	refuse   error
	// launch is called for each attempt, by default it runs on.
	launch func(k store.Key, s *supervisor.State)
}

var _ dispatcher.Hands = (*hands)(nil)

func plain(k store.Key) store.Key { k.Epoch = 0; return k }

func name(k store.Key) string { return fmt.Sprintf("%s.%d", k.Task, k.Number) }

func (h *hands) Launch(_ context.Context, a store.Attempt) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return h.refuse
	}
	h.launched = append(h.launched, name(a.Key))
	if h.attempts[plain(a.Key)] != nil {
		h.twice = append(h.twice, name(a.Key))
		return errors.New("it was launched before")
	}
	s := &supervisor.State{Alive: true, Begun: true}
	h.attempts[plain(a.Key)] = s
	if h.launch != nil {
		h.launch(a.Key, s)
	}
	return nil
}

func (h *hands) Look(k store.Key) (supervisor.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.attempts[plain(k)]; s != nil {
		return *s, nil
	}
	return supervisor.State{}, nil
}

func (h *hands) Cancel(k store.Key, o supervisor.CancelOrder) error {
	h.end(k, supervisor.Exit{Status: pipeline.Canceled, Class: o.Class, Error: o.Reason})
	return nil
}

func (h *hands) Kill(k store.Key) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killed = append(h.killed, name(k))
	h.attempts[plain(k)].Alive = false
	return nil
}

func (h *hands) Settle(_ context.Context, k store.Key) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settled = append(h.settled, name(k))
	return nil
}

func (h *hands) Stray() (keys []store.Key, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, s := range h.attempts {
		if s.Alive {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// end ends an attempt.
func (h *hands) end(k store.Key, e supervisor.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.attempts[plain(k)]
	s.Alive, s.Exit, s.Canceled = false, &e, e.Status == pipeline.Canceled
}

func succeeded() supervisor.Exit {
	return supervisor.Exit{Status: pipeline.Succeeded, Output: pipeline.Output{Digest: "d"}}
}

func failed(class pipeline.Class) supervisor.Exit {
	return supervisor.Exit{Status: pipeline.Failed, Class: class, Error: "it broke\nbadly", ExitCode: 1}
}

// fixture is a dispatcher on a store of its own.
type fixture struct {
	*testing.T
	db    *sqlite.DB
	hands *hands
	opts  dispatcher.Options
	d     *dispatcher.Dispatcher
	app   store.App
	gone  map[string]bool
	told  []string
}

func newFixture(t *testing.T, change ...func(*fixture)) *fixture {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "slipway.db"), sqlite.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{T: t, db: db, hands: &hands{attempts: map[store.Key]*supervisor.State{}}, gone: map[string]bool{}}
	f.opts = dispatcher.Options{
		Store: db, Hands: f.hands, Owner: "one", Now: time.Now, Slots: 10,
		Gone:    func(owner string) bool { return f.gone[owner] },
		Backoff: func(int) time.Duration { return 0 },
		Announce: func(c dispatcher.Change) []store.Message {
			f.told = append(f.told, strings.TrimSpace(c.Task+" "+string(c.Status)))
			return []store.Message{{Kind: "test", Run: c.Run.ID}}
		},
	}
	if f.app, err = db.CreateApp(t.Context(), store.App{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(f)
	}
	f.d = dispatcher.New(f.opts)
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// task is a task of a test's pipeline: "name", after others.
func task(name string, after ...string) pipeline.Task {
	return pipeline.Task{Name: name, Worker: "build-image", After: after}
}

// run makes a run of tasks.
func (f *fixture) run(tasks ...pipeline.Task) int64 {
	f.Helper()
	resolved, err := store.Encode(&pipeline.Pipeline{Name: "p", Tasks: tasks})
	f.must(err)
	n := store.NewRun{AppID: f.app.ID, Name: "p", Commit: store.Commit{Branch: "main"}, Spec: store.Spec{Resolved: resolved}}
	for _, t := range tasks {
		n.Tasks = append(n.Tasks, store.NewTask{Name: t.Name, Gate: t.Worker == "need-approval"})
	}
	r, err := f.db.CreateRun(f.Context(), n)
	f.must(err)
	return r.ID
}

func (f *fixture) pass() bool {
	f.Helper()
	busy, err := f.d.Pass(f.Context())
	f.must(err)
	return busy
}

// end ends the n-th attempt of a task.
func (f *fixture) end(run int64, task string, n int, e supervisor.Exit) {
	f.hands.end(store.Key{Run: run, Task: task, Number: n}, e)
}

// status checks the status of a run and its tasks.
func (f *fixture) status(run int64, want string) {
	f.Helper()
	r, err := f.db.Run(f.Context(), run)
	f.must(err)
	tasks, err := f.db.Tasks(f.Context(), run)
	f.must(err)
	got := string(r.Status)
	for _, t := range tasks {
		got += fmt.Sprintf(" %s:%s", t.Name, t.Status)
	}
	if got != want {
		f.Errorf("run %d is\n%s, want\n%s", run, got, want)
	}
}

func (f *fixture) get(run int64) store.Run {
	f.Helper()
	r, err := f.db.Run(f.Context(), run)
	f.must(err)
	return r
}

func (f *fixture) cancel(run int64) {
	f.Helper()
	f.must(f.db.RequestCancel(f.Context(), run, store.Cancel{By: "someone", Class: pipeline.ClassCanceled}))
}

func TestGraph(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	off := task("off", "left")
	off.Skip = "enable is not true"
	run := f.run(task("first"), task("left", "first"), task("right", "first"), off, task("last", "right", "off"))
	if !f.pass() {
		t.Error("a pass with a run to start says that nothing goes on")
	}
	f.status(run, "running first:running left:pending right:pending off:pending last:pending")
	f.end(run, "first", 1, succeeded())
	f.pass()
	f.status(run, "running first:succeeded left:running right:running off:pending last:pending")
	f.end(run, "right", 1, succeeded())
	f.pass()
	f.status(run, "running first:succeeded left:running right:succeeded off:pending last:pending")
	f.end(run, "left", 1, succeeded())
	f.pass()
	f.status(run, "running first:succeeded left:succeeded right:succeeded off:skipped last:running")
	f.end(run, "last", 1, succeeded())
	f.pass()
	f.status(run, "succeeded first:succeeded left:succeeded right:succeeded off:skipped last:succeeded")
	if f.pass() {
		t.Error("a pass with nothing to do says that something goes on")
	}
	want := []string{"first succeeded", "right succeeded", "left succeeded", "last succeeded", "succeeded"}
	if diff := cmp.Diff(want, f.told); diff != "" {
		t.Errorf("announced mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"first.1", "right.1", "left.1", "last.1"}, f.hands.settled); diff != "" {
		t.Errorf("settled mismatch (-want +got):\n%s", diff)
	}
	messages, err := f.db.Messages(t.Context(), store.MessageFilter{Run: run})
	f.must(err)
	if len(messages) != len(want) {
		t.Errorf("%d messages were stored, want %d", len(messages), len(want))
	}
}

func TestFailure(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.opts.Slots = 2 })
	off := task("off", "waits")
	off.Skip = "enable is not true"
	run := f.run(task("fails"), task("goes-on"), task("waits"), task("after", "fails"), off)
	f.pass()
	f.status(run, "running fails:running goes-on:running waits:queued after:pending off:pending")
	f.end(run, "fails", 1, failed(pipeline.ClassUser))
	f.pass()
	f.status(run, "running fails:failed goes-on:running waits:canceled after:canceled off:skipped")
	f.end(run, "goes-on", 1, succeeded())
	f.pass()
	f.status(run, "failed fails:failed goes-on:succeeded waits:canceled after:canceled off:skipped")
	if r := f.get(run); r.Class != pipeline.ClassUser || r.Reason != "task fails: it broke" {
		t.Errorf("the run failed with %q, %q", r.Class, r.Reason)
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		retries int
		class   pipeline.Class
		want    string
	}{
		{"infrastructure", 1, pipeline.ClassInfrastructure, "running t:running"},
		{"infrastructure, no retries", 0, pipeline.ClassInfrastructure, "failed t:failed"},
		{"the user's", 1, pipeline.ClassUser, "failed t:failed"},
		{"a limit", 1, pipeline.ClassLimit, "failed t:failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			it := task("t")
			it.Retries = tt.retries
			run := f.run(it)
			f.pass()
			f.end(run, "t", 1, failed(tt.class))
			f.pass()
			f.status(run, tt.want)
			if tt.want == "running t:running" {
				f.end(run, "t", 2, failed(tt.class))
				f.pass()
				f.status(run, "failed t:failed")
			}
		})
	}
}

func TestLaunchFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.hands.refuse = errs.Mark(errors.New("the secret KEY is gone"), errs.NotFound)
	run := f.run(task("t"))
	f.pass()
	f.pass()
	f.status(run, "failed t:failed")
	if r := f.get(run); r.Class != pipeline.ClassConfiguration {
		t.Errorf("the run failed with class %q", r.Class)
	}

	f.hands.refuse = errors.New("no more processes")
	run = f.run(task("t"))
	for range 10 { // each pass tries again
		f.pass()
	}
	f.status(run, "failed t:failed")
	attempts, err := f.db.Attempts(t.Context(), run, "t")
	f.must(err)
	if len(attempts) != 4 {
		t.Errorf("there were %d attempts, want 4", len(attempts))
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.opts.Slots = 1 })
	running := f.run(task("a"), task("b"), task("c", "a"))
	f.pass()
	waiting := f.run(task("a"))
	f.app.Concurrency = 1
	_, err := f.db.UpdateApp(t.Context(), f.app)
	f.must(err)
	queued := f.run(task("a"))
	for _, id := range []int64{running, waiting, queued} {
		f.cancel(id)
	}
	f.pass() // the attempt is asked to end
	f.pass() // and has ended
	f.status(running, "canceled a:canceled b:canceled c:canceled")
	f.status(waiting, "canceled a:canceled")
	f.status(queued, "canceled a:canceled")
	if r := f.get(running); r.Class != pipeline.ClassCanceled || r.Reason != "canceled by someone" {
		t.Errorf("the run was canceled with %q, %q", r.Class, r.Reason)
	}
	attempts, err := f.db.Attempts(t.Context(), running, "a")
	f.must(err)
	if attempts[0].Error != "canceled by someone" {
		t.Errorf("the attempt was canceled with %q", attempts[0].Error)
	}
}

func TestCancelBetweenAttempts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.opts.Backoff = func(int) time.Duration { return time.Hour } })
	it := task("t")
	it.Retries = 1
	run := f.run(it)
	f.pass()
	f.end(run, "t", 1, failed(pipeline.ClassInfrastructure))
	f.pass()
	f.status(run, "running t:running")
	f.cancel(run)
	f.pass()
	f.status(run, "canceled t:canceled")
}

// TestSuccessBeatsCancel: what had succeeded before it could be ended has succeeded.
func TestSuccessBeatsCancel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.run(task("t"))
	f.pass()
	f.end(run, "t", 1, succeeded())
	f.cancel(run)
	f.pass()
	f.status(run, "succeeded t:succeeded")
}

func TestGate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	gate := pipeline.Task{Name: "gate", Worker: "need-approval"}
	yes, no := f.run(gate, task("t", "gate")), f.run(gate, task("t", "gate"))
	f.pass()
	f.pass()
	f.status(yes, "running gate:queued t:pending")
	f.must(f.db.Decide(t.Context(), yes, "gate", store.Decision{Approved: true, By: "someone"}))
	f.must(f.db.Decide(t.Context(), no, "gate", store.Decision{By: "someone"}))
	f.pass()
	f.status(yes, "running gate:succeeded t:running")
	f.status(no, "failed gate:failed t:canceled")
	if r := f.get(no); r.Class != pipeline.ClassUser || r.Reason != "task gate: rejected by someone" {
		t.Errorf("the run failed with %q, %q", r.Class, r.Reason)
	}
}

func TestLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	often := task("t")
	often.Retries = 1
	once, twice := f.run(task("t")), f.run(often)
	f.pass()
	f.must(f.hands.Kill(store.Key{Run: once, Task: "t", Number: 1}))
	f.must(f.hands.Kill(store.Key{Run: twice, Task: "t", Number: 1}))
	f.pass()
	f.status(once, "failed t:failed")
	f.status(twice, "running t:running")
	if r := f.get(once); r.Class != pipeline.ClassInfrastructure || !strings.Contains(r.Reason, "vanished") {
		t.Errorf("the run failed with %q, %q", r.Class, r.Reason)
	}

	// An attempt that was claimed and never began is tried again, whatever the task says of retries.
	never := f.run(task("t"))
	f.hands.launch = func(_ store.Key, s *supervisor.State) { *s = supervisor.State{} }
	f.pass()
	f.hands.launch = nil
	f.pass()
	f.status(never, "running t:running")
	if !slices.Contains(f.hands.launched, "t.2") {
		t.Errorf("launched %v", f.hands.launched)
	}
}

func TestSilent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.run(task("t"))
	f.pass()
	f.hands.attempts[store.Key{Run: run, Task: "t", Number: 1}].Silent = 2 * time.Minute
	f.pass()
	f.pass()
	f.status(run, "failed t:failed")
	if diff := cmp.Diff([]string{"t.1"}, f.hands.killed); diff != "" {
		t.Errorf("killed mismatch (-want +got):\n%s", diff)
	}
}

// other returns a dispatcher beside the first.
func (f *fixture) other(owner string, change ...func(*dispatcher.Options)) *dispatcher.Dispatcher {
	o := f.opts
	o.Owner = owner
	for _, c := range change {
		c(&o)
	}
	return dispatcher.New(o)
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	pass := func(f *fixture, d *dispatcher.Dispatcher) {
		f.Helper()
		_, err := d.Pass(f.Context())
		f.must(err)
	}
	t.Run("not from one that is there", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.run(task("t"))
		f.pass()
		f.end(run, "t", 1, succeeded())
		pass(f, f.other("two"))
		f.status(run, "running t:running")
		f.pass()
		f.status(run, "succeeded t:succeeded")
	})
	t.Run("from one that is gone", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.run(task("t"))
		f.pass()
		f.gone["one"] = true
		two := f.other("two")
		pass(f, two)
		held, err := f.db.Held(t.Context())
		f.must(err)
		if len(held) != 1 || held[0].Owner != "two" || held[0].Epoch != 2 {
			t.Fatalf("held is %+v", held)
		}
		// The first one was only asleep: it must not end what is not its own any more.
		f.end(run, "t", 1, succeeded())
		f.gone["one"] = false
		f.pass()
		f.status(run, "running t:running")
		pass(f, two)
		f.status(run, "succeeded t:succeeded")
	})
	t.Run("when the lease has passed", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t, func(f *fixture) { f.opts.Lease = time.Nanosecond })
		run := f.run(task("t"))
		f.pass()
		f.end(run, "t", 1, succeeded())
		for f.get(run).Status == pipeline.Running { // a lease has passed when the clock has moved on
			pass(f, f.other("two"))
		}
		f.status(run, "succeeded t:succeeded")
	})
}

func TestStray(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.run(task("t"))
	f.hands.attempts[store.Key{Run: 99, Task: "old", Number: 1}] = &supervisor.State{Alive: true}
	f.pass()
	f.status(run, "running t:running")
	if diff := cmp.Diff([]string{"old.1"}, f.hands.killed); diff != "" {
		t.Errorf("killed mismatch (-want +got):\n%s", diff)
	}
}

// TestSetAside: a run that cannot be understood ends, and holds nobody up.
func TestSetAside(t *testing.T) {
	t.Parallel()
	for name, resolved := range map[string]string{
		"no JSON":          "{",
		"another form":     `{"form":1000,"pipeline":{}}`,
		"tasks without":    `{"form":1,"pipeline":{"Tasks":[]}}`,
		"a task unknown":   `{"form":1,"pipeline":{"Tasks":[{"Name":"other"}]}}`,
		"a self reference": `{"form":1,"pipeline":{"Tasks":[{"Name":"t","After":["t"]}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			r, err := f.db.CreateRun(t.Context(), store.NewRun{
				AppID: f.app.ID, Spec: store.Spec{Resolved: resolved}, Tasks: []store.NewTask{{Name: "t"}},
			})
			f.must(err)
			good := f.run(task("t"))
			for range 5 {
				f.pass()
			}
			f.status(good, "running t:running")
			f.status(r.ID, "failed t:canceled")
			if r := f.get(r.ID); r.Class != pipeline.ClassInfrastructure || !strings.Contains(r.Reason, "set aside") {
				t.Errorf("it ended with %q, %q", r.Class, r.Reason)
			}
		})
	}
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.opts.Pace = time.Hour })
	f.hands.launch = func(_ store.Key, s *supervisor.State) {
		exit := succeeded()
		*s = supervisor.State{Begun: true, Exit: &exit}
	}
	f.d.Stop() // before it was started
	d := f.other("two", func(o *dispatcher.Options) { o.Announce = nil })
	d.Start(t.Context())
	run := f.run(task("t"))
	for f.get(run).Status != pipeline.Succeeded {
		d.Wake()
		time.Sleep(time.Millisecond)
	}
	d.Stop()
	d.Stop()
}

// TestTogether has several dispatchers on one database, which come and go at any moment, and attempts that end, fail and
// vanish. However that goes, every run ends, and nothing is launched twice.
func TestTogether(t *testing.T) {
	t.Parallel()
	const runs, dispatchers = 6, 3
	f := newFixture(t, func(f *fixture) { f.opts.Announce = nil; f.opts.Slots = 4 })
	f.hands.launch = func(_ store.Key, s *supervisor.State) {
		exit := succeeded()
		switch rand.IntN(6) {
		case 0:
			*s = supervisor.State{Begun: true} // vanished
		case 1:
			*s = supervisor.State{} // never began
		case 2:
			exit = failed(pipeline.ClassInfrastructure)
			fallthrough
		default:
			*s = supervisor.State{Begun: true, Exit: &exit}
		}
	}
	var ids []int64
	for range runs {
		a, b, c, d := task("a"), task("b", "a"), task("c", "a"), task("d", "b", "c")
		for _, t := range []*pipeline.Task{&a, &b, &c, &d} {
			t.Retries = 2
		}
		ids = append(ids, f.run(a, b, c, d))
	}
	var mu sync.Mutex
	generation, gone := 0, map[string]bool{}
	var group sync.WaitGroup
	for range dispatchers {
		group.Go(func() {
			for life := 20; ; life += 20 { // longer with each, so that a slow machine gets there, too
				mu.Lock()
				generation++
				owner := fmt.Sprintf("d%d", generation)
				mu.Unlock()
				d := f.other(owner, func(o *dispatcher.Options) {
					o.Gone = func(owner string) bool { mu.Lock(); defer mu.Unlock(); return gone[owner] }
				})
				for range 1 + rand.IntN(3) {
					// It dies in the middle of a pass: the context takes away the database at a random moment.
					ctx, die := context.WithTimeoutCause(t.Context(), time.Duration(rand.IntN(life))*time.Millisecond, errs.Canceled)
					busy, err := d.Pass(ctx)
					dead := ctx.Err() != nil
					die()
					if dead {
						break
					}
					if err != nil && !errors.Is(err, errs.Unavailable) {
						t.Error(err)
						return
					}
					if !busy {
						return
					}
				}
				mu.Lock()
				gone[owner] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(f.hands.twice) > 0 {
		t.Errorf("launched twice: %v", f.hands.twice)
	}
	for _, id := range ids {
		if r := f.get(id); !r.Status.Terminal() {
			t.Errorf("run %d is %s", id, r.Status)
		}
		attempts, err := f.db.Attempts(t.Context(), id, "")
		f.must(err)
		for _, a := range attempts {
			if !a.Status.Terminal() {
				t.Errorf("attempt %s of run %d is %s", name(a.Key), id, a.Status)
			}
		}
		tasks, err := f.db.Tasks(t.Context(), id)
		f.must(err)
		for _, it := range tasks {
			if !it.Status.Terminal() {
				t.Errorf("task %s of run %d is %s", it.Name, id, it.Status)
			}
		}
	}
}
