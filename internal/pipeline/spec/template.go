package spec

import (
	"strings"

	"slipway/internal/pipeline"
)

// The preset workers: what a task template can be made of. The hosted system has the last two under these names.
const (
	workerBuildImage = "build-image"
	workerServerless = "serverless-runner"
	workerApproval   = "need-approval"
)

// enabled is the condition of every built-in task template: tasks are off unless switched on.
const enabled = "enable == true"

// taskTemplate is a TaskTemplate document, or a built-in one.
type taskTemplate struct {
	worker      string
	context     *pipeline.Value
	condition   string
	conditionAt pipeline.Origin
}

func builtin(name string) (taskTemplate, bool) {
	worker := map[string]string{
		"build-image-task":       workerBuildImage,
		"serverless-runner-task": workerServerless,
		"need-approval":          workerApproval,
	}[name]
	return taskTemplate{worker: worker, condition: enabled}, worker != ""
}

// taskTemplate finds the template a task names: a document's, which may replace a built-in one, or a built-in one.
func (r *resolver) taskTemplate(name *pipeline.Value) taskTemplate {
	names := []string{"build-image-task", "serverless-runner-task", "need-approval"}
	for _, d := range r.templates {
		if d.Get("name").String() == name.String() {
			condition := d.Get("spec", "executeCondition", "expression")
			return taskTemplate{
				worker:      d.Get("spec", "worker", "presetWorker").String(),
				context:     contextOf(d.Get("spec")),
				condition:   condition.String(),
				conditionAt: condition.At(d.Origin),
			}
		}
		names = append(names, d.Get("name").String())
	}
	t, ok := builtin(name.String())
	if !ok && !name.Absent() {
		r.report(name.Origin, "there is no task template "+quote(name.String()), r.among(name.String(), names, ""))
	}
	return t
}

// ask lets the workers check the tasks that run, and refuses those that no worker can do.
func (r *resolver) ask(p *pipeline.Pipeline) {
	for i := range p.Tasks {
		t := &p.Tasks[i]
		if t.Skip != "" || t.Worker == "" {
			continue
		}
		for _, checker := range r.opts.Every {
			checker.Check(t, r.report)
		}
		if checker, ok := r.opts.Checkers[t.Worker]; ok {
			checker.Check(t, r.report)
			continue
		}
		r.report(t.Origin, "the task needs "+t.Template+", which slipway cannot run yet", r.instead(p, t))
	}
}

// instead says what to do with a task that cannot run.
func (r *resolver) instead(p *pipeline.Pipeline, t *pipeline.Task) string {
	var able []string
	for i := range p.Tasks {
		if _, ok := r.opts.Checkers[p.Tasks[i].Worker]; ok && p.Tasks[i].Skip == "" {
			able = append(able, "--task "+p.Tasks[i].Name)
		}
	}
	if len(able) == 0 {
		return "switch it off: enable: false"
	}
	return "run what can run with " + strings.Join(able, " ") + ", or switch " + t.Name + " off: enable: false"
}
