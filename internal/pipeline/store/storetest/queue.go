package storetest

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

func claims(_ *testing.T, f *fixture) {
	a := f.app("shop")
	first, second := f.started(a, "a", "b"), f.started(a, "c")
	options := store.ClaimOptions{Owner: "o", Lease: long, Slots: 2}
	var got []string
	for range 2 {
		at, err := f.Claim(f.ctx(), options)
		f.must(err)
		got = append(got, at.Task)
	}
	f.diff("the order of claims", []string{"a", "b"}, got)
	_, err := f.Claim(f.ctx(), options)
	f.want(err, errs.NotFound) // both slots are taken
	u, err := f.Usage(f.ctx())
	f.must(err)
	f.diff("Usage.Running", map[int64][]int64{a.ID: {first.ID, second.ID}}, u.Running)
	f.diff("Usage.Attempts", []store.Key{{Run: first.ID, Task: "a", Number: 1, Epoch: 1}, {Run: first.ID, Task: "b", Number: 1, Epoch: 1}}, u.Attempts)
	f.must(f.Finish(f.ctx(), u.Attempts[0], succeeded()))
	at, err := f.Claim(f.ctx(), options)
	f.must(err)
	f.diff("the next claim", "c", at.Task)
}

func concurrency(_ *testing.T, f *fixture) {
	one := f.app("one", func(a *store.App) { a.Concurrency = 1 })
	free := f.app("free")
	first, second := f.run(one, "t"), f.run(one, "t")
	third := f.run(free, "t")
	for _, want := range []int64{first.ID, third.ID} { // the second has to wait and holds up nobody else
		r, err := f.StartRun(f.ctx())
		f.must(err)
		f.diff("StartRun", want, r.ID)
	}
	_, err := f.StartRun(f.ctx())
	f.want(err, errs.NotFound)
	f.must(f.Apply(f.ctx(), first.ID, []store.Move{
		{Task: "t", From: pipeline.Pending, To: pipeline.Canceled}, {From: pipeline.Running, To: pipeline.Canceled},
	}))
	r, err := f.StartRun(f.ctx())
	f.must(err)
	f.diff("StartRun", second.ID, r.ID)
}

// manyClaims has many claim at once: every attempt goes to one of them, and never more are out than there are slots.
func manyClaims(_ *testing.T, f *fixture) {
	const runs, claimers, slots = 20, 8, 3
	a := f.app("shop")
	for range runs {
		f.started(a, "t")
	}
	var mu sync.Mutex
	claimed, out := map[int64]int{}, 0
	var group sync.WaitGroup
	for range claimers {
		group.Go(func() {
			for done := false; !done; {
				at, err := f.Claim(f.ctx(), store.ClaimOptions{Owner: "o", Lease: long, Slots: slots})
				if errors.Is(err, errs.NotFound) {
					mu.Lock()
					done = len(claimed) == runs
					mu.Unlock()
					continue
				}
				if err != nil {
					f.Error(err)
					return
				}
				mu.Lock()
				claimed[at.Run]++
				if out++; out > slots {
					f.Errorf("%d attempts are out, there are %d slots", out, slots)
				}
				out-- // before the slot is free for others
				mu.Unlock()
				if err := f.Finish(f.ctx(), at.Key, succeeded()); err != nil {
					f.Error(err)
				}
			}
		})
	}
	group.Wait()
	for run, n := range claimed {
		if n != 1 {
			f.Errorf("run %d was claimed %d times", run, n)
		}
	}
}

func fencing(_ *testing.T, f *fixture) {
	f.started(f.app("shop"), "t")
	old := f.claim("one", past).Key
	current, err := f.Adopt(f.ctx(), old, store.ClaimOptions{Owner: "two", Lease: long})
	f.must(err)
	if current.Epoch <= old.Epoch {
		f.Errorf("Adopt returned epoch %d after %d", current.Epoch, old.Epoch)
	}
	f.want(f.Finish(f.ctx(), old, succeeded()), errs.Conflict)
	_, err = f.Adopt(f.ctx(), old, store.ClaimOptions{Owner: "three", Lease: long})
	f.want(err, errs.Conflict)
	lost, err := f.Renew(f.ctx(), long, []store.Key{old, current})
	f.must(err)
	f.diff("what Renew found lost", []store.Key{old}, lost)
	f.diff("status", "running t:running", f.status(old.Run))
	f.must(f.Finish(f.ctx(), current, succeeded()))
	lost, err = f.Renew(f.ctx(), long, []store.Key{current})
	f.must(err)
	f.diff("what Renew found lost after the end", []store.Key{current}, lost)
	_, err = f.Adopt(f.ctx(), current, store.ClaimOptions{Owner: "three", Lease: long})
	f.want(err, errs.Conflict)
}

func leases(_ *testing.T, f *fixture) {
	f.started(f.app("shop"), "a", "b")
	gone, here := f.claim("one", past), f.claim("one", long)
	expired := func() map[string]bool {
		held, err := f.Held(f.ctx())
		f.must(err)
		out := map[string]bool{}
		for _, h := range held {
			out[h.Task] = h.Expired
		}
		return out
	}
	f.diff("expired", map[string]bool{gone.Task: true, here.Task: false}, expired())
	lost, err := f.Renew(f.ctx(), long, []store.Key{gone.Key}) // late, but nobody took it
	f.must(err)
	f.diff("what Renew found lost", []store.Key(nil), lost)
	f.diff("expired after renewal", map[string]bool{gone.Task: false, here.Task: false}, expired())
}

func retries(_ *testing.T, f *fixture) {
	r := f.started(f.app("shop"), "t")
	first := f.claim("o", long)
	f.must(f.Finish(f.ctx(), first.Key, failed(0)))
	f.diff("status", "running t:running", f.status(r.ID)) // the task goes on
	second := f.claim("o", long)
	if second.Number != 2 || second.Task != "t" {
		f.Errorf("after a failed attempt came %+v", second.Key)
	}
	f.must(f.Finish(f.ctx(), second.Key, failed(long)))
	_, err := f.Claim(f.ctx(), store.ClaimOptions{Owner: "o", Lease: long, Slots: 9})
	f.want(err, errs.NotFound) // the third has to wait
	attempts, err := f.Attempts(f.ctx(), r.ID, "t")
	f.must(err)
	var got []pipeline.Status
	for _, a := range attempts {
		got = append(got, a.Status)
	}
	f.diff("attempts", []pipeline.Status{pipeline.Failed, pipeline.Failed, pipeline.Queued}, got)
	if a := attempts[0]; a.Error != "it broke" || a.Hint != "mend it" || a.ExitCode != 3 || a.Class != pipeline.ClassInfrastructure {
		f.Errorf("the failed attempt is %+v", a)
	}

	f.must(f.RequestCancel(f.ctx(), r.ID, store.Cancel{By: "someone", Class: pipeline.ClassCanceled}))
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{
		{Task: "t", From: pipeline.Running, To: pipeline.Canceled, Class: pipeline.ClassCanceled},
		{From: pipeline.Running, To: pipeline.Canceled, Class: pipeline.ClassCanceled},
	}))
	attempts, err = f.Attempts(f.ctx(), r.ID, "")
	f.must(err)
	f.diff("the attempt that waited", pipeline.Canceled, attempts[2].Status)
}

func cancel(_ *testing.T, f *fixture) {
	a := f.app("shop")
	r := f.started(a, "a", "b")
	running := f.claim("o", long)
	c := store.Cancel{By: "someone", Reason: "not needed", Class: pipeline.ClassCanceled}
	f.must(f.RequestCancel(f.ctx(), r.ID, c))
	f.must(f.RequestCancel(f.ctx(), r.ID, store.Cancel{By: "another", Class: pipeline.ClassCanceled})) // changes nothing
	_, err := f.Claim(f.ctx(), store.ClaimOptions{Owner: "o", Lease: long, Slots: 9})
	f.want(err, errs.NotFound) // b is not begun any more
	held, err := f.Held(f.ctx())
	f.must(err)
	if len(held) != 1 || held[0].Cancel == nil || held[0].Cancel.By != "someone" || held[0].Cancel.At.IsZero() {
		f.Errorf("Held returned %+v", held)
	}
	active, err := f.Active(f.ctx())
	f.must(err)
	if len(active) != 1 || active[0].Cancel == nil || active[0].Cancel.Reason != "not needed" {
		f.Errorf("Active returned %+v", active)
	}
	end := []store.Move{{Task: "a", From: pipeline.Running, To: pipeline.Canceled}}
	f.want(f.Apply(f.ctx(), r.ID, end), errs.Conflict) // its attempt runs
	f.must(f.Finish(f.ctx(), running.Key, failed(0)))  // nothing is tried again
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{
		{Task: "b", From: pipeline.Queued, To: pipeline.Canceled}, {From: pipeline.Running, To: pipeline.Failed},
	}))
	f.diff("status", "failed a:failed b:canceled", f.status(r.ID))
	f.want(f.RequestCancel(f.ctx(), r.ID, c), errs.Conflict)
	f.want(f.RequestCancel(f.ctx(), r.ID+1, c), errs.NotFound)

	queued := f.run(a, "t")
	f.must(f.RequestCancel(f.ctx(), queued.ID, c))
	_, err = f.StartRun(f.ctx())
	f.want(err, errs.NotFound)
	active, err = f.Active(f.ctx())
	f.must(err)
	if len(active) != 1 || active[0].ID != queued.ID {
		f.Errorf("Active returned %+v", active)
	}
}

func supersede(_ *testing.T, f *fixture) {
	shop, blog := f.app("shop"), f.app("blog")
	older, other := f.run(shop, "t"), f.run(blog, "t")
	branch := newRun(shop, "t")
	branch.Commit.Branch = "feature"
	feature, err := f.CreateRun(f.ctx(), branch)
	f.must(err)
	n := newRun(shop, "t")
	n.Supersede = true
	newer, err := f.CreateRun(f.ctx(), n)
	f.must(err)
	var unwanted []int64
	for _, id := range []int64{older.ID, other.ID, feature.ID, newer.ID} {
		r, err := f.Run(f.ctx(), id)
		f.must(err)
		if r.Cancel != nil {
			unwanted = append(unwanted, id)
			if r.Cancel.Class != pipeline.ClassSuperseded || r.Cancel.Successor != newer.ID {
				f.Errorf("the superseded run is wanted to end: %+v", r.Cancel)
			}
		}
	}
	f.diff("superseded runs", []int64{older.ID}, unwanted)
}

func gates(_ *testing.T, f *fixture) {
	a := f.app("shop")
	gated := func() store.Run {
		n := newRun(a, "t", "gate")
		n.Tasks[1].Gate = true
		r, err := f.CreateRun(f.ctx(), n)
		f.must(err)
		_, err = f.StartRun(f.ctx())
		f.must(err)
		f.want(f.Decide(f.ctx(), r.ID, "gate", store.Decision{Approved: true}), errs.Conflict) // not its turn
		f.must(f.Apply(f.ctx(), r.ID, []store.Move{{Task: "gate", From: pipeline.Pending, To: pipeline.Queued}}))
		_, err = f.Claim(f.ctx(), store.ClaimOptions{Owner: "o", Lease: long, Slots: 9})
		f.want(err, errs.NotFound) // nothing to run
		return r
	}
	yes := gated()
	f.must(f.Decide(f.ctx(), yes.ID, "gate", store.Decision{Approved: true, By: "someone", Comment: "go"}))
	f.diff("status", "running t:pending gate:succeeded", f.status(yes.ID))
	tasks, err := f.Tasks(f.ctx(), yes.ID)
	f.must(err)
	if d := tasks[1].Decision; d == nil || !d.Approved || d.By != "someone" || d.Comment != "go" || d.At.IsZero() {
		f.Errorf("the decision is %+v", d)
	}
	f.want(f.Decide(f.ctx(), yes.ID, "gate", store.Decision{Approved: false}), errs.Conflict) // decided already
	f.want(f.Decide(f.ctx(), yes.ID, "t", store.Decision{Approved: true}), errs.Conflict)     // no gate
	f.want(f.Decide(f.ctx(), yes.ID, "none", store.Decision{Approved: true}), errs.NotFound)

	no := gated()
	f.must(f.Decide(f.ctx(), no.ID, "gate", store.Decision{By: "someone"}))
	f.diff("status", "running t:pending gate:failed", f.status(no.ID))

	unwanted := gated()
	f.must(f.RequestCancel(f.ctx(), unwanted.ID, store.Cancel{Class: pipeline.ClassCanceled}))
	f.want(f.Decide(f.ctx(), unwanted.ID, "gate", store.Decision{Approved: true}), errs.Conflict)
}

func events(_ *testing.T, f *fixture) {
	start, err := f.LastEvent(f.ctx())
	f.must(err)
	a := f.app("shop")
	r, other := f.started(a, "t"), f.run(a)
	at := f.claim("o", long)
	f.must(f.Notice(f.ctx(), r.ID, "t", 1, "almost there"))
	f.must(f.Finish(f.ctx(), at.Key, succeeded()))
	f.want(f.Notice(f.ctx(), other.ID+1, "", 0, "to nobody"), errs.NotFound)

	got, err := f.Events(f.ctx(), r.ID, 0, 100)
	f.must(err)
	var kinds []store.EventKind
	for i, e := range got {
		kinds = append(kinds, e.Kind)
		if e.Seq != int64(i)+1 || e.Run != r.ID || e.At.IsZero() {
			f.Errorf("event %d is %+v", i, e)
		}
	}
	f.diff("kinds", []store.EventKind{
		store.RunCreated, store.RunStatus, store.TaskStatus, store.TaskStatus, store.AttemptStarted, store.Noticed,
		store.AttemptFinished, store.TaskStatus,
	}, kinds)
	if last := got[len(got)-2]; last.Data.Digest != "sha256:1" || last.Attempt != 1 || last.Task != "t" {
		f.Errorf("the end of the attempt is told as %+v", last)
	}
	rest, err := f.Events(f.ctx(), r.ID, got[2].Seq, 2)
	f.must(err)
	f.diff("a page of events", got[3:5], rest)

	feed, err := f.Feed(f.ctx(), start, 100)
	f.must(err)
	if len(feed) != len(got)+1 || !slices.IsSortedFunc(feed, func(a, b store.Event) int { return cmp.Compare(a.ID, b.ID) }) {
		f.Errorf("Feed returned %d events", len(feed))
	}
	end, err := f.LastEvent(f.ctx())
	f.must(err)
	f.diff("LastEvent", feed[len(feed)-1].ID, end)
}

func logs(_ *testing.T, f *fixture) {
	r := f.run(f.app("shop"), "t")
	k := store.LogKey{Run: r.ID, Task: "t", Attempt: 1, Stream: store.LogStream}
	zero := store.LogState{}
	got, err := f.LogState(f.ctx(), k)
	f.must(err)
	f.diff("LogState", zero, got)
	first, second := store.LogState{Bytes: 100, Lines: 10}, store.LogState{Bytes: 200, Lines: 25, Sealed: true}
	f.must(f.ExtendLog(f.ctx(), k, zero, first, []store.Mark{{Line: 5, Offset: 40}}))
	f.want(f.ExtendLog(f.ctx(), k, zero, first, nil), errs.Conflict)
	f.must(f.ExtendLog(f.ctx(), k, first, second, []store.Mark{{Line: 20, Offset: 160}}))
	f.want(f.ExtendLog(f.ctx(), k, second, second, nil), errs.Conflict) // sealed
	got, err = f.LogState(f.ctx(), k)
	f.must(err)
	f.diff("LogState", second, got)
	for line, want := range map[int64]store.Mark{0: {}, 4: {}, 5: {Line: 5, Offset: 40}, 19: {Line: 5, Offset: 40}, 99: {Line: 20, Offset: 160}} {
		got, err := f.MarkBefore(f.ctx(), k, line)
		f.must(err)
		f.diff("MarkBefore", want, got)
	}
}
