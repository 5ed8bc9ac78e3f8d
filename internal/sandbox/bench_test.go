package sandbox_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"slipway/internal/sandbox"
)

// BenchmarkRunTrue is one RUN instruction that does nothing, on an upper folder of its own: the cost of the sandbox.
func BenchmarkRunTrue(b *testing.B) {
	l := busybox(b)
	spec := l.spec("true")
	spec.Stub = filepath.Join(filepath.Dir(l.lower), "stub")
	if err := sandbox.MakeStub(spec.Stub); err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, run func(*sandbox.Spec) (sandbox.Result, error)) {
		n := 0
		for b.Loop() {
			b.StopTimer()
			n++
			spec.Upper, spec.Work = l.upper+strconv.Itoa(n), l.work+strconv.Itoa(n)
			for _, dir := range []string{spec.Upper, spec.Work} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
			if res, err := run(spec); err != nil || res.ExitCode != 0 {
				b.Fatal(res, err)
			}
		}
	}
	b.Run("cold", func(b *testing.B) {
		run(b, func(s *sandbox.Spec) (sandbox.Result, error) { return sandbox.Run(b.Context(), s) })
	})
	b.Run("warm", func(b *testing.B) {
		var launcher sandbox.Launcher
		run(b, func(s *sandbox.Spec) (sandbox.Result, error) { return launcher.Run(b.Context(), s) })
		if err := launcher.Close(); err != nil {
			b.Fatal(err)
		}
	})
}
