package places_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry/places"
)

func TestPlaces(t *testing.T) {
	t.Parallel()
	p := places.Open(t.TempDir())
	d := digest.FromString("blob")
	of := func(registry string) []string {
		t.Helper()
		found, err := p.Of(registry, d)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range found {
			names = append(names, r.Name())
		}
		return names
	}
	if got := of("a.example"); got != nil {
		t.Errorf("an empty memory knows %v", got)
	}
	for _, name := range []string{"a.example/one:1", "b.example/x:1", "a.example/two:9", "a.example/one:2"} {
		r, err := ref.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Add(d, r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"a.example/one", "a.example/two"}, of("a.example")); diff != "" {
		t.Errorf("Of mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b.example/x"}, of("b.example")); diff != "" {
		t.Errorf("Of mismatch (-want +got):\n%s", diff)
	}
	for i := range 9 {
		r, err := ref.Parse(fmt.Sprintf("a.example/many%d:1", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Add(d, r); err != nil {
			t.Fatal(err)
		}
	}
	if got := of("a.example"); len(got) != 4 || got[0] != "a.example/many8" {
		t.Errorf("Of = %v, want the last four", got)
	}
}

func TestNoPlaces(t *testing.T) {
	t.Parallel()
	var p *places.Places
	if err := p.Add(digest.FromString("x"), ref.Ref{}); err != nil {
		t.Error(err)
	}
	if got, err := p.Of("a.example", digest.FromString("x")); got != nil || err != nil {
		t.Errorf("Of = %v, %v", got, err)
	}
}
