package sandbox_test

import (
	"testing"

	"slipway/internal/isolation/isolationtest"
)

// TestIsolated tries the escapes, and what else depends on who slipway is, where it is not root.
func TestIsolated(t *testing.T) {
	t.Parallel()
	for _, way := range []string{isolationtest.OneID, isolationtest.ManyIDs} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			isolationtest.Run(t, way, "^Test(Escape|Nothing|Overlay|Mount|Privileges|Setuid|NetworkNone)")
		})
	}
}
