package sandbox_test

import (
	"testing"

	"slipway/internal/sandbox"
)

// BenchmarkRunTrue is one RUN instruction that does nothing: the cost of the sandbox itself.
func BenchmarkRunTrue(b *testing.B) {
	l := busybox(b)
	spec := l.spec("true")
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			if res, err := sandbox.Run(b.Context(), spec); err != nil || res.ExitCode != 0 {
				b.Fatal(res, err)
			}
		}
	})
	b.Run("warm", func(b *testing.B) {
		var launcher sandbox.Launcher
		defer launcher.Close()
		for b.Loop() {
			if res, err := launcher.Run(b.Context(), spec); err != nil || res.ExitCode != 0 {
				b.Fatal(res, err)
			}
		}
	})
}
