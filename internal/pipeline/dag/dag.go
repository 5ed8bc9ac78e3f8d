// Package dag answers two questions about tasks that run after other tasks: is there a cycle, and what may start now.
//
// It is pure and knows nothing of how tasks run. A predecessor that was skipped lets its successors start; one that
// failed or was canceled never does.
package dag

import (
	"slices"

	"slipway/internal/pipeline"
)

// Cycle returns the names along one cycle, the first of them again at the end, or nil when there is none. after gives
// the predecessors of a name; a predecessor that is not among names is ignored. Which cycle of several is found depends
// on the order of names alone.
func Cycle(names []string, after func(name string) []string) []string {
	w := walk{after: after, state: make(map[string]state, len(names))}
	for _, name := range names {
		w.state[name] = unseen
	}
	for _, name := range names {
		if w.visit(name) {
			return w.cycle()
		}
	}
	return nil
}

type state uint8

const (
	foreign state = iota // not among the names
	unseen
	onPath
	done
)

// walk is a depth-first search. It keeps its own stack: a chain of tasks may be as long as the file allows.
type walk struct {
	after func(string) []string
	state map[string]state
	path  []frame
	end   string // the name that closes the cycle
}

type frame struct {
	name string
	rest []string
}

func (w *walk) push(name string) {
	w.state[name] = onPath
	w.path = append(w.path, frame{name, w.after(name)})
}

func (w *walk) visit(start string) bool {
	if w.state[start] != unseen {
		return false
	}
	w.push(start)
	for len(w.path) > 0 {
		top := &w.path[len(w.path)-1]
		if len(top.rest) == 0 {
			w.state[top.name] = done
			w.path = w.path[:len(w.path)-1]
			continue
		}
		name := top.rest[0]
		top.rest = top.rest[1:]
		switch w.state[name] {
		case onPath:
			w.end = name
			return true
		case unseen:
			w.push(name)
		}
	}
	return false
}

// cycle cuts the path to the part that goes round.
func (w *walk) cycle() []string {
	start := slices.IndexFunc(w.path, func(f frame) bool { return f.name == w.end })
	var names []string
	for _, f := range w.path[start:] {
		names = append(names, f.name)
	}
	return append(names, w.end)
}

// Ready returns the pending tasks that may start now, in the order of tasks: every predecessor has succeeded or was
// skipped. Once a task has failed or was canceled nothing is ready any more: what runs may finish, nothing is added.
func Ready(tasks []pipeline.Task, status map[string]pipeline.Status) []string {
	var ready []string
	for i := range tasks {
		switch status[tasks[i].Name] {
		case pipeline.Failed, pipeline.Canceled:
			return nil
		case pipeline.Pending:
			if satisfied(tasks[i].After, status) {
				ready = append(ready, tasks[i].Name)
			}
		}
	}
	return ready
}

func satisfied(after []string, status map[string]pipeline.Status) bool {
	return !slices.ContainsFunc(after, func(name string) bool { return !status[name].Satisfies() })
}
