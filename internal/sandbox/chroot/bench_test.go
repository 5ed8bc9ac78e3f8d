package chroot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/sandbox"
)

// BenchmarkRunTrue is one RUN that does nothing on a root of 8,000 files which an earlier RUN has left.
func BenchmarkRunTrue(b *testing.B) {
	m := newMachine(b)
	for d := range 100 {
		dir := filepath.Join(m.lower[0], fmt.Sprint("d", d))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 80 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", f)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	m.run(b, "true")
	draft := newDraft(b)
	for b.Loop() {
		res, err := m.Run(b.Context(), &sandbox.Spec{
			Lower: m.lower[1:], Upper: draft.Dir(), Work: draft.Work(), Args: []string{"true"}, Env: []string{"PATH=/bin"},
		})
		if err != nil || res.ExitCode != 0 {
			b.Fatal(res, err)
		}
	}
}
