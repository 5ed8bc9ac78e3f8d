// Package cgroup limits the memory, processor time and number of processes of a set of processes, on cgroup v1 and v2.
//
// It knows what sandboxes need and no more: one group below slipway's own, three limits, two figures. The groups'
// names begin with slipway-PID, so that those of a slipway that was killed can be found and removed.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// prefix begins the name of every group: prefix, the process that made it, a dash, the name given to New.
const prefix = "slipway-"

// Limits bound what the processes of a group use together. A zero field is no limit.
type Limits struct {
	Memory int64   // bytes; none of it is swapped
	CPUs   float64 // processors' worth of time
	PIDs   int64   // processes and threads
}

func (l Limits) check() error {
	if l.Memory < 0 || l.CPUs < 0 || l.PIDs < 0 {
		return fmt.Errorf("limits below zero: %w", errs.Invalid)
	}
	return nil
}

// Stats are a group's figures.
type Stats struct {
	PeakMemory int64 // bytes; 0 when the kernel does not say
	OOMKills   int64 // processes killed for want of memory
}

// Group is one cgroup, on v1 one in each hierarchy that the limits need.
type Group struct {
	hier *Hierarchy
	dirs map[string]string // controller to folder; on v2 all are the same folder
	all  []string          // the folders, each once
}

// New makes a group below this process's own and sets its limits. It removes the groups of dead processes on the way.
// errs.Denied and errs.Unavailable say that the machine does not let this process make one.
func New(h *Hierarchy, name string, l Limits) (*Group, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	full := prefix + strconv.Itoa(os.Getpid()) + "-" + name
	g, err := h.create(full, l)
	for n := 2; errors.Is(err, os.ErrExist); n++ {
		g, err = h.create(full+"-"+strconv.Itoa(n), l)
	}
	if err != nil {
		return nil, fmt.Errorf("make cgroup %s: %w", name, explain(err))
	}
	return g, nil
}

// explain adds what people can do about a machine that has no cgroups for us.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return errs.Hint(errs.Mark(err, errs.Denied), "the cgroup file system must be writable: in a container, run it privileged or without limits")
	case errors.Is(err, unix.ENOENT):
		return errs.Mark(err, errs.Unavailable)
	}
	return err
}

// create makes the folders of a group and writes its limits.
func (h *Hierarchy) create(name string, l Limits) (g *Group, err error) {
	g = &Group{hier: h, dirs: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.remove())
		}
	}()
	if h.v2 { // one folder, whatever the limits
		if err := g.mkdir(filepath.Join(parent(h.dirs[""]), name)); err != nil {
			return g, err
		}
	}
	settings := h.settings(l)
	for _, controller := range controllers() {
		if len(settings[controller]) == 0 {
			continue
		}
		base, err := h.base(controller)
		if err != nil {
			return g, err
		}
		dir := filepath.Join(base, name)
		if !h.v2 {
			if err := g.mkdir(dir); err != nil {
				return g, err
			}
		}
		g.dirs[controller] = dir
		for _, s := range settings[controller] {
			if err := s.apply(dir); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

func (g *Group) mkdir(dir string) error {
	if slices.Contains(g.all, dir) { // controllers mounted together
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	g.all = append(g.all, dir)
	return nil
}

// Born tells how processes come into the group: on v2 they are cloned into dir. On v1 dir is empty and they inherit the
// group of the thread that starts them, which has called Enter.
func (g *Group) Born() (dir string) {
	if g.hier.v2 {
		return g.all[0]
	}
	return ""
}

// Enter moves the calling thread into the group, on v1. The caller has locked it (runtime.LockOSThread). Moving costs
// 6 ms, for the kernel waits until no process forks; a process born in the group costs nothing.
func (g *Group) Enter() error {
	tid := strconv.Itoa(unix.Gettid())
	for _, dir := range g.all {
		if err := write(filepath.Join(dir, "tasks"), tid); err != nil {
			return fmt.Errorf("enter cgroup: %w", explain(err))
		}
	}
	return nil
}

// Stats reads the group's figures.
func (g *Group) Stats() (Stats, error) {
	dir, ok := g.dirs["memory"]
	if !ok {
		return Stats{}, nil
	}
	peak, events, key := "memory.peak", "memory.events", "oom_kill"
	if !g.hier.v2 {
		peak, events = "memory.max_usage_in_bytes", "memory.oom_control"
	}
	kills, err := readKey(filepath.Join(dir, events), key)
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{OOMKills: kills}
	data, err := os.ReadFile(filepath.Join(dir, peak))
	if errors.Is(err, os.ErrNotExist) {
		return stats, nil // memory.peak: 5.19
	}
	if err == nil {
		stats.PeakMemory, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	return stats, err
}

// Close kills what is left in the group and removes it.
func (g *Group) Close() error {
	if err := g.remove(); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

func (g *Group) remove() error {
	var all []error
	for _, dir := range g.all {
		all = append(all, removeDir(dir))
	}
	return errors.Join(all...)
}

// removeDir kills the processes of a group and removes its folder. A process that was killed leaves it some time later.
func removeDir(dir string) error {
	deadline := time.Now().Add(2 * time.Second)
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
		if err := killAll(dir); err != nil {
			return err
		}
		time.Sleep(wait)
	}
}

func killAll(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil // others recover, too, and have removed it
	}
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
	}
	return nil
}

// Recover removes the groups of processes that are gone.
func Recover(ctx context.Context, h *Hierarchy) error {
	var all []error
	for _, base := range h.bases() {
		entries, err := os.ReadDir(base)
		if err != nil {
			all = append(all, err)
			continue
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if e.IsDir() && abandoned(e.Name()) {
				all = append(all, removeDir(filepath.Join(base, e.Name())))
			}
		}
	}
	return errors.Join(all...)
}

// abandoned tells whether a folder is a group of a process that no longer exists.
func abandoned(name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	number, _, dash := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(number)
	return ok && dash && err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// readKey reads "key 12" from a file of such lines. A missing key is 0.
func readKey(file, key string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, nil
}
