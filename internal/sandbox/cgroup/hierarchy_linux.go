package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// leaf is where slipway itself goes on v2, since a group with processes cannot hand controllers down.
const leaf = "slipway-main"

// controllers are those that Limits use.
func controllers() []string { return []string{"memory", "cpu", "pids"} }

// Hierarchy is where on this machine groups can be made. Read it once per process with Detect.
type Hierarchy struct {
	v2   bool
	dirs map[string]string // controller to this process's own folder; on v2 the one for ""
	opts map[string]string // v1: controller to what its hierarchy is mounted with, "cpu,cpuacct"
}

// Detect finds this process's own cgroups. root is "/" except in tests.
func Detect(root string) (*Hierarchy, error) {
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil, fmt.Errorf("find own cgroups: %w", err)
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("find own cgroups: %w", err)
	}
	return parse(root, string(own), string(mounts)), nil
}

// parse pairs the lines of /proc/self/cgroup with the mounts of /proc/self/mountinfo. v2 counts when it is the only one,
// mounted as /sys/fs/cgroup: beside v1 its controllers are taken.
func parse(root, own, mounts string) *Hierarchy {
	paths := map[string]string{}
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(f) == 3 {
			for c := range strings.SplitSeq(f[1], ",") {
				paths[c] = f[2]
			}
		}
	}
	h := &Hierarchy{dirs: map[string]string{}, opts: map[string]string{}}
	unified := ""
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(b) < 5 || len(a) < 3 {
			continue
		}
		within, point := b[3], filepath.Join(root, b[4])
		switch a[0] {
		case "cgroup2":
			unified = below(point, within, paths[""])
		case "cgroup":
			var names []string
			for o := range strings.SplitSeq(a[2], ",") {
				if p, ok := paths[o]; ok && o != "" {
					h.dirs[o] = below(point, within, p)
					names = append(names, o)
				}
			}
			for _, n := range names {
				h.opts[n] = strings.Join(names, ",")
			}
		}
	}
	if len(h.dirs) == 0 && unified != "" {
		h.v2 = true
		h.dirs[""] = unified
	}
	return h
}

// below is the folder of a cgroup path in a mount that shows the part of the hierarchy below within.
func below(point, within, path string) string {
	if rest, ok := strings.CutPrefix(path, within); ok {
		return filepath.Join(point, rest)
	}
	return point
}

// Version is 2, 1, or 0 where there are no cgroups.
func (h *Hierarchy) Version() int {
	switch {
	case h.v2:
		return 2
	case len(h.dirs) > 0:
		return 1
	}
	return 0
}

// Controllers are those available to groups, sorted.
func (h *Hierarchy) Controllers() ([]string, error) {
	if !h.v2 {
		return slices.Sorted(maps.Keys(h.dirs)), nil
	}
	data, err := os.ReadFile(filepath.Join(h.dirs[""], "cgroup.controllers"))
	return slices.Sorted(slices.Values(strings.Fields(string(data)))), err
}

// Writable tells whether groups can be made.
func (h *Hierarchy) Writable() bool {
	bases := h.bases()
	for _, dir := range bases {
		if unix.Access(dir, unix.W_OK) != nil {
			return false
		}
	}
	return len(bases) > 0
}

// View are the cgroup file systems to show to a process that should see its own limits: "cgroup2", or on v1 the mount
// options of the hierarchies with limits. v1 is shown to members of a group only; each hierarchy costs a mount.
func (h *Hierarchy) View(g *Group) []string {
	if h.v2 {
		return []string{"cgroup2"}
	}
	if g == nil {
		return nil
	}
	var view []string
	for c := range g.dirs {
		if !slices.Contains(view, h.opts[c]) {
			view = append(view, h.opts[c])
		}
	}
	slices.Sort(view)
	return view
}

// bases are the folders in which groups are made.
func (h *Hierarchy) bases() []string {
	var all []string
	for _, c := range controllers() {
		dir := h.dirs[c]
		if h.v2 {
			dir = parent(h.dirs[""])
		}
		if dir != "" && !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// parent is where groups are made when a slipway is in dir: beside it if it has moved to the leaf, otherwise inside.
func parent(dir string) string {
	if filepath.Base(dir) == leaf {
		return filepath.Dir(dir)
	}
	return dir
}

// base is the folder for new groups with a controller, which it sees to.
func (h *Hierarchy) base(controller string) (string, error) {
	if !h.v2 {
		if dir, ok := h.dirs[controller]; ok {
			return dir, nil
		}
		return "", fmt.Errorf("controller %s is not mounted: %w", controller, errs.Unavailable)
	}
	dir := parent(h.dirs[""])
	file := filepath.Join(dir, "cgroup.subtree_control")
	err := write(file, "+"+controller)
	if errors.Is(err, unix.EBUSY) { // processes in the group itself
		if err = makeRoom(dir); err == nil {
			err = write(file, "+"+controller)
		}
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return "", fmt.Errorf("controller %s is not delegated to %s: %w", controller, dir, errs.Unavailable)
	}
	return dir, err
}

// makeRoom moves the processes of a group to a leaf below it. In a container those are slipway and whatever started it.
func makeRoom(dir string) error {
	to := filepath.Join(dir, leaf)
	if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(data)) {
		if err := write(filepath.Join(to, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s to %s: %w", pid, to, err)
		}
	}
	return nil
}

// setting is a value for a file of a group.
type setting struct {
	file, value string
	optional    bool // kernels may lack it
}

func (s setting) apply(dir string) error {
	err := write(filepath.Join(dir, s.file), s.value)
	if s.optional && (errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP)) {
		return nil
	}
	return err
}

// period is the interval in µs over which processor time is counted.
const period = 100_000

// settings translates limits.
func (h *Hierarchy) settings(l Limits) map[string][]setting {
	out := map[string][]setting{}
	if l.Memory > 0 {
		v := strconv.FormatInt(l.Memory, 10)
		if h.v2 {
			out["memory"] = []setting{{"memory.max", v, false}, {"memory.swap.max", "0", true}}
		} else {
			out["memory"] = []setting{{"memory.limit_in_bytes", v, false}, {"memory.memsw.limit_in_bytes", v, true}}
		}
	}
	if l.CPUs > 0 {
		quota := strconv.FormatInt(max(1000, int64(l.CPUs*period)), 10) // the kernel takes no less than 1 ms
		if h.v2 {
			out["cpu"] = []setting{{"cpu.max", quota + " " + strconv.Itoa(period), false}}
		} else {
			out["cpu"] = []setting{{"cpu.cfs_period_us", strconv.Itoa(period), false}, {"cpu.cfs_quota_us", quota, false}}
		}
	}
	if l.PIDs > 0 {
		out["pids"] = []setting{{"pids.max", strconv.FormatInt(l.PIDs, 10), false}}
	}
	return out
}
