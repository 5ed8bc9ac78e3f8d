package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/dag"
	"slipway/internal/pipeline/expr"
	"slipway/internal/suggest"
)

// resolve turns a Pipeline document into a pipeline. Mistakes are reported; what it returns is worth using only when
// there were none.
func (s *set) resolve(d *pipeline.Value, documents map[string][]*pipeline.Value) *pipeline.Pipeline {
	p := &pipeline.Pipeline{
		Name:        d.Get("name").String(),
		Description: d.Get("description").String(),
		Labels:      texts(d.Get("labels")),
		Origin:      d.Origin,
	}
	template := s.template(d, documents[KindPipelineTemplate])
	tasks := template.Get("tasks")
	if tasks == nil || tasks.Kind != pipeline.List {
		return p
	}
	r := &resolver{set: s, templates: documents[KindTaskTemplate], shared: []*pipeline.Value{
		contextOf(template), contextOf(d.Get("spec")), s.flags(),
	}}
	if len(tasks.Items) == 0 {
		s.report(tasks.Origin, "the pipeline has no tasks", "add at least one: - {name: build, taskTemplate: build-image-task}")
	}
	if len(tasks.Items) > maxKeys {
		s.report(tasks.Origin, fmt.Sprintf("the pipeline has %d tasks, at most %d are allowed", len(tasks.Items), maxKeys), "")
		return p
	}
	names := r.names(tasks)
	for _, item := range tasks.Items {
		if item != nil && item.Kind == pipeline.Map {
			p.Tasks = append(p.Tasks, r.task(item, names))
		}
	}
	r.acyclic(p.Tasks)
	s.only(p)
	s.approved(p)
	r.ask(p)
	return p
}

// template returns the templateSpec to run: the inline one, or that of the template with the name.
func (s *set) template(d *pipeline.Value, templates []*pipeline.Value) *pipeline.Value {
	spec := d.Get("spec")
	if inline := spec.Get("templateSpec"); !inline.Absent() {
		return inline
	}
	wanted := spec.Get("templateName")
	if wanted.Absent() {
		if spec != nil && spec.Kind == pipeline.Map {
			s.report(spec.Origin, "spec has neither templateSpec nor templateName", "add templateSpec: {tasks: […]}")
		}
		return nil
	}
	var names []string
	for _, t := range templates {
		if t.Get("name").String() == wanted.String() {
			s.used[t] = true
			return t.Get("spec")
		}
		names = append(names, t.Get("name").String())
	}
	s.report(wanted.Origin, "there is no PipelineTemplate with the name "+quote(wanted.String()), s.among(wanted.String(), names, "add the document, or name the file or folder that has it, too"))
	return nil
}

// among suggests one of names for a word, or says what there is.
func (s *set) among(word string, names []string, none string) string {
	if s.full() {
		return ""
	}
	if near := suggest.Nearest(word, slices.Values(names)); near != "" {
		return "did you mean " + near + "?"
	}
	if near := alike(word, names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(names) == 0 {
		return none
	}
	return "there is " + strings.Join(names, ", ")
}

// alike finds the one name that shares the longest beginning with word: build-image for build-push. That is how people
// misremember names that they made of words themselves, however many letters differ.
func alike(word string, names []string) string {
	best, length, several := "", 2, false
	for _, name := range names {
		n := 0
		for n < min(len(word), len(name)) && word[n] == name[n] {
			n++
		}
		switch {
		case n > length:
			best, length, several = name, n, false
		case n == length:
			several = true
		}
	}
	if several {
		return ""
	}
	return best
}

func contextOf(v *pipeline.Value) *pipeline.Value { return mapOrNil(v.Get("context", "data")) }

func mapOrNil(v *pipeline.Value) *pipeline.Value {
	if v == nil || v.Kind != pipeline.Map {
		return nil
	}
	return v
}

// flags is what --set adds to the context. A key with a dot is a variable alone: git.branch is no context data.
func (s *set) flags() *pipeline.Value {
	out := &pipeline.Value{Kind: pipeline.Map, Origin: pipeline.Origin{File: "--set"}}
	for _, key := range slices.Sorted(maps.Keys(s.opts.Set)) {
		if strings.Contains(key, ".") {
			continue
		}
		at := pipeline.Origin{File: "--set " + key}
		out.Members = append(out.Members, pipeline.Member{
			Key: key, Origin: at,
			Value: &pipeline.Value{Kind: pipeline.String, Text: s.opts.Set[key], Origin: at},
		})
	}
	return out
}

// texts returns a map of scalars as they are written.
func texts(v *pipeline.Value) map[string]string {
	if v == nil || len(v.Members) == 0 {
		return nil
	}
	out := make(map[string]string, len(v.Members))
	for _, m := range v.Members {
		out[m.Key] = m.Value.String()
	}
	return out
}

// resolver resolves the tasks of one pipeline.
type resolver struct {
	*set
	templates []*pipeline.Value
	shared    []*pipeline.Value // contexts that all tasks share, lowest first
}

// names returns the names of the tasks, and reports those that appear twice.
func (r *resolver) names(tasks *pipeline.Value) []string {
	var names []string
	first := map[string]pipeline.Origin{}
	for _, item := range tasks.Items {
		name := item.Get("name")
		if name.String() == "" {
			continue
		}
		if at, again := first[name.Text]; again {
			r.report(name.Origin, "a second task with the name "+quote(name.Text)+", the first is at "+at.String(), "give each its own name")
			continue
		}
		first[name.Text] = name.Origin
		names = append(names, name.Text)
	}
	return names
}

func (r *resolver) task(v *pipeline.Value, names []string) pipeline.Task {
	t := pipeline.Task{
		Name:     v.Get("name").String(),
		Template: v.Get("taskTemplate").String(),
		Origin:   v.Get("name").At(v.Origin),
	}
	template := r.taskTemplate(v.Get("taskTemplate"))
	t.Worker = template.worker
	t.Data = &pipeline.Value{Kind: pipeline.Map, Origin: t.Origin}
	for _, context := range slices.Concat([]*pipeline.Value{template.context}, r.shared, []*pipeline.Value{contextOf(v)}) {
		t.Data = pipeline.Merge(t.Data, context)
	}
	t.After = r.after(v, t.Name, names)
	t.Skip = r.skip(template, t.Data)
	t.Environment = r.environment(&t)
	if t.Worker == workerApproval {
		t.Environment = pipeline.Environment{} // people have no limits
	}
	t.Env = r.env(t.Data)
	t.Retries = retries(&t)
	return t
}

// retries is how often a task is tried again. A build may be repeated by whoever likes; a deployment may not.
func retries(t *pipeline.Task) int {
	if n, ok := t.Data.Get("retries").Int(); ok {
		return int(n)
	}
	if t.Worker == workerBuildImage {
		return 2
	}
	return 0
}

// env collects the task's environment variables; runnerConfig speaks of the machine, envVars of the task, --env of now.
func (r *resolver) env(data *pipeline.Value) map[string]string {
	env := map[string]string{}
	maps.Copy(env, texts(data.Get("runnerConfig", "environmentVariables")))
	maps.Copy(env, texts(data.Get("envVars")))
	maps.Copy(env, r.opts.Env)
	if len(env) == 0 {
		return nil
	}
	return env
}

// after reads runAfters in both spellings and refuses names of no task.
func (r *resolver) after(v *pipeline.Value, self string, names []string) []string {
	var after []string
	list := v.Get("runAfters")
	if list == nil {
		return nil
	}
	for _, item := range list.Items {
		name := item
		if item != nil && item.Kind == pipeline.Map {
			name = item.Get("name")
		}
		switch {
		case name.String() == "" || slices.Contains(after, name.Text):
		case slices.Contains(names, name.Text):
			after = append(after, name.Text)
		default:
			others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == self })
			r.report(name.Origin, "no task is called "+quote(name.Text), r.among(name.Text, others, "remove it"))
		}
	}
	return after
}

// acyclic reports one cycle of the graph, at the runAfters that closes it.
func (r *resolver) acyclic(tasks []pipeline.Task) {
	after := make(map[string][]string, len(tasks))
	at := make(map[string]pipeline.Origin, len(tasks))
	var names []string
	for i := range tasks {
		names = append(names, tasks[i].Name)
		after[tasks[i].Name], at[tasks[i].Name] = tasks[i].After, tasks[i].Origin
	}
	cycle := dag.Cycle(names, func(name string) []string { return after[name] })
	switch {
	case len(cycle) == 2:
		r.report(at[cycle[0]], "the task "+quote(cycle[0])+" runs after itself", "remove it from its runAfters")
	case cycle != nil:
		r.report(at[cycle[0]], "the tasks run in a circle: "+strings.Join(cycle, " after "), "remove one of these runAfters")
	}
}

// skip decides the template's condition and says why the task does not run.
func (r *resolver) skip(template taskTemplate, data *pipeline.Value) string {
	if template.condition == "" || expr.Has(template.condition) {
		return ""
	}
	ok, err := expr.Evaluate(template.condition, func(path string) (string, bool) {
		v := data.Get(strings.Split(path, ".")...)
		return v.String(), !v.Absent() && v.Kind < pipeline.List
	})
	switch {
	case err != nil:
		r.report(template.conditionAt, err.Error(), "for example: enable == true")
		return ""
	case ok:
		return ""
	case template.condition == enabled:
		return "enable is not true"
	default:
		return template.condition + " does not hold"
	}
}

// approved refuses approvals of tasks that do not ask for one.
func (s *set) approved(p *pipeline.Pipeline) {
	var names []string
	for i := range p.Tasks {
		if p.Tasks[i].Worker == workerApproval {
			names = append(names, p.Tasks[i].Name)
		}
	}
	for _, name := range s.opts.Approved {
		if name != "*" && !slices.Contains(names, name) {
			s.report(pipeline.Origin{File: "--approve " + name}, "no need-approval task is called "+quote(name), s.among(name, names, "this pipeline has none"))
		}
	}
}

// only skips the tasks that the user did not choose.
func (s *set) only(p *pipeline.Pipeline) {
	if len(s.opts.Only) == 0 {
		return
	}
	var names []string
	for i := range p.Tasks {
		t := &p.Tasks[i]
		names = append(names, t.Name)
		chosen := slices.Contains(s.opts.Only, t.Name)
		switch {
		case chosen && t.Skip != "":
			s.report(pipeline.Origin{File: "--task " + t.Name}, "the task does not run: "+t.Skip, "switch it on with enable: true in its context, or --set enable=true")
		case !chosen:
			t.Skip = "not chosen with --task"
		}
	}
	for _, name := range s.opts.Only {
		if !slices.Contains(names, name) {
			s.report(pipeline.Origin{File: "--task " + name}, "no task is called "+quote(name), s.among(name, names, ""))
		}
	}
}
