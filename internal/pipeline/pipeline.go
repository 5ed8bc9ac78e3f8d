// Package pipeline holds the words of the pipeline wing and the contracts between its rooms.
//
// A Pipeline is one execution as declared: a graph of Tasks, each of which names a task template and carries its merged
// context. A Run is that execution happening; its TaskRuns move through Status by one table of legal moves. A Runner
// executes attempts of tasks; a Worker is what a task template does once a Runner has given it an environment.
//
// Package spec makes a Pipeline from YAML, package engine makes a Run from a Pipeline. This package does no I/O.
package pipeline

import "slipway/internal/errs"

// Pipeline is one execution, resolved: templates are found, contexts merged, <% %> evaluated, the graph free of cycles.
type Pipeline struct {
	Name        string
	Description string
	Labels      map[string]string
	// Tasks in the order of the file. Names are unique.
	Tasks  []Task
	Origin Origin
}

// Task is one node of a pipeline's graph.
type Task struct {
	Name string
	// Template is the task template's name as the file spells it; Worker is the preset worker behind it.
	Template string
	Worker   string
	// After names the tasks that must have succeeded, or been skipped, before this one starts.
	After []string
	// Skip says why the task does not run, and is empty when it does.
	Skip string
	// Env is what envVars, runnerConfig.environmentVariables and the command line add to the task's environment.
	Env map[string]string
	// Retries is how often the task is tried again after a failure of class ClassInfrastructure.
	Retries int
	// Environment is what the task asks for: limits and mounts.
	Environment Environment
	// Data is the merged context.data, a Map; every value in it knows where it was written.
	Data   *Value
	Origin Origin
}

// DisplayName is the name that people see: context.data.displayName, or else the task's name.
func (t *Task) DisplayName() string {
	if s := t.Data.Get("displayName").String(); s != "" {
		return s
	}
	return t.Name
}

// Task returns the task called name, or nil.
func (p *Pipeline) Task(name string) *Task {
	for i := range p.Tasks {
		if p.Tasks[i].Name == name {
			return &p.Tasks[i]
		}
	}
	return nil
}

// Report takes one mistake found in a file: where it is, what is wrong, and what to do about it (may be empty).
type Report func(at Origin, message, hint string)

// ExitError says that a command of a task ended with a code other than zero: a failure of what was run, not of slipway.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the text of the error it wraps.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the error it wraps.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is the code the command ended with.
func (e *ExitError) ExitCode() int { return e.Code }

// LimitError says that a task hit one of its environment's limits. It is of kind errs.Limit.
type LimitError struct {
	// Resource is "time", "memory" or "disk".
	Resource string
	// Limit is the limit as people write it, such as "15m".
	Limit string
	// Source says who set it, such as "the default environment".
	Source string
}

// Error names the limit, its value and its source.
func (e *LimitError) Error() string {
	return "hit the " + e.Resource + " limit of " + e.Limit + " of " + e.Source
}

// Unwrap returns the kind, errs.Limit.
func (e *LimitError) Unwrap() error { return errs.Limit }
