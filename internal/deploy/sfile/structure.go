package sfile

import (
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"slipway/internal/mistake"
	"slipway/internal/suggest"
)

// Keys of the maps that a file is made of.
var (
	topKeys      = []string{"edition", "name", "access", "extend", "env", "vars", "template", "flow", "actions", "resources"}
	resourceKeys = []string{"component", "access", "props", "actions", "extend"}
	actionKeys   = []string{"run", "component", "plugin", "path", "args", "allow_failure"}
)

// structure checks the file's shape and finds its resources.
func (l *loader) structure() {
	root := l.root
	for _, m := range root.entries() {
		if m.key == "services" {
			l.fail(m.at, "services is of editions before 3.0.0", "rename it to resources, and the components fc to fc3 with its flat props; 's cli fc3 s2tos3' converts a file")
			return
		}
		l.known(m, topKeys, "")
	}
	edition := root.get("edition")
	if text := edition.string(); text != "3.0.0" {
		at := root.at
		if edition != nil {
			at = edition.at
		}
		l.fail(at, "the edition is "+orNothing(text)+", and only 3.0.0 is read", "edition: 3.0.0")
	}
	resources := root.get("resources")
	if !resources.isMap() || len(resources.members) == 0 {
		at := root.at
		if resources != nil {
			at = resources.at
		}
		l.fail(at, "there are no resources", "resources: is a map of names to {component: fc3, props: {…}}")
		return
	}
	for _, key := range []string{"vars", "template", "flow", "actions"} {
		if v := root.get(key); !v.absent() && !v.isMap() {
			l.fail(v.at, key+" is a map", "")
		}
	}
	for _, m := range resources.members {
		l.resource(m)
	}
	l.hooks(root.get("actions"), false)
	l.flow(root.get("flow"))
}

func orNothing(text string) string {
	if text == "" {
		return "missing"
	}
	return text
}

// known warns of a key that is none of keys; where names it, for the message.
func (l *loader) known(m member, keys []string, where string) {
	if slices.Contains(keys, m.key) {
		return
	}
	hint := ""
	if near := suggest.Nearest(m.key, slices.Values(keys)); near != "" {
		hint = "did you mean " + near + "?"
	}
	l.warn(m.at, "unknown key "+where+m.key, hint)
}

func (l *loader) resource(m member) {
	r := Resource{Name: m.key, at: m.at, Component: m.value.get("component").string(), props: m.value.get("props"), actions: m.value.get("actions")}
	if !m.value.isMap() {
		l.fail(m.at, "the resource "+m.key+" is a map", "component: fc3, and props")
		return
	}
	for _, key := range m.value.members {
		l.known(key, resourceKeys, "")
	}
	at := m.at
	if v := m.value.get("component"); v != nil {
		at = v.at
	}
	switch name, _, _ := strings.Cut(r.Component, "@"); {
	case name == "":
		l.fail(at, "the resource "+m.key+" has no component", "component: fc3")
	case name != Component:
		l.fail(at, "slipway has no component "+name, "component: fc3 deploys functions of Function Compute 3.0")
	}
	if r.props != nil && !r.props.isMap() {
		l.fail(r.props.at, "props is a map", "")
	}
	l.hooks(r.actions, true)
	l.resources = append(l.resources, r)
}

// Component is the component that slipway has.
const Component = "fc3"

// hooks checks the actions of the file, or of a resource.
func (l *loader) hooks(actions *value, ofResource bool) {
	for _, m := range actions.entries() {
		_, pattern, ok := hook(m.key)
		if !ok {
			l.fail(m.at, "unknown action "+m.key, "an action is pre-, success-, fail- or complete- and a command: pre-deploy")
			continue
		}
		if strings.HasPrefix(m.key, "post-") {
			l.warn(m.at, m.key+" is an old name", "complete-"+pattern)
		}
		l.pattern(m, pattern)
		if !m.value.isList() {
			l.fail(m.at, m.key+" is a list", "- run: npm install")
			continue
		}
		for _, item := range m.value.items {
			l.hook(item, ofResource)
		}
	}
}

// pattern refuses a ${regex('…')} that is none.
func (l *loader) pattern(m member, pattern string) {
	if call, ok := regexCall(pattern); ok {
		if _, err := regexp.Compile(call); err != nil {
			l.fail(m.at, err.Error(), "")
		}
	} else if strings.Contains(pattern, "${") {
		l.fail(m.at, "in a key only ${regex('…')} has a meaning", "")
	}
}

func (l *loader) hook(item *value, ofResource bool) {
	var kinds []string
	for _, m := range item.entries() {
		l.known(m, actionKeys, "")
		if m.key == "run" || m.key == "component" || m.key == "plugin" {
			kinds = append(kinds, m.key)
		}
	}
	switch {
	case !item.isMap():
		if item != nil {
			l.fail(item.at, "an action is a map", "- run: npm install")
		}
	case len(kinds) != 1:
		l.fail(item.at, "an action has one of run, component and plugin", "")
	case kinds[0] == "component" && !ofResource:
		l.fail(item.at, "component has a meaning only in the actions of a resource", "move it into resources.NAME.actions")
	}
	allow := item.get("allow_failure")
	if !allow.absent() && !allow.isMap() && allow.string() != "true" && allow.string() != "false" {
		l.fail(allow.at, "allow_failure is true, false, or {exit_code: […], command: […]}", "")
	}
	for _, m := range allow.entries() {
		l.known(m, []string{"exit_code", "command"}, "allow_failure.")
	}
}

func (l *loader) flow(flow *value) {
	for _, m := range flow.entries() {
		l.pattern(m, m.key)
		if !m.value.isList() {
			l.fail(m.at, "flow."+m.key+" is a list of lists", "[[a], [b, c]] deploys a, then b and c side by side")
			continue
		}
		seen := map[string]bool{}
		for _, group := range m.value.items {
			if !group.isList() {
				l.fail(m.at, "flow."+m.key+" is a list of lists", "write - [NAME]")
				continue
			}
			for _, name := range group.items {
				text := name.string()
				switch {
				case !slices.ContainsFunc(l.resources, func(r Resource) bool { return r.Name == text }):
					l.fail(name.at, "no resource is called "+orNothing(text), l.nearestResource(text))
				case seen[text]:
					l.fail(name.at, text+" is in the flow twice", "")
				}
				seen[text] = true
			}
		}
	}
}

func (l *loader) nearestResource(name string) string {
	near := suggest.Nearest(name, func(yield func(string) bool) {
		for _, r := range l.resources {
			if !yield(r.Name) {
				return
			}
		}
	})
	if near == "" {
		return ""
	}
	return "did you mean " + near + "?"
}

// dotenv reads the .env file beside the s.yaml.
func (l *loader) dotenv() {
	data, err := l.read(".env")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		l.mistakes = append(l.mistakes, &mistake.Error{File: ".env", Msg: reason(err)})
	default:
		l.env = parseDotenv(string(data))
	}
}

// parseDotenv reads NAME=value lines: comments, an export in front, single quotes that keep all, double quotes with
// backslashes, and unquoted values up to a comment.
func parseDotenv(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		switch {
		case len(value) >= 2 && value[0] == '\'' && strings.IndexByte(value[1:], '\'') >= 0:
			value = value[1 : 1+strings.IndexByte(value[1:], '\'')]
		case len(value) >= 2 && value[0] == '"':
			p := &exprParser{text: value}
			if unquoted, err := p.quoted(); err == nil {
				value = unquoted
			}
		default:
			if comment := strings.Index(value, " #"); comment >= 0 {
				value = strings.TrimSpace(value[:comment])
			}
		}
		out[name] = value
	}
	return out
}

// overlay lays what the environment changes over the resources' props: overlays.components by component, then
// overlays.resources by name.
func (l *loader) overlay() {
	if l.opts.Environment == "" {
		return
	}
	name, at := "env.yaml", l.root.at
	if v := l.root.get("env"); !v.absent() {
		name, at = v.string(), v.at
	}
	data, err := l.read(name)
	if err != nil {
		l.fail(at, "the environment "+l.opts.Environment+": "+reason(err), "environments are described in "+name)
		return
	}
	file := l.parse(name, data)
	var environment *value
	known := map[string]bool{}
	for _, e := range file.get("environments").itemsOrNone() {
		known[e.get("name").string()] = true
		if e.get("name").string() == l.opts.Environment {
			environment = e
		}
	}
	if environment == nil {
		hint := ""
		if near := suggest.Nearest(l.opts.Environment, slices.Values(slices.Sorted(maps.Keys(known)))); near != "" {
			hint = "did you mean " + near + "?"
		}
		l.fail(file.place(at), name+" has no environment "+l.opts.Environment, hint)
		return
	}
	l.envAccess = environment.get("access").string()
	overlays := environment.get("overlays")
	for _, m := range overlays.get("resources").entries() {
		if !slices.ContainsFunc(l.resources, func(r Resource) bool { return r.Name == m.key }) {
			l.fail(m.at, "no resource is called "+m.key, l.nearestResource(m.key))
		}
	}
	for i := range l.resources {
		r := &l.resources[i]
		for _, over := range []*value{overlays.get("components").get(r.Component), overlays.get("resources").get(r.Name)} {
			if props := over.get("props"); props.isMap() {
				over = props
			}
			r.props = merge(r.props, over)
		}
	}
}

func (v *value) itemsOrNone() []*value {
	if !v.isList() {
		return nil
	}
	return v.items
}

func (v *value) place(otherwise place) place {
	if v == nil {
		return otherwise
	}
	return v.at
}

// inherit puts the templates that resources extend below their props, and settles their access.
func (l *loader) inherit() {
	for i := range l.resources {
		r := &l.resources[i]
		written := l.root.get("resources").get(r.Name)
		r.Access = firstOf(l.opts.Access, l.envAccess, written.get("access").string(), l.root.get("access").string(), "default")
		extend := written.get("extend")
		if extend.absent() {
			continue
		}
		name := extend.get("name").string()
		template := l.root.get("template").get(name)
		if !template.isMap() {
			hint := ""
			if near := suggest.Nearest(name, func(yield func(string) bool) {
				for _, m := range l.root.get("template").entries() {
					if !yield(m.key) {
						return
					}
				}
			}); near != "" {
				hint = "did you mean " + near + "?"
			}
			l.fail(extend.at, "no template is called "+orNothing(name), hint)
			continue
		}
		ignored := extend.get("ignore").itemsOrNone()
		below := *template
		below.members = slices.DeleteFunc(slices.Clone(template.members), func(m member) bool {
			return slices.ContainsFunc(ignored, func(v *value) bool { return v.string() == m.key })
		})
		r.props = merge(&below, r.props)
	}
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// reason is an error without the path that the message names already.
func reason(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "there is no such file"
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
