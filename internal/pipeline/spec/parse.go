package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"

	"slipway/internal/mistake"
	"slipway/internal/pipeline"
)

// Bounds on what a stranger's file may ask of us. The largest real pipelines are a few hundred lines.
const (
	MaxSize   = 1 << 20 // bytes of a file
	maxDepth  = 64      // maps and lists inside one another
	maxValues = 50_000  // values in a file after aliases are expanded
	maxKeys   = 1000    // members of a map, tasks of a pipeline
)

// Parse reads a file's documents. name is how messages call the file. The File remembers the mistakes in its YAML;
// Resolve and Validate return them together with all others.
func Parse(name string, data []byte) *File {
	p := &parser{file: &File{Name: name, lines: splitLines(data)}}
	if len(data) > MaxSize {
		p.broken(1, 1, fmt.Sprintf("the file is larger than %d bytes", MaxSize), "")
		return p.file
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false))
	for err == nil {
		var node yaml.Node
		if err = loader.Load(&node); err != nil {
			break
		}
		if v := p.value(&node, 0); !v.Absent() {
			p.file.Documents = append(p.file.Documents, v)
		}
	}
	if !errors.Is(err, io.EOF) {
		p.syntax(err)
	}
	return p.file
}

func splitLines(data []byte) []string {
	text := strings.TrimPrefix(string(data), "\ufeff")
	return strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
}

// line returns a line as messages show it: tabs as single spaces so that a caret stays under its column, control
// characters gone so that a file cannot write to the terminal, secrets masked.
func (f *File) line(n int) string {
	if n < 1 || n > len(f.lines) || len(f.lines[n-1]) > 500 {
		return ""
	}
	return mistake.Mask(strings.Map(printable, f.lines[n-1]))
}

func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return ' '
	}
	return r
}

type parser struct {
	file   *File
	values int
}

// broken is fail for a mistake that hides what comes after it.
func (p *parser) broken(line, col int, msg, hint string) {
	p.file.broken = true
	p.fail(line, col, msg, hint)
}

func (p *parser) fail(line, col int, msg, hint string) {
	p.file.errors = append(p.file.errors, &Error{File: p.file.Name, Line: line, Col: col, Msg: msg, Hint: hint, Source: p.file.line(line)})
}

// syntax takes the YAML library's error.
func (p *parser) syntax(err error) {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		p.broken(1, 1, err.Error(), "")
		return
	}
	mark, msg := e.Mark, e.Message
	if e.ContextMsg != "" {
		msg = strings.TrimSpace(e.ContextMsg) + ": " + msg
	}
	if mark.Line == 0 || e.ContextMark.Line > 0 && strings.Contains(msg, "end of stream") {
		mark = e.ContextMark // where it began says more than where the file ends
	}
	line, col, hint := max(mark.Line, 1), max(mark.Column, 1), ""
	if source := p.file.lines[min(line, len(p.file.lines))-1]; strings.HasPrefix(strings.TrimLeft(source, " "), "\t") {
		hint = "indent with spaces: YAML does not take tabs there"
	}
	p.broken(line, col, strings.TrimSpace(msg), hint)
}

// value converts a node. Aliases are expanded, and counted each time: that is what bounds a billion laughs.
func (p *parser) value(n *yaml.Node, depth int) *pipeline.Value {
	p.values++
	if depth > maxDepth || p.values > maxValues {
		p.tooMuch(n, depth)
		return nil
	}
	v := &pipeline.Value{Origin: pipeline.Origin{File: p.file.Name, Line: n.Line, Col: n.Column}}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return nil
		}
		return p.value(n.Content[0], depth)
	case yaml.AliasNode:
		return p.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		v.Kind = pipeline.List
		for _, item := range n.Content {
			v.Items = append(v.Items, p.value(item, depth+1))
		}
	case yaml.MappingNode:
		v.Kind = pipeline.Map
		p.members(v, n, depth)
	default:
		v.Kind, v.Text = p.scalar(n), n.Value
	}
	return v
}

// tooMuch reports a bound once: what lies beyond it would only repeat the message.
func (p *parser) tooMuch(n *yaml.Node, depth int) {
	switch {
	case p.values > maxValues+1:
	case depth > maxDepth:
		p.broken(n.Line, n.Column, fmt.Sprintf("more than %d maps and lists inside one another", maxDepth), "")
		p.values = maxValues + 1
	default:
		p.broken(n.Line, n.Column, fmt.Sprintf("more than %d values once aliases are expanded", maxValues), "")
	}
}

func (p *parser) scalar(n *yaml.Node) pipeline.Kind {
	switch n.ShortTag() {
	case "!!null":
		return pipeline.Null
	case "!!bool":
		return pipeline.Bool
	case "!!int", "!!float":
		return pipeline.Number
	case "!!str", "!!timestamp":
		return pipeline.String
	default:
		p.fail(n.Line, n.Column, "the tag "+n.Tag+" means nothing here", "leave it out")
		return pipeline.String
	}
}

func (p *parser) members(v *pipeline.Value, n *yaml.Node, depth int) {
	seen := map[string]int{}
	var merged []*pipeline.Value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fail(n.Content[i].Line, n.Content[i].Column, "a key must be a scalar", "")
			continue
		case key.ShortTag() == "!!merge":
			merged = append(merged, p.mergeKey(value, depth)...)
			continue
		case seen[key.Value] != 0:
			p.fail(key.Line, key.Column, fmt.Sprintf("the key %s is there already, on line %d", quote(key.Value), seen[key.Value]), "remove one of them")
			continue
		}
		seen[key.Value] = key.Line
		at := pipeline.Origin{File: p.file.Name, Line: key.Line, Col: key.Column}
		v.Members = append(v.Members, pipeline.Member{Key: key.Value, Origin: at, Value: p.value(value, depth+1)})
	}
	for _, m := range merged {
		v.Members = inherit(v.Members, m)
	}
	if len(v.Members) > maxKeys {
		p.broken(n.Line, n.Column, fmt.Sprintf("a map with more than %d keys", maxKeys), "")
	}
}

// mergeKey returns the maps that a `<<` names, the ones that win first.
func (p *parser) mergeKey(n *yaml.Node, depth int) []*pipeline.Value {
	v := p.value(n, depth+1)
	switch {
	case v == nil:
		return nil
	case v.Kind == pipeline.Map:
		return []*pipeline.Value{v}
	case v.Kind == pipeline.List:
		for _, item := range v.Items {
			if item != nil && item.Kind != pipeline.Map {
				p.fail(item.Origin.Line, item.Origin.Col, "<< takes maps", "")
			}
		}
		return v.Items
	default:
		p.fail(n.Line, n.Column, "<< takes a map, or a list of maps", "")
		return nil
	}
}

// inherit adds the members of from that are not there yet; YAML's merge key is shallow.
func inherit(members []pipeline.Member, from *pipeline.Value) []pipeline.Member {
	if from == nil {
		return members
	}
	have := map[string]bool{}
	for _, m := range members {
		have[m.Key] = true
	}
	for _, m := range from.Members {
		if !have[m.Key] {
			members = append(members, m)
		}
	}
	return members
}
