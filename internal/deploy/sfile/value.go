package sfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"slipway/internal/mistake"
)

// Bounds on what a stranger's file may ask of us.
const (
	MaxSize   = 1 << 20 // bytes of a file
	maxDepth  = 64      // maps and lists inside one another
	maxValues = 50_000  // values of a file after aliases are expanded
)

// place is where something was written.
type place struct {
	file      *source
	line, col int
}

// source is a file that was read, kept for the lines in messages.
type source struct {
	name  string
	lines []string
}

// value is a piece of YAML that knows where it was written. A nil *value stands for one that is absent.
type value struct {
	// plain is a scalar as YAML's core schema reads it: nil, bool, int64, float64 or string.
	plain any
	// text is a scalar as it was written.
	text    string
	items   []*value
	members []member
	kind    yaml.Kind
	at      place
}

type member struct {
	key   string
	at    place
	value *value
}

func (v *value) isMap() bool  { return v != nil && v.kind == yaml.MappingNode }
func (v *value) isList() bool { return v != nil && v.kind == yaml.SequenceNode }

// isText reports whether the value is a string.
func (v *value) isText() bool {
	if v == nil || v.kind != yaml.ScalarNode {
		return false
	}
	_, ok := v.plain.(string)
	return ok
}

func (v *value) absent() bool { return v == nil || v.kind == yaml.ScalarNode && v.plain == nil }

func (v *value) get(key string) *value {
	if !v.isMap() {
		return nil
	}
	for _, m := range v.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// string is a scalar's text, and empty for anything else.
func (v *value) string() string {
	if v.absent() || v.kind != yaml.ScalarNode {
		return ""
	}
	return v.text
}

// merge lays over on top of base: maps key by key, however deep; anything else, lists included, is replaced whole.
func merge(base, over *value) *value {
	switch {
	case over == nil:
		return base
	case !base.isMap() || !over.isMap():
		return over
	}
	out := &value{kind: yaml.MappingNode, at: over.at, members: slices.Clone(base.members)}
	for _, m := range over.members {
		if i := slices.IndexFunc(out.members, func(o member) bool { return o.key == m.key }); i >= 0 {
			out.members[i] = member{m.key, m.at, merge(out.members[i].value, m.value)}
		} else {
			out.members = append(out.members, m)
		}
	}
	return out
}

// parser reads one file of YAML. Mistakes go to report.
type parser struct {
	file   *source
	report func(at place, msg, hint string)
	values int
}

// parse reads the one document of a file; nil when there is none that can be used.
func (l *loader) parse(name string, data []byte) *value {
	text := strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	p := &parser{file: &source{name: name, lines: strings.Split(text, "\n")}, report: l.fail}
	if len(data) > MaxSize {
		l.fail(place{p.file, 1, 1}, fmt.Sprintf("the file is larger than %d bytes", MaxSize), "")
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false))
	var node yaml.Node
	if err == nil {
		err = loader.Load(&node)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		p.syntax(err)
		return nil
	}
	v := p.value(&node, 0)
	var more yaml.Node
	if err := loader.Load(&more); err == nil {
		l.fail(place{p.file, more.Line, max(more.Column, 1)}, "a second document", "an s.yaml is one document: remove the ---")
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
	}
	return v
}

func (p *parser) syntax(err error) {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		p.report(place{p.file, 1, 1}, err.Error(), "")
		return
	}
	mark, msg, hint := e.Mark, e.Message, ""
	if e.ContextMsg != "" {
		msg = strings.TrimSpace(e.ContextMsg) + ": " + msg
	}
	if mark.Line == 0 {
		mark = e.ContextMark
	}
	line := min(max(mark.Line, 1), len(p.file.lines))
	if strings.HasPrefix(strings.TrimLeft(p.file.lines[line-1], " "), "\t") {
		hint = "indent with spaces: YAML does not take tabs there"
	}
	p.report(place{p.file, line, max(mark.Column, 1)}, strings.TrimSpace(msg), hint)
}

func (p *parser) at(n *yaml.Node) place { return place{p.file, n.Line, n.Column} }

// value converts a node. Aliases are expanded, and counted each time: that is what bounds a billion laughs.
func (p *parser) value(n *yaml.Node, depth int) *value {
	if p.values++; depth > maxDepth || p.values > maxValues {
		if p.values <= maxValues+1 {
			p.report(p.at(n), fmt.Sprintf("more than %d values, or more than %d maps and lists inside one another", maxValues, maxDepth), "")
			p.values = maxValues + 1
		}
		return nil
	}
	v := &value{at: p.at(n), kind: n.Kind}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return nil
		}
		return p.value(n.Content[0], depth)
	case yaml.AliasNode:
		return p.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			v.items = append(v.items, p.value(item, depth+1))
		}
	case yaml.MappingNode:
		p.members(v, n, depth)
	default:
		v.kind, v.text, v.plain = yaml.ScalarNode, n.Value, p.scalar(n)
	}
	return v
}

// scalar reads a scalar by YAML's core schema. A number that has no short form, such as an account id, keeps its digits
// in value.text.
func (p *parser) scalar(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
			return i
		}
	case "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return f
		}
	case "!!str", "!!timestamp":
	default:
		p.report(p.at(n), "the tag "+n.Tag+" means nothing here", "leave it out")
	}
	return n.Value
}

func (p *parser) members(v *value, n *yaml.Node, depth int) {
	seen := map[string]int{}
	var inherited []*value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.report(p.at(key), "a key must be a scalar", "")
			continue
		case key.ShortTag() == "!!merge":
			from := p.value(content, depth+1)
			if from.isList() {
				inherited = append(inherited, from.items...)
			} else {
				inherited = append(inherited, from)
			}
			continue
		case seen[key.Value] != 0:
			p.report(p.at(key), fmt.Sprintf("the key %q is there already, on line %d", key.Value, seen[key.Value]), "remove one of them")
			continue
		}
		seen[key.Value] = key.Line
		v.members = append(v.members, member{key.Value, p.at(key), p.value(content, depth+1)})
	}
	for _, from := range inherited {
		if from != nil && !from.isMap() {
			p.report(from.at, "<< takes a map, or a list of maps", "")
			continue
		}
		for _, m := range from.entries() {
			if seen[m.key] == 0 { // YAML's merge key is shallow, and what is written beside it wins
				seen[m.key] = m.at.line
				v.members = append(v.members, m)
			}
		}
	}
}

// entries are the members of a map, and none of anything else.
func (v *value) entries() []member {
	if !v.isMap() {
		return nil
	}
	return v.members
}

// error makes a mistake of a place and words.
func (at place) error(msg, hint string) *mistake.Error {
	e := &mistake.Error{Line: at.line, Col: at.col, Msg: msg, Hint: hint}
	if at.file == nil {
		return e
	}
	e.File = at.file.name
	if at.line > 0 && at.line <= len(at.file.lines) && len(at.file.lines[at.line-1]) <= 500 {
		e.Source = mistake.Mask(strings.Map(printable, at.file.lines[at.line-1]))
	}
	return e
}

func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return ' '
	}
	return r
}
