package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

// newGroup makes a group, or skips where the machine has no cgroups to give.
func newGroup(t testing.TB, l sandbox.Limits) *sandbox.Group {
	t.Helper()
	needRoot(t)
	g, err := sandbox.NewGroup(t.Context(), "test", l)
	if errors.Is(err, errs.Denied) || errors.Is(err, errs.Unavailable) {
		t.Skipf("needs cgroups: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	const limit = 64 << 20
	l := busybox(t).withProbe(t)
	g := newGroup(t, sandbox.Limits{Memory: limit})
	s := l.spec(probePath, "hog", "256")
	s.Group = g
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || !res.OOM || res.ExitCode == 0 {
		t.Errorf("a hog beyond the limit = %+v, %v", res, err)
	}
	s = l.spec(probePath, "hog", "8")
	s.Group = g
	res, err = sandbox.Run(t.Context(), s)
	if err != nil || res.OOM || res.ExitCode != 0 {
		t.Errorf("a modest command afterwards = %+v, %v", res, err)
	}
	stats, err := g.Stats()
	if err != nil || stats.OOMKills == 0 || stats.PeakMemory < limit/2 || stats.PeakMemory > limit+1<<20 {
		t.Errorf("stats = %+v, %v", stats, err)
	}
}

func TestProcessLimit(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	g := newGroup(t, sandbox.Limits{PIDs: 16})
	s, out := l.script("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 100 & done; echo done")
	s.Group = g
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || !strings.Contains(out.String(), "can't fork") {
		t.Errorf("fork bomb = %+v, %v, output:\n%s", res, err, out)
	}
}

func TestProcessorLimit(t *testing.T) {
	t.Parallel()
	g := newGroup(t, sandbox.Limits{CPUs: 0.5})
	s, _ := busybox(t).script("true")
	s.Group = g
	if res, err := sandbox.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestGroupWithSpares(t *testing.T) {
	t.Parallel()
	l := busybox(t).withProbe(t)
	g := newGroup(t, sandbox.Limits{Memory: 256 << 20})
	launcher := newLauncher(t)
	for range 2 {
		s := l.spec(probePath, "hog", "512")
		s.Group = g
		if res, err := launcher.Run(t.Context(), s); err != nil || !res.OOM {
			t.Errorf("a hog in a group = %+v, %v", res, err)
		}
	}
}

func TestLimitsAreVisibleInside(t *testing.T) {
	t.Parallel()
	const limit = 96 << 20
	g := newGroup(t, sandbox.Limits{Memory: limit})
	got := mustRun(t, busybox(t), "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; true", func(s *sandbox.Spec) { s.Group = g })
	if strings.TrimSpace(got) != strconv.Itoa(limit) {
		t.Errorf("the limit inside = %q, want %d", got, limit)
	}
}

func TestGroupsOfDeadProcessesAreRemoved(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dirs, err := filepath.Glob("/sys/fs/cgroup/pids/")
	if err != nil || dirs == nil {
		t.Skip("needs cgroup v1 with pids, to leave a group in")
	}
	const gone = 4194303 // above what pids reach on this machine's default
	left := "/sys/fs/cgroup/pids/slipway-" + strconv.Itoa(gone) + "-left"
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Skipf("needs a writable cgroup: %v", err)
	}
	newGroup(t, sandbox.Limits{PIDs: 10})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group of a dead process is still there: %v", err)
		_ = os.Remove(left)
	}
}

func TestGroupCloseTwice(t *testing.T) {
	t.Parallel()
	needRoot(t)
	g, err := sandbox.NewGroup(t.Context(), "twice", sandbox.Limits{PIDs: 10})
	if err != nil {
		t.Skipf("needs cgroups: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}
