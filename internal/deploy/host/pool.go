package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"slipway/internal/deploy/function"
	"slipway/internal/errs"
)

// pool is the instances of one version. A request takes a slot of an instance that has one, or waits while a new instance
// starts; an instance that has had no request for a while is stopped.
type pool struct {
	host    *Host
	version function.Version
	log     *logFile

	mu        sync.Mutex
	instances []*instance
	starting  int
	waiting   []chan granted
	draining  bool
	done      sync.WaitGroup // starts and ends of instances
}

// granted is what a request that waits gets.
type granted struct {
	instance *instance
	err      error
}

func (h *Host) newPool(v function.Version, log *logFile) *pool {
	return &pool{host: h, version: v, log: log}
}

func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.instances)
}

var errDraining = errors.New("the version is being replaced")

// prime starts the first instance and waits until it is healthy.
func (p *pool) prime(ctx context.Context) error {
	i, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	p.release(i)
	return nil
}

// acquire takes a slot of an instance. Whoever got one releases it. The error is of kind errs.Unavailable when no
// instance can be had.
func (p *pool) acquire(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	if p.draining {
		p.mu.Unlock()
		return nil, errs.Mark(errDraining, errs.Unavailable)
	}
	for _, i := range p.instances {
		if i.active < p.version.Function.Concurrency {
			i.active++
			p.mu.Unlock()
			return i, nil
		}
	}
	wait := make(chan granted, 1)
	p.waiting = append(p.waiting, wait)
	p.grow(ctx)
	p.mu.Unlock()
	select {
	case g := <-wait:
		return g.instance, g.err
	case <-ctx.Done():
		p.forget(wait)
		return nil, context.Cause(ctx)
	}
}

// forget takes back a wait; a slot that was granted meanwhile is given on.
func (p *pool) forget(wait chan granted) {
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(w chan granted) bool { return w == wait })
	p.mu.Unlock()
	select {
	case g := <-wait:
		if g.instance != nil {
			p.release(g.instance)
		}
	default:
	}
}

// grow starts instances for those who wait, as many as they need and the bound allows. p.mu is held.
func (p *pool) grow(ctx context.Context) {
	per := p.version.Function.Concurrency
	for p.starting*per < len(p.waiting) && len(p.instances)+p.starting < p.host.opts.Instances && !p.draining {
		p.starting++
		// The instance serves others after the request that made it start.
		p.done.Go(func() { p.start(context.WithoutCancel(ctx)) })
	}
}

// start starts one instance, and gives its slots to those who wait. When it does not start, those who wait for it and for no
// other get the error.
func (p *pool) start(ctx context.Context) {
	i, err := startInstance(ctx, p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting--
	if err != nil {
		p.log.line("host", "instance does not start: "+err.Error())
		if p.starting == 0 && len(p.instances) == 0 {
			for _, w := range p.waiting {
				w <- granted{err: errs.Mark(err, errs.Unavailable)}
			}
			p.waiting = nil
		}
		return
	}
	p.instances = append(p.instances, i)
	p.done.Go(func() { p.watch(ctx, i) })
	p.serve(i)
}

// serve gives an instance's free slots to those who wait. p.mu is held.
func (p *pool) serve(i *instance) {
	for i.active < p.version.Function.Concurrency && len(p.waiting) > 0 && !i.gone {
		w := p.waiting[0]
		p.waiting = p.waiting[1:]
		i.active++
		w <- granted{instance: i}
	}
}

// release gives a slot back.
func (p *pool) release(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i.active--
	i.used = p.host.opts.Now()
	p.serve(i)
	if i.active == 0 {
		i.idle(p.draining)
	}
}

// watch waits until an instance has ended, or is to be stopped: because it was idle, unhealthy, or its version is replaced.
func (p *pool) watch(ctx context.Context, i *instance) {
	timer := time.NewTimer(p.host.opts.Idle)
	defer timer.Stop()
	for {
		select {
		case <-i.process.Done():
			p.remove(i)
			p.log.line(i.id, "ended: "+i.process.Err().Error())
			return
		case <-i.retire:
		case <-timer.C:
			if left := p.idleFor(i); left > 0 {
				timer.Reset(left)
				continue
			}
		}
		if p.remove(i) {
			i.stop(ctx)
			return
		}
	}
}

// idleFor tells how long an instance may still live.
func (p *pool) idleFor(i *instance) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.active > 0 {
		return p.host.opts.Idle
	}
	return p.host.opts.Idle - p.host.opts.Now().Sub(i.used)
}

// remove takes an instance out of the pool, and says whether it may be stopped: it may not while it answers requests,
// unless it has ended or is no good.
func (p *pool) remove(i *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended := false
	select {
	case <-i.process.Done():
		ended = true
	default:
	}
	if i.active > 0 && !ended && !i.bad {
		return false
	}
	i.gone = true
	p.instances = slices.DeleteFunc(p.instances, func(o *instance) bool { return o == i })
	return true
}

// discard takes an instance that is no good out of the pool at once: others that answer requests there lose them.
func (p *pool) discard(i *instance, why string) {
	p.mu.Lock()
	known := !i.bad
	i.bad, i.gone = true, true
	p.instances = slices.DeleteFunc(p.instances, func(o *instance) bool { return o == i })
	p.mu.Unlock()
	if known {
		p.log.line(i.id, "stopped: "+why)
		i.idle(true)
	}
}

// drain lets requests finish and stops all instances; no new request gets one.
func (p *pool) drain() {
	p.mu.Lock()
	p.draining = true
	for _, w := range p.waiting {
		w <- granted{err: errs.Mark(errDraining, errs.Unavailable)}
	}
	p.waiting = nil
	for _, i := range p.instances {
		if i.active == 0 {
			i.idle(true)
		}
	}
	p.mu.Unlock()
	p.done.Wait()
}

// close stops all instances, whatever they answer.
func (p *pool) close() {
	p.mu.Lock()
	for _, i := range p.instances {
		i.bad = true
		i.idle(true)
	}
	p.mu.Unlock()
	p.drain()
}

// hookTime bounds a call of /initialize or /pre-stop.
func hookTime(h *function.Hook) time.Duration {
	return max(time.Second, time.Duration(h.Timeout)*time.Second)
}

// unhealthy is why an instance never got ready.
func unhealthy(tail []string, err error) error {
	for _, line := range tail {
		err = fmt.Errorf("%w\n  | %s", err, line)
	}
	return err
}
