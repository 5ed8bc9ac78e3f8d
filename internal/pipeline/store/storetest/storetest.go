// Package storetest is the contract of store.Store as a test suite: every driver passes it.
//
// Nothing in it waits: leases of less than no time have passed when they are given.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

// Leases for claims: one that nobody sees the end of, and one that has passed already.
const (
	long = time.Hour
	past = -time.Hour
)

// Test runs the suite. open returns an empty store of its own for each case.
func Test(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *fixture){
		"apps":                             apps,
		"an app with runs":                 busyApp,
		"variables":                        variables,
		"a run from its making to its end": lifecycle,
		"moves":                            moves,
		"a repetition takes over":          takenOver,
		"lists of runs":                    lists,
		"order and slots":                  claims,
		"concurrency of an app":            concurrency,
		"many claim at once":               manyClaims,
		"a stale epoch is refused":         fencing,
		"leases":                           leases,
		"another attempt":                  retries,
		"cancel":                           cancel,
		"supersede":                        supersede,
		"gates":                            gates,
		"events":                           events,
		"logs":                             logs,
		"inbox":                            inbox,
		"outbox":                           outbox,
		"an outbox with a change":          outboxWithChange,
		"secrets":                          secrets,
		"tokens":                           tokens,
		"audit log":                        audit,
		"retention":                        retention,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &fixture{T: t, Store: open(t)})
		})
	}
}

// fixture is a store with short words for what tests do with one.
type fixture struct {
	*testing.T
	store.Store
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// want checks the kind of an error.
func (f *fixture) want(err, kind error) {
	f.Helper()
	if !errors.Is(err, kind) {
		f.Errorf("got error %v, want one of kind %v", err, kind)
	}
}

func (f *fixture) diff(what string, want, got any) {
	f.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("%s mismatch (-want +got):\n%s", what, diff)
	}
}

func (f *fixture) ctx() context.Context { return f.Context() }

func (f *fixture) app(name string, change ...func(*store.App)) store.App {
	f.Helper()
	a := store.App{Name: name, Source: store.Source{Kind: "git", URL: "https://example.com/" + name + ".git"}, PipelinePath: "cicd.yaml"}
	for _, c := range change {
		c(&a)
	}
	a, err := f.CreateApp(f.ctx(), a)
	f.must(err)
	return a
}

// run makes a queued run with tasks of these names, in a line.
func (f *fixture) run(a store.App, tasks ...string) store.Run {
	f.Helper()
	r, err := f.CreateRun(f.ctx(), newRun(a, tasks...))
	f.must(err)
	return r
}

func newRun(a store.App, tasks ...string) store.NewRun {
	r := store.NewRun{
		AppID: a.ID, Name: "run", Cause: store.Cause{Kind: "manual", Actor: "someone"},
		Commit: store.Commit{ID: "0123456789abcdef0123456789abcdef01234567", Branch: "main", Message: "a change", Author: "someone"},
	}
	var after []string
	for _, name := range tasks {
		r.Tasks = append(r.Tasks, store.NewTask{Name: name, Template: "build-image-task", After: after})
		after = []string{name}
	}
	return r
}

// started makes a run that goes on, with its tasks queued.
func (f *fixture) started(a store.App, tasks ...string) store.Run {
	f.Helper()
	made := f.run(a, tasks...)
	r, err := f.StartRun(f.ctx())
	f.must(err)
	if r.ID != made.ID {
		f.Fatalf("run %d was started, want %d", r.ID, made.ID)
	}
	for _, name := range tasks {
		f.must(f.Apply(f.ctx(), r.ID, []store.Move{{Task: name, From: pipeline.Pending, To: pipeline.Queued}}))
	}
	return r
}

func (f *fixture) claim(owner string, lease time.Duration) store.Attempt {
	f.Helper()
	a, err := f.Claim(f.ctx(), store.ClaimOptions{Owner: owner, Lease: lease, Slots: 100})
	f.must(err)
	return a
}

// status is a run's, followed by those of its tasks.
func (f *fixture) status(run int64) string {
	f.Helper()
	r, err := f.Run(f.ctx(), run)
	f.must(err)
	tasks, err := f.Tasks(f.ctx(), run)
	f.must(err)
	text := string(r.Status)
	for _, t := range tasks {
		text += fmt.Sprintf(" %s:%s", t.Name, t.Status)
	}
	return text
}

func succeeded() store.Result {
	return store.Result{Status: pipeline.Succeeded, Output: pipeline.Output{Image: "r/i:t", Digest: "sha256:1", Also: []string{"r/i:u"}}, Retry: store.NoRetry}
}

func failed(retry time.Duration) store.Result {
	return store.Result{Status: pipeline.Failed, Class: pipeline.ClassInfrastructure, Error: "it broke", Hint: "mend it", ExitCode: 3, Retry: retry}
}

// Run hides testing.T's.
func (f *fixture) Run(ctx context.Context, id int64) (store.Run, error) { return f.Store.Run(ctx, id) }

func apps(_ *testing.T, f *fixture) {
	a := f.app("shop", func(a *store.App) { a.Concurrency, a.Supersede, a.KeepRuns = 2, true, 10 })
	if a.ID == 0 || a.Version != 1 || a.CreatedAt.IsZero() {
		f.Errorf("CreateApp returned %+v", a)
	}
	_, err := f.CreateApp(f.ctx(), store.App{Name: "shop"})
	f.want(err, errs.Exists)
	got, err := f.App(f.ctx(), "shop")
	f.must(err)
	f.diff("App", a, got)
	_, err = f.App(f.ctx(), "none")
	f.want(err, errs.NotFound)

	a.Description, a.PipelineText = "sells", "kind: Pipeline"
	changed, err := f.UpdateApp(f.ctx(), a)
	f.must(err)
	if changed.Version != 2 || changed.PipelineText != a.PipelineText {
		f.Errorf("UpdateApp returned %+v", changed)
	}
	_, err = f.UpdateApp(f.ctx(), a) // still version 1
	f.want(err, errs.Conflict)
	_, err = f.UpdateApp(f.ctx(), store.App{Name: "none", Version: 1})
	f.want(err, errs.NotFound)

	f.app("another")
	all, err := f.Apps(f.ctx())
	f.must(err)
	if len(all) != 2 || all[0].Name != "another" || all[1].Name != "shop" {
		f.Errorf("Apps returned %+v", all)
	}
	f.must(f.DeleteApp(f.ctx(), "another"))
	f.want(f.DeleteApp(f.ctx(), "another"), errs.NotFound)
}

func busyApp(_ *testing.T, f *fixture) {
	a := f.app("shop")
	r := f.run(a, "build")
	_, err := f.PutSecret(f.ctx(), store.AppScope("shop"), "KEY", "someone", func(int64) ([]byte, error) { return []byte("sealed"), nil })
	f.must(err)
	f.want(f.DeleteApp(f.ctx(), "shop"), errs.Conflict)
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{
		{Task: "build", From: pipeline.Pending, To: pipeline.Canceled},
		{From: pipeline.Queued, To: pipeline.Canceled},
	}))
	f.must(f.DeleteApp(f.ctx(), "shop"))
	_, err = f.Run(f.ctx(), r.ID)
	f.want(err, errs.NotFound)
	_, err = f.Secret(f.ctx(), store.SecretVersion{Scope: store.AppScope("shop"), Name: "KEY"})
	f.want(err, errs.NotFound)
}

func variables(_ *testing.T, f *fixture) {
	a := f.app("shop")
	f.must(f.SetVariable(f.ctx(), a.ID, "B", "1"))
	f.must(f.SetVariable(f.ctx(), a.ID, "A", "2"))
	f.must(f.SetVariable(f.ctx(), a.ID, "B", "3"))
	got, err := f.Variables(f.ctx(), a.ID)
	f.must(err)
	var text string
	for _, v := range got {
		text += v.Name + "=" + v.Value + " "
	}
	f.diff("Variables", "A=2 B=3 ", text)
	f.must(f.DeleteVariable(f.ctx(), a.ID, "A"))
	f.want(f.DeleteVariable(f.ctx(), a.ID, "A"), errs.NotFound)
	if f.SetVariable(f.ctx(), a.ID+1, "A", "1") == nil {
		f.Error("a variable of no app was stored")
	}
}

func lifecycle(_ *testing.T, f *fixture) {
	a := f.app("shop")
	n := newRun(a, "build", "deploy")
	n.Spec = store.Spec{
		Written: "kind: Pipeline", Resolved: `{"form":1}`, Variables: map[string]string{"appName": "shop"},
		Secrets: []store.SecretVersion{{Scope: "global", Name: "KEY", Version: 2}},
	}
	r, err := f.CreateRun(f.ctx(), n)
	f.must(err)
	if r.App != "shop" || r.Status != pipeline.Queued || r.Commit != n.Commit || r.Cause != n.Cause || r.CreatedAt.IsZero() || !r.StartedAt.IsZero() {
		f.Errorf("CreateRun returned %+v", r)
	}
	spec, err := f.Spec(f.ctx(), r.ID)
	f.must(err)
	f.diff("Spec", n.Spec, spec)
	f.diff("status", "queued build:pending deploy:pending", f.status(r.ID))

	_, err = f.StartRun(f.ctx())
	f.must(err)
	_, err = f.StartRun(f.ctx())
	f.want(err, errs.NotFound)
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{{Task: "build", From: pipeline.Pending, To: pipeline.Queued}}))
	f.diff("status", "running build:queued deploy:pending", f.status(r.ID))
	attempt := f.claim("a", long)
	if attempt.Run != r.ID || attempt.Task != "build" || attempt.Number != 1 || attempt.Epoch != 1 || attempt.Owner != "a" {
		f.Errorf("Claim returned %+v", attempt)
	}
	f.diff("status", "running build:running deploy:pending", f.status(r.ID))
	f.must(f.Finish(f.ctx(), attempt.Key, succeeded()))
	f.want(f.Finish(f.ctx(), attempt.Key, succeeded()), errs.Conflict)

	f.want(f.Apply(f.ctx(), r.ID, []store.Move{{From: pipeline.Running, To: pipeline.Succeeded}}), errs.Conflict) // deploy is not over
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{
		{Task: "deploy", From: pipeline.Pending, To: pipeline.Skipped, Reason: "it is off"},
		{From: pipeline.Running, To: pipeline.Succeeded},
	}))
	f.diff("status", "succeeded build:succeeded deploy:skipped", f.status(r.ID))
	tasks, err := f.Tasks(f.ctx(), r.ID)
	f.must(err)
	build, deploy := tasks[0], tasks[1]
	f.diff("the task's output", succeeded().Output, build.Output)
	if build.Attempts != 1 || build.QueuedAt.IsZero() || build.StartedAt.IsZero() || build.FinishedAt.IsZero() {
		f.Errorf("the task is %+v", build)
	}
	if deploy.Reason != "it is off" || cmp.Diff([]string{"build"}, deploy.After) != "" || deploy.DisplayName != "deploy" {
		f.Errorf("the skipped task is %+v", deploy)
	}
	r, err = f.Run(f.ctx(), r.ID)
	f.must(err)
	if r.StartedAt.IsZero() || r.FinishedAt.IsZero() || r.Seq == 0 {
		f.Errorf("the run is %+v", r)
	}
	_, err = f.Run(f.ctx(), r.ID+1)
	f.want(err, errs.NotFound)
	_, err = f.Spec(f.ctx(), r.ID+1)
	f.want(err, errs.NotFound)
}

func moves(_ *testing.T, f *fixture) {
	r := f.run(f.app("shop"), "a", "b")
	before, err := f.Run(f.ctx(), r.ID)
	f.must(err)
	for _, m := range [][]store.Move{
		{{Task: "a", From: pipeline.Pending, To: pipeline.Running}},                                                                // the table forbids it
		{{Task: "a", From: pipeline.Queued, To: pipeline.Running}},                                                                 // it is not queued
		{{Task: "none", From: pipeline.Pending, To: pipeline.Queued}},                                                              //
		{{From: pipeline.Running, To: pipeline.Failed}},                                                                            //
		{{Task: "a", From: pipeline.Pending, To: pipeline.Queued}, {Task: "b", From: pipeline.Queued, To: pipeline.Canceled}},      // the second one
		{{Task: "a", From: pipeline.Pending, To: pipeline.Canceled}, {From: pipeline.Queued, To: pipeline.Canceled}},               // b is not over
		{{Task: "a", From: pipeline.Pending, To: pipeline.Queued}, {Task: "a", From: pipeline.Pending, To: pipeline.Queued}},       // twice
		{{Task: "a", From: pipeline.Pending, To: pipeline.Canceled}, {Task: "a", From: pipeline.Canceled, To: pipeline.Succeeded}}, // after the end
	} {
		f.want(f.Apply(f.ctx(), r.ID, m), errs.Conflict)
	}
	after, err := f.Run(f.ctx(), r.ID)
	f.must(err)
	f.diff("a refused move left something:", before, after)
	f.diff("status", "queued a:pending b:pending", f.status(r.ID))
}

func takenOver(_ *testing.T, f *fixture) {
	a := f.app("shop")
	first := f.run(a, "build")
	n := newRun(a, "build", "deploy")
	n.Parent, n.Mode = first.ID, store.RepeatFailed
	n.Tasks[0].Done, n.Tasks[0].From, n.Tasks[0].Output = true, first.ID, pipeline.Output{Image: "i", Digest: "d"}
	r, err := f.CreateRun(f.ctx(), n)
	f.must(err)
	if r.Parent != first.ID || r.Mode != store.RepeatFailed {
		f.Errorf("CreateRun returned %+v", r)
	}
	f.diff("status", "queued build:succeeded deploy:pending", f.status(r.ID))
	tasks, err := f.Tasks(f.ctx(), r.ID)
	f.must(err)
	if tasks[0].From != first.ID || tasks[0].Output.Digest != "d" || tasks[0].Attempts != 0 {
		f.Errorf("the task that was taken over is %+v", tasks[0])
	}
}

func lists(_ *testing.T, f *fixture) {
	shop, blog := f.app("shop"), f.app("blog")
	var ids []int64
	for i := range 6 {
		n := newRun(shop, "build")
		if i%2 == 1 {
			n = newRun(blog, "build")
		}
		if i >= 4 {
			n.Commit.Branch = "feature"
		}
		r, err := f.CreateRun(f.ctx(), n)
		f.must(err)
		ids = append(ids, r.ID)
	}
	f.must(f.Apply(f.ctx(), ids[0], []store.Move{
		{Task: "build", From: pipeline.Pending, To: pipeline.Canceled}, {From: pipeline.Queued, To: pipeline.Canceled},
	}))
	for name, tt := range map[string]struct {
		filter store.RunFilter
		want   []int // indices of ids
	}{
		"all":            {store.RunFilter{}, []int{5, 4, 3, 2, 1, 0}},
		"a page":         {store.RunFilter{Limit: 2}, []int{5, 4}},
		"the next page":  {store.RunFilter{Limit: 2, Before: ids[4]}, []int{3, 2}},
		"an app":         {store.RunFilter{App: "shop"}, []int{4, 2, 0}},
		"a branch":       {store.RunFilter{App: "shop", Branch: "main"}, []int{2, 0}},
		"a status":       {store.RunFilter{Status: []pipeline.Status{pipeline.Canceled}}, []int{0}},
		"two statuses":   {store.RunFilter{Status: []pipeline.Status{pipeline.Canceled, pipeline.Queued}, Limit: 3}, []int{5, 4, 3}},
		"an app's":       {store.RunFilter{App: "shop", Status: []pipeline.Status{pipeline.Queued}}, []int{4, 2}},
		"a branch's":     {store.RunFilter{App: "shop", Branch: "main", Status: []pipeline.Status{pipeline.Queued}}, []int{2}},
		"apps":           {store.RunFilter{Apps: []string{"blog", "shop"}, Limit: 3}, []int{5, 4, 3}},
		"an app of some": {store.RunFilter{App: "blog", Apps: []string{"blog"}}, []int{5, 3, 1}},
		"another app":    {store.RunFilter{App: "shop", Apps: []string{"blog"}}, nil},
		"none to see":    {store.RunFilter{Apps: []string{}}, nil},
	} {
		runs, err := f.Runs(f.ctx(), tt.filter)
		f.must(err)
		var want, got []int64
		for _, i := range tt.want {
			want = append(want, ids[i])
		}
		for _, r := range runs {
			got = append(got, r.ID)
		}
		f.diff(name, want, got)
	}
}

func retention(_ *testing.T, f *fixture) {
	a := f.app("shop")
	var ids []int64
	for range 4 {
		r := f.run(a)
		f.must(f.Apply(f.ctx(), r.ID, []store.Move{{From: pipeline.Queued, To: pipeline.Canceled}}))
		ids = append(ids, r.ID)
	}
	open := f.run(a)
	got, err := f.Expendable(f.ctx(), a.ID, 2, 0, 10)
	f.must(err)
	f.diff("beyond the newest two", ids[:2], got)
	got, err = f.Expendable(f.ctx(), a.ID, 0, 0, 10)
	f.must(err)
	f.diff("without bounds", []int64(nil), got)
	got, err = f.Expendable(f.ctx(), a.ID, 1, long, 1)
	f.must(err)
	f.diff("beyond the newest one, one at a time", ids[:1], got)

	f.want(f.DeleteRun(f.ctx(), open.ID), errs.Conflict)
	f.must(f.DeleteRun(f.ctx(), ids[0]))
	f.want(f.DeleteRun(f.ctx(), ids[0]), errs.NotFound)
	left, err := f.Events(f.ctx(), ids[0], 0, 10)
	f.must(err)
	if len(left) > 0 {
		f.Errorf("%d events of a deleted run are left", len(left))
	}
}
