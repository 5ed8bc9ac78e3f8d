package app

import (
	"context"
	"errors"
	"strings"
	"time"

	"slipway/internal/build"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/runlog"
	"slipway/internal/pipeline/runner/local"
)

// logs are the log stores that the tasks of a run name, as far as the configuration says where they are.
type logs struct {
	run   string
	sinks map[string]runlog.Sink // by target
	tasks map[string]runlog.Sink
	names map[string]map[int]string // of the steps that run, by task
}

// openLogs opens what the tasks of p want, each target once.
func openLogs(ctx context.Context, p *pipeline.Pipeline, targets map[string]string) (_ *logs, err error) {
	l := &logs{run: p.Name, sinks: map[string]runlog.Sink{}, tasks: map[string]runlog.Sink{}, names: map[string]map[int]string{}}
	for i := range p.Tasks {
		t := &p.Tasks[i]
		target := local.Sink(targets, t.Environment.Log)
		if t.Environment.Log == "" || t.Skip != "" || target == "" {
			continue
		}
		sink, ok := l.sinks[target]
		if !ok {
			if sink, err = runlog.Open(ctx, target, runlog.Options{}); err != nil {
				return nil, errors.Join(err, l.close())
			}
			l.sinks[target] = sink
		}
		l.tasks[t.Name] = sink
	}
	return l, nil
}

// event writes what an event says. Events come one at a time.
func (l *logs) event(e pipeline.Event) {
	sink := l.tasks[e.Task]
	if sink == nil {
		return
	}
	if text := l.text(e); text != "" {
		sink.Write(runlog.Line{Time: e.Time, Run: l.run, Task: e.Task, Text: text})
	}
}

func (l *logs) text(e pipeline.Event) string {
	if step, ok := e.Detail.(build.Event); ok {
		return l.step(e.Task, step)
	}
	switch e.Kind {
	case pipeline.TaskStarted:
		return "started"
	case pipeline.TaskFinished:
		return strings.TrimSpace(string(e.Status) + " " + e.Text)
	case pipeline.Log, pipeline.Notice:
		return e.Text
	default:
		return ""
	}
}

// step words an event of a build. Only the beginning of a step has its name.
func (l *logs) step(task string, e build.Event) string {
	if e.Name != "" {
		if l.names[task] == nil {
			l.names[task] = map[int]string{}
		}
		l.names[task][e.Step] = e.Name
	}
	name := l.names[task][e.Step]
	switch e.Kind {
	case build.Started:
		return name
	case build.Log:
		return e.Text
	case build.Cached:
		return "CACHED " + name
	case build.Done:
		return "DONE " + name + " in " + e.Took.Round(time.Millisecond).String()
	case build.Failed:
		return "FAILED " + name + ": " + e.Text
	case build.Warning, build.Note:
		return e.Text
	default:
		return ""
	}
}

func (l *logs) close() error {
	var failed error
	for _, sink := range l.sinks {
		failed = errors.Join(failed, sink.Close())
	}
	return failed
}
