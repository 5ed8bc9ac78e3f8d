// Package suggest finds the word that somebody meant when they wrote another: the "did you mean" of flags, commands,
// keys and names.
package suggest

import "iter"

// Nearest returns the candidate closest to word by edits (one letter added, lost, changed, or two swapped), or "" when
// none is close enough to be worth saying: at most a third of the word's length, and never more than three edits.
// Among equals the first wins, so sorted candidates give a stable answer.
func Nearest(word string, candidates iter.Seq[string]) string {
	best, limit := "", min(3, (len(word)+2)/3)
	for c := range candidates {
		if d := distance(word, c); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance is the optimal string alignment distance between a and b, ignoring ASCII case.
func distance(a, b string) int {
	if len(a)-len(b) > 3 || len(b)-len(a) > 3 {
		return len(a) + len(b)
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if lower(a[i-1]) == lower(b[j-1]) {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && lower(a[i-1]) == lower(b[j-2]) && lower(a[i-2]) == lower(b[j-1]) {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
