package serverless

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
)

// maxSteps bounds a task. Each step may leave a layer, of which a root file system has some hundreds at most.
const maxSteps = 200

// step is a step as the file declares it, its expressions read but not evaluated.
type step struct {
	at   pipeline.Origin
	id   string
	name *scalar // nil: named after what it does
	env  []variable
	// condition is if; nil when there is none.
	condition *scalar
	forgiven  bool // continue-on-error

	run *scalar // a script for the shell; nil for a plugin
	dir *scalar // its working-directory

	plugin string // as it is written
	own    *plugin
	inputs *tree
}

// variable is an environment variable.
type variable struct {
	name  string
	value *scalar
}

// scalar is a text with expressions.
type scalar struct {
	v        *pipeline.Value
	template *expr.Template
}

// tree is a value with texts in it: an input of a plugin.
type tree struct {
	leaf    *scalar
	items   []*tree
	members map[string]*tree
	kind    pipeline.Kind
}

// steps reads a task's steps and reports every mistake in them. names are the names that expressions know, but for those of
// the steps, which are added as they come.
func (w *Worker) steps(t *pipeline.Task, report pipeline.Report) []step {
	list := t.Data.Get("steps")
	if list == nil || len(list.Items) == 0 {
		report(list.At(t.Origin), "the task "+t.Name+" has no steps", "add steps: [{run: make}] to its context.data")
		return nil
	}
	if len(list.Items) > maxSteps {
		report(list.Origin, fmt.Sprintf("%d steps, at most %d are allowed", len(list.Items), maxSteps), "put commands that belong together into one step")
		return nil
	}
	r := &reader{worker: w, report: report, names: w.names(), ids: map[string]pipeline.Origin{}}
	r.names["steps"] = expr.Names{}
	var steps []step
	for _, item := range list.Items {
		steps = append(steps, r.step(item))
	}
	return steps
}

// reader reads the steps of one task.
type reader struct {
	worker *Worker
	report pipeline.Report
	names  expr.Names
	ids    map[string]pipeline.Origin
}

func (r *reader) step(v *pipeline.Value) step {
	s := step{at: v.At(pipeline.Origin{})}
	if v.Absent() {
		r.report(s.at, "a step must be a map, this is empty", "write - run: COMMAND, or - plugin: NAME")
	}
	if v == nil || v.Kind != pipeline.Map {
		return s // which the table of keys has told
	}
	run, plugin := v.Get("run"), v.Get("plugin")
	switch {
	case !run.Absent() && !plugin.Absent():
		r.report(v.KeyAt("plugin"), "a step with both run and plugin", "make two steps of it")
	case run.Absent() && plugin.Absent():
		r.report(s.at, "a step with neither run nor plugin", r.instead(v))
	case !run.Absent():
		r.command(v, &s)
	default:
		r.use(v, &s)
	}
	s.name = r.text(v.Get("name"))
	s.forgiven = v.Get("continue-on-error").Bool()
	s.env = r.env(v.Get("env"))
	s.condition = r.condition(v.Get("if"))
	r.id(v.Get("id"), &s)
	return s
}

// instead says what other systems' spellings are here.
func (r *reader) instead(v *pipeline.Value) string {
	switch {
	case !v.Get("uses").Absent():
		return "uses is called plugin here"
	case !v.Get("script").Absent():
		return "script (zx) is not supported: write a program of Node.js, and run it with run"
	default:
		return "add run: COMMAND, or plugin: NAME"
	}
}

func (r *reader) command(v *pipeline.Value, s *step) {
	s.run, s.dir = r.text(v.Get("run")), r.text(v.Get("working-directory"))
	if strings.TrimSpace(v.Get("run").String()) == "" {
		r.report(v.Get("run").Origin, "run must be a command", "for example run: make test")
	}
	if !v.Get("inputs").Absent() {
		r.report(v.KeyAt("inputs"), "inputs are a plugin's", "give a command its values with env")
	}
}

func (r *reader) use(v *pipeline.Value, s *step) {
	name := v.Get("plugin")
	s.plugin = name.String()
	s.inputs = r.tree(v.Get("inputs"))
	if in := v.Get("inputs"); !in.Absent() && in.Kind != pipeline.Map {
		r.report(in.Origin, "inputs must be a map", "write inputs: {key: value}")
	}
	if !v.Get("working-directory").Absent() {
		r.report(v.KeyAt("working-directory"), "working-directory is for run", "a plugin works in "+Workspace)
	}
	if expr.Opens(s.plugin) != nil {
		r.report(name.Origin, "the name of a plugin cannot be an expression", "it must be known before the task begins")
		return
	}
	own, err := find(s.plugin)
	if err != nil {
		r.report(name.Origin, err.Error(), errs.HintOf(err))
		return
	}
	if s.own = own; own != nil {
		r.inputs(own, v)
	}
}

// inputs checks the names of what a built-in plugin gets.
func (r *reader) inputs(p *plugin, v *pipeline.Value) {
	in := v.Get("inputs")
	if in != nil && in.Kind == pipeline.Map {
		for _, m := range in.Members {
			if !slices.Contains(p.inputs, m.Key) {
				r.report(m.Origin, "the plugin "+p.name+" has no input "+m.Key, nearest(m.Key, p.inputs, "inputs"))
			}
		}
	}
	for _, name := range p.required {
		if in.Get(name).Absent() {
			r.report(v.KeyAt("inputs"), "the plugin "+p.name+" needs the input "+name, "add "+name+": … to its inputs")
		}
	}
	if p.check != nil {
		p.check(in, r.report)
	}
}

func (r *reader) id(v *pipeline.Value, s *step) {
	s.id = v.String()
	if s.id == "" {
		return
	}
	if first, again := r.ids[s.id]; again {
		r.report(v.Origin, "a second step with the id "+s.id+", the first is at "+first.String(), "give each its own id")
	}
	r.ids[s.id] = v.Origin
	r.names["steps"][s.id] = expr.Names{"name": nil, "status": nil, "outputs": nil, "error": nil}
}

func (r *reader) env(v *pipeline.Value) []variable {
	if v.Absent() {
		return nil
	}
	if v.Kind != pipeline.Map {
		r.report(v.Origin, "env must be a map", "write env: {NAME: value}")
		return nil
	}
	var env []variable
	for _, m := range v.Members {
		if m.Value != nil && m.Value.Kind >= pipeline.List {
			r.report(m.Value.Origin, "env."+m.Key+" must be a string", "")
			continue
		}
		if m.Key == "" || strings.ContainsAny(m.Key, "=\x00") {
			r.report(m.Origin, "this cannot be the name of a variable", "")
			continue
		}
		if value := r.text(m.Value); value != nil {
			env = append(env, variable{m.Key, value})
		} else {
			env = append(env, variable{m.Key, &scalar{v: &pipeline.Value{Origin: m.Origin}, template: &expr.Template{}}})
		}
	}
	return env
}

// statuses are the functions that an if has besides the others, with the numbers of their arguments.
func statuses() map[string]int {
	return map[string]int{"success": 0, "failure": 0, "always": 0, "cancelled": 0}
}

// others are the functions that every expression has.
func others() map[string]int { return map[string]int{"hashFile": 1} }

// condition reads an if: ${{ }}, or an expression without it.
func (r *reader) condition(v *pipeline.Value) *scalar {
	if v.Absent() {
		return nil
	}
	functions := others()
	maps.Copy(functions, statuses())
	if len(v.Marks) > 0 || v.Kind >= pipeline.List {
		return r.read(v, functions)
	}
	template, mistake := expr.ParseExpression(v.Text)
	s := &scalar{v: v, template: template}
	if mistake != nil {
		r.mistakes(v, []*expr.Error{{Msg: mistake.Msg, Hint: mistake.Hint}})
		return s
	}
	for _, e := range template.Check(r.names, functions) {
		r.mistakes(v, []*expr.Error{{Msg: e.Msg, Hint: e.Hint}}) // an offset says little without the ${{
	}
	return s
}

// text reads a text that is no condition.
func (r *reader) text(v *pipeline.Value) *scalar {
	if v.Absent() {
		return nil
	}
	return r.read(v, others())
}

func (r *reader) read(v *pipeline.Value, functions map[string]int) *scalar {
	if v.Kind >= pipeline.List {
		r.report(v.Origin, "this must be a string, not "+v.Kind.String(), "")
		return nil
	}
	opens := make([]int, len(v.Marks))
	for i, m := range v.Marks {
		opens[i] = m.Offset
	}
	template, mistakes := expr.ParseTemplate(v.Text, opens)
	if len(mistakes) == 0 {
		mistakes = template.Check(r.names, functions)
	}
	r.mistakes(v, mistakes)
	return &scalar{v: v, template: template}
}

func (r *reader) mistakes(v *pipeline.Value, mistakes []*expr.Error) {
	for _, e := range mistakes {
		hint := e.Hint
		if _, status := statuses()[e.Name]; status {
			hint = e.Name + "() is for if alone"
		}
		if name, ok := strings.CutPrefix(e.Name, "secrets."); ok && !strings.HasPrefix(hint, "did you mean") {
			hint = "give it with --secret id=" + name
		}
		r.report(v.Place(e.Offset), e.Msg, hint)
	}
}

func (r *reader) tree(v *pipeline.Value) *tree {
	if v == nil {
		return nil
	}
	t := &tree{kind: v.Kind}
	switch v.Kind {
	case pipeline.List:
		for _, item := range v.Items {
			t.items = append(t.items, r.tree(item))
		}
	case pipeline.Map:
		t.members = map[string]*tree{}
		for _, m := range v.Members {
			t.members[m.Key] = r.tree(m.Value)
		}
	case pipeline.Null:
	default:
		t.leaf = r.text(v)
	}
	return t
}

// Check reports mistakes in steps, and mounts that steps cannot have; see pipeline.Worker.
func (w *Worker) Check(t *pipeline.Task, report pipeline.Report) {
	w.steps(t, report)
	for _, m := range t.Environment.Mounts {
		for _, own := range []string{"/proc", "/sys", "/dev", Workspace, filesDir} {
			if dir := path.Clean(m.Dir); dir == own || strings.HasPrefix(dir, own+"/") || strings.HasPrefix(own, dir+"/") {
				report(m.Origin, "nothing can be mounted on "+m.Dir+": "+own+" is the task's own", "mount it below /mnt")
			}
		}
	}
}
