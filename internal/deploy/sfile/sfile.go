// Package sfile reads s.yaml files, edition 3.0.0: which functions an application has and what to do around their
// deployment.
//
//	project, warnings, err := sfile.Load("s.yaml", data, sfile.Options{ReadFile: read, Env: os.LookupEnv})
//	for _, group := range steps { … project.Props(name, outputs) … }
//
// Load reports every mistake at once, each at its file, line and column. What an expression such as
// ${resources.db.output.url} gives is known only when that resource has been deployed, so Props evaluates again, with the
// outputs there are by then.
//
// Package sfile is pure: files, environment and credentials come through Options. It deploys nothing.
package sfile

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"slipway/internal/mistake"
)

// Options give what a file may ask for. Every function may be nil: then there is nothing of its kind.
type Options struct {
	// ReadFile reads a file by its path, as the s.yaml writes it: relative to the s.yaml's folder, or absolute. A file
	// that is not there is fs.ErrNotExist. The caller decides what may be read.
	ReadFile func(path string) ([]byte, error)
	// Abs gives the absolute path of a file or folder that exists, for ${path('…')}.
	Abs func(path string) (string, error)
	// Env gives a variable of the environment; it beats the .env file.
	Env func(name string) (string, bool)
	// Config gives a field of the credentials behind an access alias, such as AccountID.
	Config func(access, key string) (string, bool)
	// Secret gives a stored secret.
	Secret func(key string) (string, bool)
	// Access is the alias of credentials that beats what the files say.
	Access string
	// Environment names an environment of env.yaml whose overlays apply.
	Environment string
	// Check only looks for mistakes: variables, files and credentials that are not there are no mistakes.
	Check bool
}

// Project is a file, read and checked.
type Project struct {
	Name string
	// Resources in the order of the file.
	Resources []Resource

	load *loader
}

// Resource is one thing to deploy.
type Resource struct {
	Name string
	// Component is what deploys it: fc3.
	Component string
	// Access is the alias of the credentials to deploy with.
	Access string

	props, actions *value
	at             place
}

// Phase is when an action runs.
type Phase string

// The phases: before the command, after it went well, after it failed, and in either case at the end.
const (
	Pre      Phase = "pre"
	Success  Phase = "success"
	Fail     Phase = "fail"
	Complete Phase = "complete"
)

// Action is something to do around a command.
type Action struct {
	// Run is a shell command, Component a command of the resource's own component such as "fc3 build", Plugin a package.
	// One of them is set.
	Run, Component, Plugin string
	// Path is the folder to run in, relative to the s.yaml's. Default: that folder.
	Path string
	// Args are a plugin's.
	Args map[string]any
	// AllowFailure says that a failure stops nothing; with ExitCodes or Commands set, only for those.
	AllowFailure bool
	ExitCodes    []int
	Commands     []string
	// Place is file:line:column.
	Place string
}

// Allows reports whether a failure of the action while doing command, with an exit code, is forgiven.
func (a *Action) Allows(command string, code int) bool {
	return a.AllowFailure &&
		(len(a.ExitCodes) == 0 || slices.Contains(a.ExitCodes, code)) &&
		(len(a.Commands) == 0 || slices.Contains(a.Commands, command))
}

// Load reads a file and all that it refers to. name is how messages call it. The error is a mistake.Errors.
func Load(name string, data []byte, opts Options) (*Project, mistake.Errors, error) {
	l := &loader{opts: opts}
	l.root = l.extended(name, data, nil)
	if len(l.mistakes) == 0 {
		l.dotenv()
		l.structure()
	}
	if len(l.mistakes) == 0 {
		l.overlay()
		l.inherit()
		l.evaluateAll()
	}
	if err := l.mistakes.OrNil(); err != nil {
		return nil, l.warnings.Sorted(), err
	}
	p := &Project{Name: l.root.get("name").string(), load: l, Resources: l.resources}
	return p, l.warnings.Sorted(), nil
}

// loader is a file on its way to a Project, and what its expressions are evaluated with afterwards.
type loader struct {
	opts      Options
	root      *value
	env       map[string]string // of the .env file
	envAccess string            // the access of the environment in env.yaml
	resources []Resource
	mistakes  mistake.Errors
	warnings  mistake.Errors
}

func (l *loader) fail(at place, msg, hint string) {
	l.mistakes = append(l.mistakes, at.error(msg, hint))
}

func (l *loader) warn(at place, msg, hint string) {
	e := at.error(msg, hint)
	e.Warning = true
	l.warnings = append(l.warnings, e)
}

// maxExtends bounds how many files extend one another.
const maxExtends = 8

// extended parses a file and lays it over the one it extends.
func (l *loader) extended(name string, data []byte, chain []string) *value {
	v := l.parse(name, data)
	if !v.isMap() {
		if len(l.mistakes) == 0 {
			l.fail(place{&source{name: name}, 1, 1}, "the file is not a map", "it begins with edition: 3.0.0")
		}
		return nil
	}
	base := v.get("extend")
	if base.absent() {
		return v
	}
	path := base.string()
	switch {
	case path == "":
		l.fail(base.at, "extend takes the path of a file", "")
		return v
	case len(chain) >= maxExtends || slices.Contains(chain, path):
		l.fail(base.at, "files extend one another in a circle", strings.Join(append(chain, path), " → "))
		return v
	}
	below, err := l.read(path)
	if err != nil {
		l.fail(base.at, "extend "+path+": "+reason(err), "")
		return v
	}
	return merge(l.extended(path, below, append(chain, path)), v)
}

func (l *loader) read(path string) ([]byte, error) {
	if l.opts.ReadFile == nil {
		return nil, fs.ErrNotExist
	}
	data, err := l.opts.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// Steps is the order in which a command goes over the resources: the groups one after another, those in a group side by
// side. A flow in the file that matches the command decides, and leaves out what it does not name; otherwise a resource
// comes after those whose output it refers to, and else in the order of the file, each by itself.
func (p *Project) Steps(command string) [][]string {
	for _, m := range p.load.root.get("flow").entries() {
		if !matches(m.key, command) {
			continue
		}
		var groups [][]string
		for _, group := range m.value.items {
			var names []string
			for _, name := range group.items {
				names = append(names, name.string())
			}
			groups = append(groups, names)
		}
		return groups
	}
	var groups [][]string
	done := map[string]bool{}
	for range p.Resources { // each round finds at least one: Load has refused circles
		for i := range p.Resources {
			r := &p.Resources[i]
			ready := !slices.ContainsFunc(p.load.needs(r), func(name string) bool { return !done[name] })
			if ready && !done[r.Name] {
				done[r.Name] = true
				groups = append(groups, []string{r.Name})
			}
		}
	}
	return groups
}

// Resource returns the resource called name, or nil.
func (p *Project) Resource(name string) *Resource {
	for i := range p.Resources {
		if p.Resources[i].Name == name {
			return &p.Resources[i]
		}
	}
	return nil
}

// Props evaluates a resource's properties. outputs are those of the resources that have been deployed, by name. What an
// expression leaves empty is left out.
func (p *Project) Props(name string, outputs map[string]map[string]any) (map[string]any, error) {
	r := p.Resource(name)
	if r == nil {
		return nil, fmt.Errorf("[bug] no resource %s", name)
	}
	e := &evaluation{loader: p.load, resource: r, outputs: outputs, final: true}
	props, _ := e.value(r.props).(map[string]any)
	return props, e.mistakes.OrNil()
}

// Actions returns what to do in a phase of a command: around a resource, or around all of them when resource is empty.
func (p *Project) Actions(phase Phase, command, resource string, outputs map[string]map[string]any) ([]Action, error) {
	from, e := p.load.root.get("actions"), &evaluation{loader: p.load, outputs: outputs, final: true}
	if resource != "" {
		e.resource = p.Resource(resource)
		if e.resource == nil {
			return nil, fmt.Errorf("[bug] no resource %s", resource)
		}
		from = e.resource.actions
	}
	var out []Action
	for _, m := range from.entries() {
		if at, pattern, ok := hook(m.key); ok && at == phase && matches(pattern, command) {
			for _, item := range m.value.items {
				out = append(out, e.action(item))
			}
		}
	}
	return out, e.mistakes.OrNil()
}

// hook takes the key of actions apart: pre-deploy is before, and for deploy. post- is an old name of complete-.
func hook(key string) (Phase, string, bool) {
	phase, pattern, ok := strings.Cut(key, "-")
	switch Phase(phase) {
	case Pre, Success, Fail, Complete:
		return Phase(phase), pattern, ok && pattern != ""
	case "post":
		return Complete, pattern, ok && pattern != ""
	default:
		return "", "", false
	}
}

// regexCall takes the pattern out of ${regex('…')}.
func regexCall(key string) (pattern string, ok bool) {
	inside, ok := strings.CutPrefix(key, "${")
	if ok {
		inside, ok = strings.CutSuffix(inside, "}")
	}
	if ok {
		inside, ok = strings.CutPrefix(strings.TrimSpace(inside), "regex(")
	}
	if ok {
		inside, ok = strings.CutSuffix(inside, ")")
	}
	inside = strings.TrimSpace(inside)
	if n := len(inside); n >= 2 && (inside[0] == '\'' || inside[0] == '"') && inside[n-1] == inside[0] {
		inside = inside[1 : n-1]
	}
	return inside, ok
}

// matches reports whether a key of flow or actions means a command: by name, or by a regular expression in
// ${regex('…')} that is found anywhere in the name.
func matches(key, command string) bool {
	if pattern, ok := regexCall(key); ok {
		re, err := regexp.Compile(pattern)
		return err == nil && re.MatchString(command)
	}
	return key == command
}
