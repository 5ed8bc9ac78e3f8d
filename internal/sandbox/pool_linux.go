package sandbox

import (
	"fmt"
	"os"
	"sync"

	"slipway/internal/errs"
)

// pool starts init processes and keeps a spare. The zero value is ready; close it.
type pool struct {
	cgroup  *os.File // where processes are born, on cgroup v2; nil: where the thread is
	noSpare bool     // the limits of the group leave no room for one

	mu      sync.Mutex
	closed  bool
	thread  *thread        // starts processes; nil until needed
	spare   *child         // started and waiting
	filling bool           // somebody starts a spare
	starts  sync.WaitGroup // those who use thread
}

// take returns a process to give a spec to: the spare, or a new one, which it must be when it is not to be like others.
func (p *pool) take(ordinary bool, args ...string) (*child, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("start sandbox: closed: %w", errs.Canceled)
	}
	var c *child
	if ordinary {
		c, p.spare = p.spare, nil
	}
	t := p.starter()
	p.starts.Add(1)
	p.mu.Unlock()
	defer p.starts.Done()
	if c != nil {
		if !c.gone() {
			return c, nil
		}
		_ = c.discard() // it is nobody's loss
	}
	return spawn(t, p.cgroup, args...)
}

// starter returns the thread that starts processes. The caller holds mu.
func (p *pool) starter() *thread {
	if p.thread == nil {
		p.thread = newThread()
	}
	return p.thread
}

// refill starts a spare unless there is one. That it cannot is no loss: the next run tries again and reports it.
func (p *pool) refill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.noSpare || p.filling || p.spare != nil {
		return
	}
	p.filling = true
	t := p.starter()
	p.starts.Go(func() {
		c, err := spawn(t, p.cgroup, spareArg)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.filling = false
		if err == nil {
			p.spare = c
		}
	})
}

// close ends the spare and waits for the other processes.
func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.starts.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.spare != nil {
		err = p.spare.discard()
		p.spare = nil
	}
	if p.thread != nil {
		p.thread.stop()
		p.thread = nil
	}
	return err
}
