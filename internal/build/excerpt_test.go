package build_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
)

// Whatever a file holds, an excerpt of it is lines with numbers, and the mark is below something.
func FuzzExcerpt(f *testing.F) {
	f.Add("RUN x", 1, 1, 3)
	f.Add("\té\xff\r", 9, 2, 100)
	f.Add("a\nb\n\n", 99, -1, 1)
	f.Fuzz(func(t *testing.T, text string, line, col, width int) {
		e := build.Excerpt{Line: line, Lines: strings.Split(text, "\n"), Col: col, Width: width}
		for l := range strings.Lines(e.String()) {
			if !strings.Contains(l, " |") || !strings.HasSuffix(l, "\n") {
				t.Errorf("%+v shows %q", e, l)
			}
		}
	})
}

func TestExcerpt(t *testing.T) {
	t.Parallel()
	many := strings.Split(strings.TrimSuffix(strings.Repeat("RUN x\n", 10), "\n"), "\n")
	tests := []struct {
		name    string
		excerpt build.Excerpt
		want    string
	}{
		{"nothing", build.Excerpt{}, ""},
		{"no mark", build.Excerpt{Line: 3, Lines: []string{"RUN x"}}, "  3 | RUN x\n"},
		{"mark", build.Excerpt{Line: 3, Lines: []string{"RNU true"}, Col: 1, Width: 3}, "  3 | RNU true\n    | ^^^\n"},
		{"mark after a tab", build.Excerpt{Line: 1, Lines: []string{"\tCOPY --form=x a b"}, Col: 7, Width: 6}, "  1 | \tCOPY --form=x a b\n    | \t     ^^^^^^\n"},
		{"mark counts characters", build.Excerpt{Line: 1, Lines: []string{"é ü x"}, Col: 4, Width: 2}, "  1 | é ü x\n    |   ^\n"},
		{"mark beyond the line", build.Excerpt{Line: 1, Lines: []string{"x"}, Col: 5, Width: 2}, "  1 | x\n"},
		{
			"lines with blanks at their ends, and none",
			build.Excerpt{Line: 9, Lines: []string{"RUN a \\ ", "", "  b\r"}, Col: 1, Width: 3},
			"   9 | RUN a \\\n     | ^^^\n  10 |\n  11 |   b\n",
		},
		{
			"too many lines",
			build.Excerpt{Line: 1, Lines: many},
			"  1 | RUN x\n  2 | RUN x\n  3 | RUN x\n  4 | RUN x\n  5 | RUN x\n  6 | RUN x\n  7 | RUN x\n  8 | RUN x\n    | … (2 more lines)\n",
		},
		{"too long a line", build.Excerpt{Line: 1, Lines: []string{strings.Repeat("ä", 200)}, Col: 350, Width: 3}, "  1 | " + strings.Repeat("ä", 160) + "…\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.excerpt.String()); diff != "" {
				t.Errorf("String() mismatch (-want +got):\n%s", diff)
			}
		})
	}
}
