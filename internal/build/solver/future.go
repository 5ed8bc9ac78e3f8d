package solver

import (
	"context"
	"sync"
)

// future is a value that somebody is working on.
type future[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func newFuture[T any]() *future[T] { return &future[T]{done: make(chan struct{})} }

// resolved is a future of a value that is there.
func resolved[T any](v T) *future[T] {
	f := newFuture[T]()
	f.set(v, nil)
	return f
}

// set gives the value, once.
func (f *future[T]) set(v T, err error) {
	f.value, f.err = v, err
	close(f.done)
}

// wait returns the value when it is there, or ctx's cause.
func (f *future[T]) wait(ctx context.Context) (T, error) {
	select {
	case <-f.done:
		return f.value, f.err
	default:
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// ready says whether wait returns at once.
func (f *future[T]) ready() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// once runs a function for each key a single time and shares what it returns.
type once[K comparable, T any] struct {
	mu sync.Mutex
	m  map[K]*future[T]
}

// start begins work for key in a goroutine of g, unless it has begun.
func (o *once[K, T]) start(g *group, key K, work func() (T, error)) *future[T] {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f, ok := o.m[key]; ok {
		return f
	}
	if o.m == nil {
		o.m = map[K]*future[T]{}
	}
	f := newFuture[T]()
	o.m[key] = f
	g.Go(func() error {
		v, err := work()
		if err != nil {
			g.fail(err) // before those who wait can: the build fails of this, not of what they say of it
		}
		f.set(v, err)
		return err
	})
	return f
}
