package sfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"slipway/internal/mistake"
	"slipway/internal/suggest"
)

// evaluateAll evaluates everything once, to find what is wrong before anything is deployed, and checks the properties.
func (l *loader) evaluateAll() {
	check := func(e *evaluation, v *value) any {
		got := e.value(v)
		l.mistakes = append(l.mistakes, e.mistakes...)
		return got
	}
	check(&evaluation{loader: l}, l.root.get("vars"))
	l.checkActions(&evaluation{loader: l}, l.root.get("actions"))
	for i := range l.resources {
		r := &l.resources[i]
		props, _ := check(&evaluation{loader: l, resource: r}, r.props).(map[string]any)
		l.checkActions(&evaluation{loader: l, resource: r}, r.actions)
		l.checkProps(r, props)
	}
	if len(l.mistakes) == 0 {
		l.circles()
	}
}

func (l *loader) checkActions(e *evaluation, actions *value) {
	for _, m := range actions.entries() {
		for _, item := range m.value.itemsOrNone() {
			e.action(item)
		}
	}
	l.mistakes = append(l.mistakes, e.mistakes...)
}

// needs are the resources whose output or info a resource's properties refer to, the ones of the environment that are no
// resources left out.
func (l *loader) needs(r *Resource) []string {
	found := map[string]bool{}
	var walk func(v *value, depth int)
	seen := map[*value]bool{}
	visit := func(names []string) {
		switch {
		case names[0] == "resources" && len(names) > 2 && (names[2] == "output" || names[2] == "info"):
			found[names[1]] = true
		case names[0] == "resources" && len(names) > 2 && names[2] == "props":
			if other := l.find(names[1]); other != nil {
				walk(other.props, 0)
			}
		case names[0] == "vars":
			walk(l.root.get("vars"), 0)
		}
	}
	walk = func(v *value, depth int) {
		if v == nil || seen[v] || depth > maxDepth {
			return
		}
		seen[v] = true
		for _, m := range v.entries() {
			walk(m.value, depth+1)
		}
		for _, item := range v.items {
			walk(item, depth+1)
		}
		if v.isText() {
			pieces, _ := split(v.text) // what is wrong with it is reported where it is evaluated
			for _, p := range pieces {
				if p.expr != nil {
					paths(p.expr, visit)
				}
			}
		}
	}
	walk(r.props, 0)
	return slices.Sorted(maps.Keys(found))
}

func (l *loader) find(name string) *Resource {
	for i := range l.resources {
		if l.resources[i].Name == name {
			return &l.resources[i]
		}
	}
	return nil
}

// circles refuses resources that wait for one another.
func (l *loader) circles() {
	state := map[string]int{} // 1 while it is on the way, 2 when it is done
	var follow func(r *Resource, way []string)
	follow = func(r *Resource, way []string) {
		way = append(way, r.Name)
		switch state[r.Name] {
		case 1:
			l.fail(r.at, "resources need one another's output in a circle: "+strings.Join(way[slices.Index(way, r.Name):], " → "), "")
			return
		case 2:
			return
		}
		state[r.Name] = 1
		for _, name := range l.needs(r) {
			if next := l.find(name); next != nil {
				follow(next, way)
			}
		}
		state[r.Name] = 2
	}
	for i := range l.resources {
		follow(&l.resources[i], nil)
	}
}

// evaluation evaluates values for one resource, or for the file as a whole when resource is nil.
type evaluation struct {
	loader   *loader
	resource *Resource
	outputs  map[string]map[string]any
	// final says that outputs are all there are: one that is missing is a mistake. Before, it is left for later.
	final    bool
	mistakes mistake.Errors

	depth int
}

// value evaluates v: scalars by their expressions, keys of maps as they are. What comes out empty is left out of maps.
func (e *evaluation) value(v *value) any {
	switch {
	case v == nil:
		return nil
	case v.isMap():
		out := make(map[string]any, len(v.members))
		for _, m := range v.members {
			got := e.value(m.value)
			if _, gone := got.(missing); got != nil && !gone {
				out[m.key] = got
			}
		}
		return out
	case v.isList():
		out := make([]any, 0, len(v.items))
		for _, item := range v.items {
			out = append(out, e.value(item))
		}
		return out
	case v.isText() && strings.Contains(v.text, "${"):
		return e.scalar(v)
	default:
		return v.plain
	}
}

// scalar evaluates a string. One expression alone keeps the type of its value; beside other text it becomes text.
func (e *evaluation) scalar(v *value) any {
	pieces, bad := split(v.text)
	if bad != nil {
		e.fail(v, bad.offset, bad.msg, bad.hint)
		return nil
	}
	var b strings.Builder
	for _, p := range pieces {
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		got, err := evaluate(p.expr, e)
		if err == nil {
			err = e.found(p, got)
		}
		if err != nil {
			hint := ""
			if known, ok := errors.AsType[*exprError](err); ok {
				hint = known.hint
			}
			e.fail(v, p.offset, err.Error(), hint)
			return nil
		}
		switch got.(type) {
		case deferred, missing:
			return got
		}
		if len(pieces) == 1 {
			return got
		}
		b.WriteString(text(got))
	}
	return b.String()
}

// found refuses an expression that leads nowhere.
func (e *evaluation) found(p piece, got any) error {
	if _, nothing := got.(missing); !nothing || e.loader.opts.Check && usesCall(p.expr) {
		return nil
	}
	inside := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(p.text, "${"), "}"))
	out := &exprError{msg: p.text + " not found"}
	if root, ok := p.expr.(path); ok {
		roots := []string{"vars", "this", "resources"}
		if near := suggest.Nearest(root.names[0], slices.Values(roots)); near != root.names[0] {
			out.hint = "for a variable of the environment write ${env('" + inside + "')}, or in a command $" + inside
			if near != "" {
				out.hint = "did you mean " + near + "?"
			}
		}
	}
	return out
}

func usesCall(n node) bool {
	switch n := n.(type) {
	case call:
		return true
	case pick:
		return usesCall(n.of)
	case either:
		return usesCall(n.a) || usesCall(n.b)
	default:
		return false
	}
}

func (e *evaluation) fail(v *value, offset int, msg, hint string) {
	e.mistakes = append(e.mistakes, v.inside(offset).error(msg, hint))
}

// inside is the place of a byte of a scalar, as nearly as the file tells: folded and escaped texts are elsewhere than
// their bytes.
func (v *value) inside(offset int) place {
	at := v.at
	if at.file == nil || at.line < 1 || at.line > len(at.file.lines) {
		return at
	}
	rest := v.text[offset:]
	if end := strings.IndexAny(rest, "}\n"); end >= 0 {
		rest = rest[:end]
	}
	for line := at.line; line <= min(at.line+strings.Count(v.text, "\n")+1, len(at.file.lines)); line++ {
		from, source := 0, at.file.lines[line-1]
		if line == at.line {
			from = byteOf(source, at.col)
		}
		if i := strings.Index(source[from:], rest); i >= 0 {
			return place{at.file, line, 1 + utf8.RuneCountInString(source[:from+i])}
		}
	}
	return at
}

// byteOf turns a column, in characters from 1, into an offset.
func byteOf(line string, col int) int {
	for i := range line {
		if col--; col == 0 {
			return i
		}
	}
	return len(line)
}

// text is how a value stands in a text.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case map[string]any, []any:
		out, err := json.Marshal(v)
		if err != nil { // what YAML and JSON can hold, JSON can state
			panic("[bug] " + err.Error())
		}
		return string(out)
	default:
		return fmt.Sprint(v)
	}
}

// root gives what a path starts from; see scope.
func (e *evaluation) root(names []string) (any, []string, error) {
	switch names[0] {
	case "vars":
		v, rest := walkTo(e.loader.root.get("vars"), names[1:])
		return e.nested(v, e.resource), rest, nil
	case "this":
		if e.resource == nil {
			return nil, nil, &exprError{msg: "this is a resource, and here is none", hint: "write resources.NAME.props…"}
		}
		return e.of(e.resource, names[1:])
	case "resources":
		if len(names) == 1 {
			return missing{}, nil, nil
		}
		r := e.loader.find(names[1])
		if r == nil {
			return nil, nil, &exprError{msg: "no resource is called " + names[1], hint: e.loader.nearestResource(names[1])}
		}
		return e.of(r, names[2:])
	default:
		return missing{}, nil, nil
	}
}

// walkTo follows names down through what is written, so that only that is evaluated: a map may hold expressions that lead
// back here.
func walkTo(v *value, names []string) (*value, []string) {
	for i, name := range names {
		switch {
		case v.isMap():
			v = v.get(name)
		case v.isList():
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(v.items) {
				return nil, nil
			}
			v = v.items[n]
		default:
			return v, names[i:]
		}
	}
	return v, nil
}

// nested evaluates what an expression leads to, which may hold expressions.
func (e *evaluation) nested(v *value, r *Resource) any {
	if v == nil {
		return missing{}
	}
	if e.depth >= maxNesting {
		e.mistakes = append(e.mistakes, v.at.error(errDepth.Error(), ""))
		return nil
	}
	inner := evaluation{loader: e.loader, resource: r, outputs: e.outputs, final: e.final, depth: e.depth + 1}
	out := inner.value(v)
	for _, m := range inner.mistakes { // once for each place is enough, and a circle would say it many times
		if !slices.ContainsFunc(e.mistakes, func(o *mistake.Error) bool { return *o == *m }) {
			e.mistakes = append(e.mistakes, m)
		}
	}
	return out
}

// of gives what names lead to in a resource: name, component, access, props, output and info.
func (e *evaluation) of(r *Resource, names []string) (any, []string, error) {
	if len(names) == 0 {
		return missing{}, nil, nil
	}
	switch names[0] {
	case "name":
		return r.Name, names[1:], nil
	case "component":
		return r.Component, names[1:], nil
	case "access":
		return r.Access, names[1:], nil
	case "props":
		v, rest := walkTo(r.props, names[1:])
		return e.nested(v, r), rest, nil
	case "output", "info":
		if output, ok := e.outputs[r.Name]; ok {
			return output, names[1:], nil
		}
		if e.final && !e.loader.opts.Check {
			return nil, nil, &exprError{msg: r.Name + " has not been deployed, and has no output", hint: "deploy it first, or the whole file"}
		}
		return deferred{}, nil, nil
	default:
		return nil, nil, &exprError{msg: "a resource has no " + names[0], hint: "it has name, component, access, props, output and info"}
	}
}

// functions are the names for suggestions.
var functions = []string{"config", "env", "file", "json", "path", "regex", "secret", "str", "yaml"}

// call calls a function; see scope. What is not there is missing when only mistakes are looked for.
func (e *evaluation) call(name string, args []any) (any, error) {
	if !slices.Contains(functions, name) {
		hint := "there are " + strings.Join(functions, ", ")
		if near := suggest.Nearest(name, slices.Values(functions)); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, &exprError{msg: "unknown function " + name, hint: hint}
	}
	if most := map[bool]int{true: 2, false: 1}[name == "env"]; len(args) < 1 || len(args) > most {
		return nil, &exprError{msg: fmt.Sprintf("%s takes %d argument, and has %d", name, most, len(args)), hint: name + "('…')"}
	}
	if _, nothing := args[0].(missing); nothing {
		return missing{}, nil
	}
	argument := text(args[0])
	switch name {
	case "env":
		return e.variable(argument, args[1:])
	case "file", "path":
		return e.onDisk(name, argument)
	case "json":
		var v any
		if err := json.Unmarshal([]byte(argument), &v); err != nil {
			return nil, &exprError{msg: "json: " + err.Error()}
		}
		return v, nil
	case "yaml":
		var v any
		if len(argument) > MaxSize {
			return nil, &exprError{msg: fmt.Sprintf("yaml: more than %d bytes", MaxSize)}
		}
		if err := yaml.Unmarshal([]byte(argument), &v); err != nil {
			return nil, &exprError{msg: "yaml: " + err.Error()}
		}
		return plainKeys(v, 0), nil
	case "config":
		return e.lookup(e.loader.opts.Config != nil, "config('"+argument+"')", func() (string, bool) {
			return e.loader.opts.Config(e.access(), argument)
		})
	case "secret":
		return e.lookup(e.loader.opts.Secret != nil, "secret('"+argument+"')", func() (string, bool) { return e.loader.opts.Secret(argument) })
	default: // str makes text of a value; regex means something in keys alone
		return argument, nil
	}
}

func (e *evaluation) access() string {
	if e.resource == nil {
		return firstOf(e.loader.opts.Access, e.loader.envAccess, e.loader.root.get("access").string(), "default")
	}
	return e.resource.Access
}

// lookup asks for something that the caller of Load gives.
func (e *evaluation) lookup(able bool, what string, ask func() (string, bool)) (any, error) {
	if able {
		if value, ok := ask(); ok {
			return value, nil
		}
	}
	if e.loader.opts.Check {
		return missing{}, nil
	}
	return nil, &exprError{msg: what + " not found"}
}

// variable gives a variable of the environment. An empty one counts as missing.
func (e *evaluation) variable(name string, otherwise []any) (any, error) {
	if e.loader.opts.Env != nil {
		if value, ok := e.loader.opts.Env(name); ok && value != "" {
			return value, nil
		}
	}
	if value := e.loader.env[name]; value != "" {
		return value, nil
	}
	switch {
	case len(otherwise) > 0:
		return otherwise[0], nil
	case e.loader.opts.Check:
		return missing{}, nil
	default:
		return nil, &exprError{msg: "env('" + name + "') not found", hint: "set it, or give a default: env('" + name + "', '…')"}
	}
}

func (e *evaluation) onDisk(function, path string) (any, error) {
	var out string
	var err error
	switch {
	case function == "file":
		var data []byte
		data, err = e.loader.read(path)
		out = string(data)
	case e.loader.opts.Abs == nil:
		return e.lookup(false, "path('"+path+"')", nil)
	default:
		out, err = e.loader.opts.Abs(path)
	}
	if err != nil {
		if e.loader.opts.Check {
			return missing{}, nil
		}
		return nil, &exprError{msg: function + "('" + path + "'): " + reason(err)}
	}
	return out, nil
}

// plainKeys makes the maps that YAML gives ones with keys of text.
func plainKeys(v any, depth int) any {
	if depth > maxDepth {
		return nil
	}
	switch v := v.(type) {
	case map[any]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[fmt.Sprint(key)] = plainKeys(value, depth+1)
		}
		return out
	case map[string]any:
		for key, value := range v {
			v[key] = plainKeys(value, depth+1)
		}
		return v
	case []any:
		for i, item := range v {
			v[i] = plainKeys(item, depth+1)
		}
		return v
	case int:
		return int64(v)
	default:
		return v
	}
}

// action evaluates an entry of actions.
func (e *evaluation) action(item *value) Action {
	field := func(key string) string {
		got := e.value(item.get(key))
		switch got.(type) {
		case deferred, missing:
			return ""
		default:
			return text(got)
		}
	}
	out := Action{Run: field("run"), Component: field("component"), Plugin: field("plugin"), Path: field("path")}
	out.Args, _ = e.value(item.get("args")).(map[string]any)
	if item != nil && item.at.file != nil {
		out.Place = fmt.Sprintf("%s:%d:%d", item.at.file.name, item.at.line, item.at.col)
	}
	allow := item.get("allow_failure")
	out.AllowFailure = allow.isMap() || allow.string() == "true"
	for _, code := range allow.get("exit_code").itemsOrNone() {
		if n, err := strconv.Atoi(code.string()); err == nil {
			out.ExitCodes = append(out.ExitCodes, n)
		} else {
			e.fail(code, 0, "an exit code is a number", "")
		}
	}
	for _, command := range allow.get("command").itemsOrNone() {
		out.Commands = append(out.Commands, command.string())
	}
	return out
}
