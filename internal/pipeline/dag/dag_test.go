package dag_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/dag"
)

// graph reads "a b:a c:a,b": names with their predecessors, in order.
func graph(text string) []pipeline.Task {
	var tasks []pipeline.Task
	for word := range strings.FieldsSeq(text) {
		name, after, ok := strings.Cut(word, ":")
		task := pipeline.Task{Name: name}
		if ok {
			task.After = strings.Split(after, ",")
		}
		tasks = append(tasks, task)
	}
	return tasks
}

func cycle(tasks []pipeline.Task) []string {
	after := map[string][]string{}
	var names []string
	for _, task := range tasks {
		names = append(names, task.Name)
		after[task.Name] = task.After
	}
	return dag.Cycle(names, func(name string) []string { return after[name] })
}

func TestCycle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, graph, want string }{
		{"empty", "", ""},
		{"chain", "a b:a c:b", ""},
		{"diamond", "a b:a c:a d:b,c", ""},
		{"itself", "a:a", "a a"},
		{"two", "a:b b:a", "a b a"},
		{"three behind a tail", "x:a a:b b:c c:a", "a b c a"},
		{"foreign name", "a:zz", ""},
		{"second component", "a b:a c:d d:c", "c d c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(cycle(graph(tt.graph)), " "); got != tt.want {
				t.Errorf("Cycle(%q) = %q, want %q", tt.graph, got, tt.want)
			}
		})
	}
}

func TestCycleLongChain(t *testing.T) {
	t.Parallel()
	var tasks []pipeline.Task
	const n = 100_000
	for i := range n {
		tasks = append(tasks, pipeline.Task{Name: fmt.Sprint(i), After: []string{fmt.Sprint((i + 1) % n)}})
	}
	if got := cycle(tasks); len(got) != n+1 {
		t.Errorf("cycle of %d names, want %d", len(got), n+1)
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, graph, status, want string }{
		{"all at once", "a b c", "", "a b c"},
		{"chain", "a b:a c:b", "a=succeeded", "b"},
		{"skipped counts as satisfied", "a b:a", "a=skipped", "b"},
		{"running does not", "a b:a", "a=running", ""},
		{"both needed", "a b c:a,b", "a=succeeded b=running", ""},
		{"a failure starts nothing more", "a b c:b", "a=failed b=succeeded", ""},
		{"a failure later in the file too", "a b", "b=failed", ""},
		{"canceled", "a b", "a=canceled", ""},
		{"queued is not ready again", "a b", "a=queued", "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tasks := graph(tt.graph)
			status := map[string]pipeline.Status{}
			for _, task := range tasks {
				status[task.Name] = pipeline.Pending
			}
			for word := range strings.FieldsSeq(tt.status) {
				name, s, _ := strings.Cut(word, "=")
				status[name] = pipeline.Status(s)
			}
			if diff := cmp.Diff(strings.Fields(tt.want), append([]string{}, dag.Ready(tasks, status)...)); diff != "" {
				t.Errorf("Ready mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

// A cycle is found exactly when running what is ready, again and again, leaves tasks behind.
func FuzzCycleAgreesWithReady(f *testing.F) {
	f.Add([]byte{0, 1, 1, 2, 2, 0})
	f.Add([]byte{0, 1, 1, 2, 0, 2})
	f.Fuzz(func(t *testing.T, edges []byte) {
		tasks := make([]pipeline.Task, 8)
		for i := range tasks {
			tasks[i].Name = fmt.Sprint(i)
		}
		for pair := range slices.Chunk(edges, 2) {
			if len(pair) == 2 {
				from := &tasks[pair[0]%8]
				from.After = append(from.After, fmt.Sprint(pair[1]%8))
			}
		}
		status := map[string]pipeline.Status{}
		for _, task := range tasks {
			status[task.Name] = pipeline.Pending
		}
		ran := 0
		for ready := dag.Ready(tasks, status); len(ready) > 0; ready = dag.Ready(tasks, status) {
			for _, name := range ready {
				status[name] = pipeline.Succeeded
				ran++
			}
		}
		if got := cycle(tasks) != nil; got != (ran < len(tasks)) {
			t.Errorf("Cycle found: %v; ran %d of %d", got, ran, len(tasks))
		}
	})
}
