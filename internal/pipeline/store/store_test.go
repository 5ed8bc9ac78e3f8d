package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/store"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	at := pipeline.Origin{File: "cicd.yaml", Line: 3, Col: 5}
	p := &pipeline.Pipeline{
		Name: "p", Labels: map[string]string{"a": "b"}, Origin: at,
		Tasks: []pipeline.Task{{
			Name: "build", Template: "build-image-task", Worker: "build-image", After: []string{"warm"}, Env: map[string]string{"K": "V"},
			Environment: pipeline.Environment{
				Limits: pipeline.Limits{CPUs: 2, Memory: 4 * pipeline.GiB, Timeout: 15 * time.Minute}, Dedicated: true,
				Mounts: []pipeline.Mount{{Dir: "/mnt", Server: "nas:/a", Origin: at}}, TimeoutOrigin: at,
			},
			Data: &pipeline.Value{Kind: pipeline.Map, Origin: at, Members: []pipeline.Member{
				{Key: "tag", Origin: at, Value: &pipeline.Value{Kind: pipeline.String, Text: "12e3456", Origin: at}},
				{Key: "list", Origin: at, Value: &pipeline.Value{Kind: pipeline.List, Items: []*pipeline.Value{{Kind: pipeline.Bool, Text: "true"}, nil}}},
			}},
			Origin: at,
		}, {Name: "off", Skip: "enable is not true"}},
	}
	text, err := store.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.Decode(text)
	if diff := cmp.Diff(p, got); err != nil || diff != "" {
		t.Errorf("Decode: %v; mismatch (-want +got):\n%s", err, diff)
	}
	for _, text := range []string{"", "{}", `{"form":99,"pipeline":{}}`, `{"form":1}`, "[]"} {
		if _, err := store.Decode(text); !errors.Is(err, errs.Corrupt) {
			t.Errorf("Decode(%q): %v, want errs.Corrupt", text, err)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"a": true, "shop-2": true, "": false, "2shop": false, "Shop": false, "shop-": false, "a--b": false, "a/b": false, "..": false, "a_b": false,
	} {
		if err := store.CheckName(name); (err == nil) != ok || err != nil && (!errors.Is(err, errs.Invalid) || errs.HintOf(err) == "") {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	for name, ok := range map[string]bool{"KEY": true, "_a1": true, "": false, "1A": false, "A-B": false, "A=B": false, "Ä": false} {
		if err := store.CheckKey(name); (err == nil) != ok {
			t.Errorf("CheckKey(%q): %v", name, err)
		}
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	token := store.Token{Role: store.Viewer, Apps: map[string]store.Role{"shop": store.Maintainer, "blog": "nonsense"}}
	for app, want := range map[string]store.Role{"": store.Viewer, "shop": store.Maintainer, "blog": store.Viewer, "other": store.Viewer} {
		if got := token.For(app); got != want {
			t.Errorf("For(%q) = %s, want %s", app, got, want)
		}
	}
	token.ReadOnly = true
	if got := token.For("shop"); got != store.Viewer {
		t.Errorf("a token that may only look is %s", got)
	}
	if got := (store.Token{ReadOnly: true}).For("shop"); got != store.NoRole {
		t.Errorf("a token without roles that may only look is %s", got)
	}
	if !store.Admin.Allows(store.Developer) || store.Viewer.Allows(store.Developer) || store.Role("nonsense").Allows(store.Viewer) || !store.NoRole.Allows(store.NoRole) {
		t.Error("roles are out of order")
	}
}
