package suggest_test

import (
	"slices"
	"testing"

	"slipway/internal/suggest"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"build", "push", "platform", "no-cache", "no-cache-filter", "run"}
	for _, tc := range []struct{ name, word, want string }{
		{"same", "build", "build"},
		{"letters swapped", "biuld", "build"},
		{"letter lost", "platfrm", "platform"},
		{"letter added", "pussh", "push"},
		{"case", "BUILD", "build"},
		{"nothing like it", "frobnicate", ""},
		{"short words do not match everything", "x", ""},
		{"empty", "", ""},
		{"closest wins", "no-cach", "no-cache"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := suggest.Nearest(tc.word, slices.Values(words)); got != tc.want {
				t.Errorf("Nearest(%q) = %q, want %q", tc.word, got, tc.want)
			}
		})
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("biuld", "build")
	f.Fuzz(func(t *testing.T, word, candidate string) {
		if got := suggest.Nearest(word, slices.Values([]string{candidate})); got != "" && got != candidate {
			t.Errorf("Nearest(%q, %q) = %q", word, candidate, got)
		}
		if got := suggest.Nearest(word, slices.Values([]string{word})); got != word {
			t.Errorf("Nearest(%q) of itself = %q", word, got)
		}
	})
}
