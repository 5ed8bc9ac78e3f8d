package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

func inbox(_ *testing.T, f *fixture) {
	a := f.app("shop")
	d := store.Delivery{
		AppID: a.ID, Provider: "generic", Delivery: "one", Event: "push",
		Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{"a":1}`),
	}
	stored, duplicate, err := f.Receive(f.ctx(), d)
	f.must(err)
	if duplicate || stored.ID == 0 || stored.App != "shop" || stored.Status != store.DeliveryReceived || string(stored.Body) != `{"a":1}` {
		f.Errorf("Receive returned %+v, duplicate %v", stored, duplicate)
	}
	again, duplicate, err := f.Receive(f.ctx(), d)
	f.must(err)
	if !duplicate || again.ID != stored.ID {
		f.Errorf("the same delivery became %d, duplicate %v", again.ID, duplicate)
	}
	for range 2 { // nothing says that these are the same
		d.Delivery = ""
		_, duplicate, err := f.Receive(f.ctx(), d)
		f.must(err)
		if duplicate {
			f.Error("a delivery without an id is taken for a duplicate")
		}
	}

	first, err := f.NextDelivery(f.ctx(), past) // claimed, and lost at once
	f.must(err)
	second, err := f.NextDelivery(f.ctx(), long)
	f.must(err)
	if first.ID != stored.ID || second.ID != stored.ID || second.Epoch <= first.Epoch || second.Attempts != 2 {
		f.Errorf("the claims are %+v and %+v", first, second)
	}
	f.want(f.Processed(f.ctx(), first, store.Outcome{Status: store.DeliveryFired}), errs.Conflict)
	f.must(f.Processed(f.ctx(), second, store.Outcome{Status: store.DeliveryReceived, Reason: "the forge is away", Again: past}))
	third, err := f.NextDelivery(f.ctx(), long)
	f.must(err)
	f.diff("the delivery to process again", stored.ID, third.ID)
	f.must(f.Processed(f.ctx(), third, store.Outcome{Status: store.DeliverySkipped, Reason: "no trigger matches"}))
	f.want(f.Processed(f.ctx(), third, store.Outcome{Status: store.DeliveryFired}), errs.Conflict)
	done, err := f.Delivery(f.ctx(), stored.ID)
	f.must(err)
	if done.Status != store.DeliverySkipped || done.Reason != "no trigger matches" || done.ProcessedAt.IsZero() {
		f.Errorf("the processed delivery is %+v", done)
	}

	replay, err := f.Replay(f.ctx(), stored.ID, "someone")
	f.must(err)
	if replay.ReplayOf != stored.ID || replay.By != "someone" || replay.Status != store.DeliveryReceived || string(replay.Body) != string(stored.Body) {
		f.Errorf("Replay returned %+v", replay)
	}
	_, err = f.Replay(f.ctx(), 1000, "someone")
	f.want(err, errs.NotFound)

	all, err := f.Deliveries(f.ctx(), store.DeliveryFilter{AppID: a.ID})
	f.must(err)
	if len(all) != 4 || all[0].ID != replay.ID || len(all[0].Body) != 0 {
		f.Errorf("Deliveries returned %+v", all)
	}
	skipped, err := f.Deliveries(f.ctx(), store.DeliveryFilter{Status: store.DeliverySkipped})
	f.must(err)
	if len(skipped) != 1 {
		f.Errorf("%d deliveries were skipped, want 1", len(skipped))
	}
	n, err := f.ForgetDeliveries(f.ctx(), past)
	f.must(err)
	f.diff("forgotten deliveries", int64(1), n) // the others are not processed yet
}

func outbox(_ *testing.T, f *fixture) {
	first := store.Message{Kind: "commit-status", Key: "repo/commit", Run: 1, Body: []byte("pending")}
	f.must(f.Send(f.ctx(), first, store.Message{Kind: "dingtalk", Key: "", Body: []byte("a")}, store.Message{Kind: "dingtalk", Key: "", Body: []byte("b")}))
	_, err := f.NextMessage(f.ctx(), long, "mail")
	f.want(err, errs.NotFound)
	m, err := f.NextMessage(f.ctx(), long, "mail", "commit-status")
	f.must(err)
	if string(m.Body) != "pending" || m.Attempts != 1 {
		f.Errorf("NextMessage returned %+v", m)
	}
	f.must(f.Send(f.ctx(), store.Message{Kind: "commit-status", Key: "repo/commit", Run: 1, Body: []byte("success")}))
	f.want(f.Sent(f.ctx(), m), errs.Conflict) // it was replaced while it was on its way
	m, err = f.NextMessage(f.ctx(), past, "commit-status")
	f.must(err)
	f.diff("the body that counts", "success", string(m.Body))
	later, err := f.NextMessage(f.ctx(), long, "commit-status")
	f.must(err)
	f.want(f.Sent(f.ctx(), m), errs.Conflict) // somebody else took it
	f.must(f.NotSent(f.ctx(), later, "503", 0))
	later, err = f.NextMessage(f.ctx(), long, "commit-status")
	f.must(err)
	if later.Error != "503" || later.Attempts != 3 {
		f.Errorf("the message that is tried again is %+v", later)
	}
	f.must(f.Sent(f.ctx(), later))
	for _, want := range []string{"a", "b"} { // messages without a key do not replace one another
		m, err := f.NextMessage(f.ctx(), long, "dingtalk")
		f.must(err)
		f.diff("the body", want, string(m.Body))
		f.must(f.NotSent(f.ctx(), m, "refused", -1))
	}
	gone, err := f.Messages(f.ctx(), store.MessageFilter{Status: store.MessageFailed})
	f.must(err)
	if len(gone) != 2 || gone[0].Error != "refused" {
		f.Errorf("given up: %+v", gone)
	}
	ofRun, err := f.Messages(f.ctx(), store.MessageFilter{Run: 1})
	f.must(err)
	if len(ofRun) != 2 || ofRun[0].Status != store.MessageSent || ofRun[1].Status != store.MessageReplaced {
		f.Errorf("messages of the run: %+v", ofRun)
	}
	n, err := f.ForgetMessages(f.ctx(), past)
	f.must(err)
	f.diff("forgotten messages", int64(4), n)
}

// outboxWithChange shows that a message is stored with the change that it tells of, or not at all.
func outboxWithChange(_ *testing.T, f *fixture) {
	a := f.app("shop")
	message := store.Message{Kind: "k"}
	count := func() int {
		all, err := f.Messages(f.ctx(), store.MessageFilter{})
		f.must(err)
		return len(all)
	}
	n := newRun(a, "t")
	n.Outbox = []store.Message{message}
	r, err := f.CreateRun(f.ctx(), n)
	f.must(err)
	f.diff("messages after CreateRun", 1, count())
	f.want(f.Apply(f.ctx(), r.ID, []store.Move{{From: pipeline.Running, To: pipeline.Failed}}, message), errs.Conflict)
	f.diff("messages after a move that was refused", 1, count())
	_, err = f.StartRun(f.ctx())
	f.must(err)
	f.must(f.Apply(f.ctx(), r.ID, []store.Move{{Task: "t", From: pipeline.Pending, To: pipeline.Queued}}, message))
	f.diff("messages after a move", 2, count())
	at := f.claim("o", long)
	f.must(f.Finish(f.ctx(), at.Key, succeeded(), message))
	f.diff("messages after the end of an attempt", 3, count())
	f.want(f.Finish(f.ctx(), at.Key, succeeded(), message), errs.Conflict)
	f.diff("messages after a stale end", 3, count())
}

func secrets(_ *testing.T, f *fixture) {
	put := func(scope, name string) store.Secret {
		s, err := f.PutSecret(f.ctx(), scope, name, "someone", func(v int64) ([]byte, error) { return fmt.Appendf(nil, "%s %s %d", scope, name, v), nil })
		f.must(err)
		return s
	}
	app := store.AppScope("shop")
	first, second := put(app, "KEY"), put(app, "KEY")
	put(store.GlobalScope, "KEY")
	put(app, "A")
	if first.Version != 1 || second.Version != 2 || second.CreatedBy != "someone" || len(second.Sealed) > 0 {
		f.Errorf("PutSecret returned %+v and %+v", first, second)
	}
	refused := errors.New("no key")
	_, err := f.PutSecret(f.ctx(), app, "KEY", "someone", func(int64) ([]byte, error) { return nil, refused })
	f.want(err, refused)
	names := func() (out []string) {
		all, err := f.Secrets(f.ctx(), app)
		f.must(err)
		for _, s := range all {
			if len(s.Sealed) > 0 {
				f.Errorf("a list has the value of %s", s.Name)
			}
			out = append(out, fmt.Sprintf("%s/%d", s.Name, s.Version))
		}
		return out
	}
	f.diff("Secrets", []string{"A/1", "KEY/2"}, names())
	for version, want := range map[int64]string{0: app + " KEY 2", 1: app + " KEY 1"} {
		s, err := f.Secret(f.ctx(), store.SecretVersion{Scope: app, Name: "KEY", Version: version})
		f.must(err)
		f.diff("sealed", want, string(s.Sealed))
	}
	f.must(f.EachSecret(f.ctx(), func(s store.Secret) ([]byte, error) {
		if s.Name == "A" {
			return []byte("sealed anew"), nil
		}
		return nil, nil
	}))
	s, err := f.Secret(f.ctx(), store.SecretVersion{Scope: app, Name: "A"})
	f.must(err)
	f.diff("sealed", "sealed anew", string(s.Sealed))

	f.must(f.DeleteSecret(f.ctx(), app, "KEY"))
	f.want(f.DeleteSecret(f.ctx(), app, "KEY"), errs.NotFound)
	_, err = f.Secret(f.ctx(), store.SecretVersion{Scope: app, Name: "KEY", Version: 1})
	f.want(err, errs.NotFound)
	f.diff("Secrets", []string{"A/1"}, names())
	f.diff("the version after a deletion", int64(3), put(app, "KEY").Version)
}

func tokens(_ *testing.T, f *fixture) {
	first, err := f.FirstToken(f.ctx(), store.Token{Name: "admin", Hash: []byte("1"), Role: store.Admin})
	f.must(err)
	_, err = f.FirstToken(f.ctx(), store.Token{Name: "other", Hash: []byte("2"), Role: store.Admin})
	f.want(err, errs.Exists)
	_, err = f.CreateToken(f.ctx(), store.Token{Name: "admin", Hash: []byte("3")})
	f.want(err, errs.Exists)
	k := store.Token{
		Name: "ci", Hash: []byte("4"), Role: store.Viewer, Apps: map[string]store.Role{"shop": store.Developer}, ReadOnly: true,
		CreatedBy: "admin", ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}
	ci, err := f.CreateToken(f.ctx(), k)
	f.must(err)
	got, err := f.TokenByHash(f.ctx(), []byte("4"))
	f.must(err)
	if got.ID != ci.ID || !got.ReadOnly || got.Apps["shop"] != store.Developer || !got.ExpiresAt.Equal(k.ExpiresAt) || got.CreatedBy != "admin" {
		f.Errorf("TokenByHash returned %+v", got)
	}
	got, err = f.TokenByHash(f.ctx(), []byte("4"))
	f.must(err)
	if got.UsedAt.IsZero() {
		f.Error("the use of a token is not noted")
	}
	_, err = f.CreateToken(f.ctx(), store.Token{Name: "old", Hash: []byte("5"), ExpiresAt: time.Now().Add(-time.Hour)})
	f.must(err)
	for _, hash := range []string{"5", "none"} {
		_, err := f.TokenByHash(f.ctx(), []byte(hash))
		f.want(err, errs.NotFound)
	}
	f.must(f.RevokeToken(f.ctx(), first.ID))
	f.want(f.RevokeToken(f.ctx(), first.ID), errs.NotFound)
	_, err = f.TokenByHash(f.ctx(), []byte("1"))
	f.want(err, errs.NotFound)
	_, err = f.FirstToken(f.ctx(), store.Token{Name: "admin", Hash: []byte("6")}) // there has been one
	f.want(err, errs.Exists)
	_, err = f.CreateToken(f.ctx(), store.Token{Name: "admin", Hash: []byte("7")}) // the name is free again
	f.must(err)
	all, err := f.Tokens(f.ctx())
	f.must(err)
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	f.diff("Tokens", []string{"admin", "ci", "old"}, names)
}

func audit(_ *testing.T, f *fixture) {
	for _, e := range []store.Entry{
		{Actor: "one", Action: "create-app", Result: "done", App: "shop", Subject: "shop", Remote: "127.0.0.1", Detail: "from a form"},
		{Actor: "two", Action: "create-app", Result: "refused", App: "blog"},
		{Actor: "one", Action: "delete-app", Result: "done", App: "shop"},
	} {
		f.must(f.Record(f.ctx(), e))
	}
	for name, tt := range map[string]struct {
		filter store.EntryFilter
		want   []string
	}{
		"all":       {store.EntryFilter{}, []string{"one delete-app done", "two create-app refused", "one create-app done"}},
		"a page":    {store.EntryFilter{Limit: 1}, []string{"one delete-app done"}},
		"by actor":  {store.EntryFilter{Actor: "two"}, []string{"two create-app refused"}},
		"by action": {store.EntryFilter{Action: "create-app", App: "shop"}, []string{"one create-app done"}},
	} {
		entries, err := f.Entries(f.ctx(), tt.filter)
		f.must(err)
		var got []string
		for _, e := range entries {
			if e.At.IsZero() || e.ID == 0 {
				f.Errorf("entry %+v", e)
			}
			got = append(got, e.Actor+" "+e.Action+" "+e.Result)
		}
		f.diff(name, tt.want, got)
	}
	n, err := f.ForgetEntries(f.ctx(), past)
	f.must(err)
	f.diff("forgotten entries", int64(3), n)
}
