package progress_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/cli/progress"
)

func TestTrace(t *testing.T) {
	t.Parallel()
	var tr progress.Trace
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, e := range []build.Event{
		{Kind: build.Started, Time: at(0), Step: 1, Name: "a"},
		{Kind: build.Started, Time: at(2), Step: 2, Name: "b"},
		{Kind: build.Done, Time: at(5), Step: 1, Name: "a"},
		{Kind: build.Cached, Time: at(6), Step: 3, Name: "c"},
		{Kind: build.Started, Time: at(7), Step: 4, Name: "d"},
		{Kind: build.Failed, Time: at(9), Step: 2, Name: "b", Text: "no"},
	} {
		tr.Event(e)
	}
	var out strings.Builder
	if err := tr.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `{"traceEvents":[` +
		`{"name":"a","ph":"X","ts":0,"dur":5000,"pid":1,"tid":1},` +
		`{"name":"CACHED c","ph":"X","ts":6000,"dur":1,"pid":1,"tid":0},` +
		`{"name":"b","ph":"X","ts":2000,"dur":7000,"pid":1,"tid":2,"args":{"failed":"no"}}]}` + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("Write mismatch (-want +got):\n%s", diff)
	}
}
