package pipeline_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline"
)

func text(s string) *pipeline.Value { return &pipeline.Value{Kind: pipeline.String, Text: s} }

// object makes a map of keys and values in turn.
func object(pairs ...any) *pipeline.Value {
	v := &pipeline.Value{Kind: pipeline.Map}
	for i := 0; i < len(pairs); i += 2 {
		v.Members = append(v.Members, pipeline.Member{Key: pairs[i].(string), Value: pairs[i+1].(*pipeline.Value)})
	}
	return v
}

func list(items ...*pipeline.Value) *pipeline.Value {
	return &pipeline.Value{Kind: pipeline.List, Items: items}
}

// flat prints a value on one line.
func flat(v *pipeline.Value) string {
	switch {
	case v == nil:
		return "absent"
	case v.Kind == pipeline.Map:
		var members []string
		for _, m := range v.Members {
			members = append(members, m.Key+":"+flat(m.Value))
		}
		return "{" + strings.Join(members, " ") + "}"
	case v.Kind == pipeline.List:
		return "[" + strings.Join(v.Strings(), " ") + "]"
	case v.Kind == pipeline.Null:
		return "null"
	default:
		return v.Text
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		base, over *pipeline.Value
		want       string
	}{
		{"nothing", nil, nil, "absent"},
		{"over nothing", nil, text("b"), "b"},
		{"nothing over", text("a"), nil, "a"},
		{"a scalar replaces", text("a"), text("b"), "b"},
		{"new keys come last", object("b", text("1"), "a", text("2")), object("c", text("3"), "a", text("4")), "{b:1 a:4 c:3}"},
		{"deep", object("x", object("a", text("1"), "b", text("2"))), object("x", object("b", text("3"))), "{x:{a:1 b:3}}"},
		{"lists are replaced", object("x", list(text("1"), text("2"))), object("x", list(text("3"))), "{x:[3]}"},
		{"a map replaces a scalar", object("x", text("1")), object("x", object("a", text("2"))), "{x:{a:2}}"},
		{"null replaces", object("x", object("a", text("1"))), object("x", &pipeline.Value{}), "{x:null}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := flat(tt.base) + flat(tt.over)
			if got := flat(pipeline.Merge(tt.base, tt.over)); got != tt.want {
				t.Errorf("Merge = %s, want %s", got, tt.want)
			}
			if after := flat(tt.base) + flat(tt.over); after != before {
				t.Errorf("Merge changed its inputs: %s, were %s", after, before)
			}
		})
	}
}

func TestAbsentValues(t *testing.T) {
	t.Parallel()
	var absent *pipeline.Value
	v := object("a", object("b", text("c")))
	if got := v.Get("a", "b").String(); got != "c" {
		t.Errorf("a.b = %q", got)
	}
	for _, v := range []*pipeline.Value{absent, absent.Get("a"), v.Get("a", "x", "y"), v.Get("a", "b", "c"), {}} {
		if !v.Absent() || v.String() != "" || v.Bool() || v.Strings() != nil {
			t.Errorf("%+v is there", v)
		}
	}
}

func TestSizesAndDurations(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		8 * pipeline.GiB: "8 GB", 1536 * pipeline.MiB: "1.5 GB", 100 * pipeline.MiB: "100 MB", 12: "12 bytes",
	} {
		if got := pipeline.Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		15 * time.Minute: "15m", 90 * time.Second: "1m30s", 24 * time.Hour: "24h", time.Hour + time.Minute: "1h1m",
		10 * time.Second: "10s", 0: "0s", 1500 * time.Millisecond: "1.5s",
	} {
		if got := pipeline.Duration(d); got != want {
			t.Errorf("Duration(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestInside(t *testing.T) {
	t.Parallel()
	e := pipeline.Environment{Mounts: []pipeline.Mount{{Dir: "/mnt", Server: "outer"}, {Dir: "/mnt/cache", Server: "inner"}}}
	for path, want := range map[string][]string{
		"/mnt/cache":     {"inner", ""},
		"/mnt/cache/a/b": {"inner", "a/b"},
		"/mnt/cached":    {"outer", "cached"},
		"/mn":            {"", ""},
		"/tmp":           {"", ""},
	} {
		m, below, ok := e.Inside(path)
		if diff := cmp.Diff(want, []string{m.Server, below}); diff != "" || ok != (want[0] != "") {
			t.Errorf("Inside(%s): %v; mismatch (-want +got):\n%s", path, ok, diff)
		}
	}
}
