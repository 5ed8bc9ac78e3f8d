// Package spec reads pipeline files: YAML in, a resolved pipeline.Pipeline out, and every mistake of a file at once,
// each with its place and what to do about it.
//
// A File is one YAML file of one or several documents, of the kinds Pipeline, PipelineTemplate, TaskTemplate and
// PipelineTrigger. Reading goes through four steps, each of which collects mistakes and goes on:
//
//	parse      bytes -> Values with positions; aliases expanded within bounds
//	evaluate   <% %> in scalars, by package expr
//	check      keys and types, by the table in keys.go, which is also where the JSON schema comes from
//	resolve    templates found, contexts merged, conditions decided, the graph checked, workers asked
//
// Validate goes through all four with sample values for the variables; Resolve does it with real ones and returns the
// pipeline. Package spec is pure: it opens no file, reads no clock and no environment.
package spec

import (
	"slices"

	"slipway/internal/pipeline"
)

// The kinds of document.
const (
	KindPipeline         = "Pipeline"
	KindPipelineTemplate = "PipelineTemplate"
	KindTaskTemplate     = "TaskTemplate"
	KindPipelineTrigger  = "PipelineTrigger"
)

// File is a parsed file.
type File struct {
	// Name is the file's name as messages show it.
	Name string
	// Documents are the roots of the file's documents, empty ones left out, <% %> not yet evaluated.
	Documents []*pipeline.Value

	lines  []string
	errors Errors
	broken bool // something after a mistake could not be read at all
}

// Options are what a file's meaning depends on besides its text. The zero value works for files without variables.
type Options struct {
	// Variables give <% %> its values, keyed without the leading dot: "git.branch".
	Variables map[string]string
	// Set are the user's --set KEY=VALUE. Each is a variable, and beats one of the same name in Variables; a KEY
	// without a dot is also put into the context above spec.context and below the tasks' own contexts.
	Set map[string]string
	// Env is added to every task's environment and beats what the file says.
	Env map[string]string
	// Only names the tasks to run; all others are skipped. Default: all of them.
	Only []string
	// Prefer names the file whose Pipeline is resolved when others have one too. Default: there must be only one.
	Prefer string
	// Approved are the user's --approve: names of need-approval tasks, or "*".
	Approved []string
	// Checkers are asked about the tasks of a preset worker, by its name ("build-image"). A task whose worker has none
	// is refused unless it is skipped. Default: no worker is available.
	Checkers map[string]Checker
	// Every is asked about each task that runs, whatever its worker. Default: nobody is.
	Every []Checker
}

// Checker knows what a worker expects in a task's context. Every pipeline.Worker is one.
type Checker interface {
	Check(t *pipeline.Task, report pipeline.Report)
}

// Resolve turns the one Pipeline among the files' documents into what can be run; the other documents are the
// templates it may name. warnings are told to the user and stop nothing. The error is an Errors, of kind errs.Invalid.
func Resolve(files []*File, opts Options) (p *pipeline.Pipeline, warnings Errors, err error) {
	s := newSet(preferred(files, opts.Prefer), opts)
	documents := s.load()
	pipelines := documents[KindPipeline]
	switch {
	case s.broken():
	case len(pipelines) == 0:
		if len(s.errors) == 0 {
			s.report(fileStart(files), "there is no document of kind Pipeline: nothing to run", hintNoPipeline(documents))
		}
	case len(pipelines) == 1:
		p = s.resolve(pipelines[0], documents)
	default:
		for _, d := range pipelines[1:] {
			s.report(d.Get("kind").At(d.Origin), "a second Pipeline: a run has one, the first is at "+pipelines[0].Get("kind").At(pipelines[0].Origin).String(),
				"put it into a file of its own")
		}
	}
	if err := s.errors.OrNil(); err != nil {
		return nil, s.warnings.Sorted(), err
	}
	return p, s.warnings.Sorted(), nil
}

// preferred leaves the Pipelines of all other files out when the file called name has one: in a folder of pipelines
// that share templates, only one is meant, and what is wrong with the others is not asked for.
func preferred(files []*File, name string) []*File {
	isPipeline := func(d *pipeline.Value) bool { return d.Get("kind").String() == KindPipeline }
	if !slices.ContainsFunc(files, func(f *File) bool { return f.Name == name && slices.ContainsFunc(f.Documents, isPipeline) }) {
		return files
	}
	out := make([]*File, len(files))
	for i, f := range files {
		one := *f
		if f.Name != name {
			one.Documents = slices.DeleteFunc(slices.Clone(f.Documents), isPipeline)
		}
		out[i] = &one
	}
	return out
}

// Validate checks every document of the files as Resolve does, with sample values for variables that have none.
func Validate(files []*File, opts Options) (warnings Errors, err error) {
	opts.Variables = withSamples(opts.Variables)
	s := newSet(files, opts)
	documents := s.load()
	if s.broken() {
		return s.warnings.Sorted(), s.errors.OrNil()
	}
	for _, d := range documents[KindPipeline] {
		s.resolve(d, documents)
	}
	for _, d := range documents[KindPipelineTemplate] {
		if !s.used[d] {
			s.resolve(instance(d), documents)
		}
	}
	return s.warnings.Sorted(), s.errors.OrNil()
}

// instance is the Pipeline that runs a template and adds nothing to it, for checking a template nobody uses.
func instance(template *pipeline.Value) *pipeline.Value {
	return &pipeline.Value{Kind: pipeline.Map, Origin: template.Origin, Members: []pipeline.Member{
		{Key: "name", Value: template.Get("name")},
		{Key: "spec", Value: &pipeline.Value{Kind: pipeline.Map, Origin: template.Origin, Members: []pipeline.Member{
			{Key: "templateSpec", Origin: template.Origin, Value: template.Get("spec")},
		}}},
	}}
}

func fileStart(files []*File) pipeline.Origin {
	if len(files) == 0 {
		return pipeline.Origin{File: "pipeline"}
	}
	return pipeline.Origin{File: files[0].Name, Line: 1, Col: 1}
}

func hintNoPipeline(documents map[string][]*pipeline.Value) string {
	if templates := documents[KindPipelineTemplate]; len(templates) > 0 {
		return "add a Pipeline with spec.templateName: " + templates[0].Get("name").String()
	}
	return "begin with: kind: Pipeline"
}

// set is the state of one reading of some files.
type set struct {
	opts     Options
	files    []*File
	errors   Errors
	warnings Errors
	used     map[*pipeline.Value]bool // templates that a Pipeline named
}

func newSet(files []*File, opts Options) *set {
	s := &set{opts: opts, files: files, used: map[*pipeline.Value]bool{}}
	for _, file := range files {
		s.errors = append(s.errors, file.errors...)
	}
	return s
}

// broken reports whether part of a file is unknown: then nobody can say that a template is missing.
func (s *set) broken() bool {
	return slices.ContainsFunc(s.files, func(f *File) bool { return f.broken })
}

// load evaluates and checks every document and returns them by kind.
func (s *set) load() map[string][]*pipeline.Value {
	documents := map[string][]*pipeline.Value{}
	named := map[string]pipeline.Origin{}
	for _, file := range s.files {
		for _, root := range file.Documents {
			d := s.evaluate(root)
			kind := d.Get("kind").String()
			if !s.checkDocument(kind, d) {
				continue
			}
			documents[kind] = append(documents[kind], d)
			s.unique(named, kind, d.Get("name"))
		}
	}
	return documents
}

// unique refuses a second document of the same kind and name; pipelines, to which nothing refers, only within a file.
func (s *set) unique(named map[string]pipeline.Origin, kind string, name *pipeline.Value) {
	key := kind + " " + name.String()
	if kind == KindPipeline {
		key += " " + name.At(pipeline.Origin{}).File
	}
	if first, again := named[key]; again && name.String() != "" {
		s.report(name.Origin, "a second "+kind+" with the name "+quote(name.String())+", the first is at "+first.String(), "give each its own name")
		return
	}
	named[key] = name.At(pipeline.Origin{})
}

// maxMistakes bounds what one reading reports: beyond it a file is not one that somebody will mend line by line, and
// looking for suggestions would cost more than they are worth.
const maxMistakes = 500

func (s *set) full() bool { return len(s.errors) >= maxMistakes }

// report takes a mistake.
func (s *set) report(at pipeline.Origin, msg, hint string) {
	if s.full() {
		return
	}
	s.errors = append(s.errors, s.diagnostic(at, msg, hint))
}

// warn takes something that stops nothing.
func (s *set) warn(at pipeline.Origin, msg, hint string) {
	e := s.diagnostic(at, msg, hint)
	e.Warning = true
	s.warnings = append(s.warnings, e)
}

func (s *set) diagnostic(at pipeline.Origin, msg, hint string) *Error {
	e := &Error{File: at.File, Line: at.Line, Col: at.Col, Msg: msg, Hint: hint}
	for _, file := range s.files {
		if file.Name == at.File {
			e.Source = file.line(at.Line)
		}
	}
	return e
}
