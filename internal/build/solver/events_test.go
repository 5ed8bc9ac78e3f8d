package solver

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
)

// newLines collects what a process's output becomes.
func newLines(sink build.Sink) *lines {
	e := newEvents(sink, func() time.Time { return time.Time{} })
	return &lines{s: &step{e: e}, stream: 1, tail: &tail{}, hide: func(s string) string { return s }}
}

func TestLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", longestLine)
	for _, tc := range []struct {
		name         string
		writes, want []string
	}{
		{"nothing", nil, nil},
		{"lines", []string{"a\nb\n\nc\n"}, []string{"a", "b", "", "c"}},
		{"line in pieces", []string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		{"no newline at the end", []string{"a\nb"}, []string{"a", "b"}},
		{"carriage returns", []string{"a\r\nb\rc\r\n"}, []string{"a", "b\rc"}},
		{"line without an end", []string{long, "rest\nb\n"}, []string{long, "rest", "b"}},
		{"long line at once", []string{long + long + "rest"}, []string{long, long, "rest"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			l := newLines(func(e build.Event) { got = append(got, e.Text) })
			for _, w := range tc.writes {
				if n, err := l.Write([]byte(w)); n != len(w) || err != nil {
					t.Errorf("Write = %d, %v, want %d", n, err, len(w))
				}
			}
			l.flush()
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("lines mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// BenchmarkLines is a flood of short lines, in writes as pipes make them.
func BenchmarkLines(b *testing.B) {
	l := newLines(func(build.Event) {})
	flood := []byte(strings.Repeat("y\n", 16<<10))
	b.SetBytes(int64(len(flood)))
	for b.Loop() {
		if _, err := l.Write(flood); err != nil {
			b.Fatal(err)
		}
	}
}
