package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, own, mounts string
		version           int
		dirs              map[string]string
	}{
		{
			"v2", "0::/user.slice/session-1.scope\n",
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
			2,
			map[string]string{"": "/sys/fs/cgroup/user.slice/session-1.scope"},
		},
		{
			"v2 in a container", "0::/\n",
			"30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup ro\n",
			2,
			map[string]string{"": "/sys/fs/cgroup"},
		},
		{
			"v1, controllers together", "4:memory:/a\n3:cpu,cpuacct:/\n1:name=systemd:/x\n0::/\n",
			"31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
				"34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			1,
			map[string]string{
				"memory": "/sys/fs/cgroup/memory/a", "cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
				"name=systemd": "/sys/fs/cgroup/systemd/x",
			},
		},
		{
			"v1 in a container that sees a part", "4:memory:/docker/1234\n",
			"31 30 0:27 /docker/1234 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			1,
			map[string]string{"memory": "/sys/fs/cgroup/memory"},
		},
		{"none", "", "31 30 0:27 / / rw - ext4 /dev/vda rw\n", 0, map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := parse("/", tt.own, tt.mounts)
			if h.Version() != tt.version {
				t.Errorf("Version() = %d, want %d", h.Version(), tt.version)
			}
			if diff := cmp.Diff(tt.dirs, h.dirs); diff != "" {
				t.Errorf("folders mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	limits := Limits{Memory: 1 << 20, CPUs: 1.5, PIDs: 7}
	tests := []struct {
		name string
		v2   bool
		want []string
	}{
		{"v1", false, []string{
			"memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=1048576", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "pids.max=7",
		}},
		{"v2", true, []string{"memory.max=1048576", "memory.swap.max=0", "cpu.max=150000 100000", "pids.max=7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &Hierarchy{v2: tt.v2}
			var got []string
			for _, c := range controllers() {
				for _, s := range h.settings(limits)[c] {
					got = append(got, s.file+"="+s.value)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("settings mismatch (-want +got):\n%s", diff)
			}
			if s := h.settings(Limits{}); len(s) != 0 {
				t.Errorf("no limits need %v", s)
			}
		})
	}
}

func TestLimitsBelowZero(t *testing.T) {
	t.Parallel()
	if _, err := New(&Hierarchy{}, "x", Limits{CPUs: -1}); !errors.Is(err, errs.Invalid) {
		t.Errorf("error = %v, want invalid", err)
	}
}

func TestControllerThatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(&Hierarchy{dirs: map[string]string{}}, "x", Limits{PIDs: 1}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("error = %v, want unavailable", err)
	}
}

func TestAbandoned(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"slipway-4194304-build": true,
		"slipway-1-build":       false,
		"slipway-main":          false,
		"slipway-x-build":       false,
		"slipway-4194304":       false,
		"docker-4194304-x":      false,
	} {
		if got := abandoned(name); got != want {
			t.Errorf("abandoned(%q) = %v, want %v", name, got, want)
		}
	}
}

// TestUnified makes a group in a real v2 hierarchy, which beside v1 has no controllers to limit anything with.
func TestUnified(t *testing.T) {
	t.Parallel()
	const mount = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(mount + "/cgroup.procs"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and a cgroup v2 hierarchy at " + mount)
	}
	h := &Hierarchy{v2: true, dirs: map[string]string{"": mount}}
	g, err := New(h, "unified", Limits{})
	if err != nil {
		t.Skipf("needs a writable cgroup v2 hierarchy: %v", err)
	}
	if dir := g.Born(); filepath.Dir(dir) != mount || !strings.HasPrefix(filepath.Base(dir), prefix) {
		t.Errorf("Born() = %q", dir)
	}
	if stats, err := g.Stats(); err != nil || stats != (Stats{}) {
		t.Errorf("Stats() = %+v, %v", stats, err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Born()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0::/\n", "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup ro\n")
	f.Add("4:memory:/a\n", "31 30 0:27 / /m rw - cgroup cgroup rw,memory\n")
	f.Fuzz(func(_ *testing.T, own, mounts string) { parse("/", own, mounts) })
}

// Two that recover at the same time remove the same groups: what one has removed is no failure of the other.
func TestKillAllOfARemovedGroup(t *testing.T) {
	t.Parallel()
	if err := killAll(filepath.Join(t.TempDir(), "removed")); err != nil {
		t.Errorf("killAll: %v", err)
	}
}
