package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/sandbox/cgroup"
)

// Limits bound what the sandboxes of a group use together.
type Limits = cgroup.Limits

// Stats are a group's figures.
type Stats = cgroup.Stats

// Group makes one or several sandboxes share limits. Its methods may be called concurrently.
type Group struct {
	cg    *cgroup.Group
	pool  pool // its processes are born in the group
	close sync.Once
}

// roomForSpare is the least memory limit with which a spare, of some 6 MB, is kept in the group.
const roomForSpare = 256 << 20

// hierarchy is where this process can make cgroups.
var hierarchy = sync.OnceValues(func() (*cgroup.Hierarchy, error) { return cgroup.Detect("/") })

// NewGroup makes a group, whose name is for people who look at the cgroups of a machine. Close it after its sandboxes
// have ended. errs.Denied and errs.Unavailable say that the machine does not let slipway limit anything.
//
// It also removes the groups of slipways that were killed.
func NewGroup(ctx context.Context, name string, l Limits) (*Group, error) {
	h, err := hierarchy()
	if err != nil {
		return nil, err
	}
	if err := cgroup.Recover(ctx, h); err != nil {
		return nil, fmt.Errorf("remove abandoned cgroups: %w", err)
	}
	cg, err := cgroup.New(h, name, l)
	if err != nil {
		return nil, err
	}
	g := &Group{cg: cg}
	g.pool.noSpare = l.PIDs > 0 || l.Memory > 0 && l.Memory < roomForSpare
	if err := g.open(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Recover removes the groups of slipways that were killed. Where nothing can be limited there are none.
func Recover(ctx context.Context) error {
	h, err := hierarchy()
	if errors.Is(err, errs.Unavailable) || errors.Is(err, errs.Denied) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := cgroup.Recover(ctx, h); err != nil {
		return fmt.Errorf("remove abandoned cgroups: %w", err)
	}
	return nil
}

// open sees to it that what the pool starts is in the group.
func (g *Group) open() (err error) {
	if dir := g.cg.Born(); dir != "" {
		g.pool.cgroup, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		return err
	}
	g.pool.thread = newThread()
	g.pool.thread.do(func() { err = g.cg.Enter() })
	return err
}

// Close waits for the group's sandboxes to end and removes it. It may be called again.
func (g *Group) Close() (err error) {
	g.close.Do(func() {
		err = g.pool.close()
		if g.pool.cgroup != nil {
			err = errors.Join(err, g.pool.cgroup.Close())
		}
		err = errors.Join(err, g.cg.Close())
	})
	return err
}

// Stats returns the group's figures until now.
func (g *Group) Stats() (Stats, error) { return g.cg.Stats() }

// oomKills is 0 without a group, or when the figure cannot be read: an exit status of 137 still tells.
func (g *Group) oomKills() int64 {
	if g == nil {
		return 0
	}
	stats, err := g.cg.Stats()
	if err != nil {
		return 0
	}
	return stats.OOMKills
}

// view are the cgroups that the sandbox shows.
func (g *Group) view() []string {
	h, err := hierarchy()
	if err != nil {
		return nil
	}
	if g == nil {
		return h.View(nil)
	}
	return h.View(g.cg)
}
