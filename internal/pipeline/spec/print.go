package spec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v4"

	"slipway/internal/mistake"
	"slipway/internal/pipeline"
)

// Print writes a resolved pipeline as YAML, the origin of every value beside it as a comment. Values whose keys name
// secrets are masked.
func Print(p *pipeline.Pipeline) ([]byte, error) {
	root := mapping()
	put(root, "kind", scalar(KindPipeline, ""))
	put(root, "name", scalar(p.Name, ""))
	if p.Description != "" {
		put(root, "description", scalar(p.Description, ""))
	}
	if len(p.Labels) > 0 {
		put(root, "labels", textNode(p.Labels))
	}
	tasks := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range p.Tasks {
		tasks.Content = append(tasks.Content, taskNode(&p.Tasks[i]))
	}
	template, spec := mapping(), mapping()
	put(template, "tasks", tasks)
	put(spec, "templateSpec", template)
	put(root, "spec", spec)
	out, err := yaml.Dump(root, yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("print pipeline %s: %w", p.Name, err)
	}
	return out, nil
}

func taskNode(t *pipeline.Task) *yaml.Node {
	n := mapping()
	put(n, "name", scalar(t.Name, t.Origin.String()))
	put(n, "taskTemplate", scalar(t.Template, ""))
	if len(t.After) > 0 {
		after := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, name := range t.After {
			after.Content = append(after.Content, scalar(name, ""))
		}
		put(n, "runAfters", after)
	}
	context := mapping()
	put(context, "data", valueNode(t.Data, false))
	put(n, "context", context)
	n.HeadComment = taskComment(t)
	return n
}

// taskComment says what becomes of the task: that it is skipped, or what it runs in.
func taskComment(t *pipeline.Task) string {
	if t.Skip != "" {
		return "skipped: " + t.Skip
	}
	if t.Worker == workerApproval {
		return "waits for approval"
	}
	e := &t.Environment
	return fmt.Sprintf("%s: %v vCPU, %s of memory, %s of disk, %s",
		e.Source(), e.CPUs, pipeline.Size(e.Memory), pipeline.Size(e.Disk), pipeline.Duration(e.Timeout))
}

// valueNode converts a value; hidden masks every scalar in it.
func valueNode(v *pipeline.Value, hidden bool) *yaml.Node {
	switch {
	case v == nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case v.Kind == pipeline.Map:
		n := mapping()
		if len(v.Members) == 0 {
			n.Style = yaml.FlowStyle
		}
		for _, m := range v.Members {
			put(n, m.Key, valueNode(m.Value, hidden || mistake.IsSecret(m.Key)))
		}
		return n
	case v.Kind == pipeline.List:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v.Items {
			n.Content = append(n.Content, valueNode(item, hidden))
		}
		if len(v.Items) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case hidden && !v.Absent():
		return scalar("***", v.Origin.String())
	default:
		n := scalar(v.Text, v.Origin.String())
		n.Tag = map[pipeline.Kind]string{pipeline.Null: "!!null", pipeline.Bool: "!!bool", pipeline.Number: "!!float"}[v.Kind]
		if v.Kind == pipeline.Number {
			if _, whole := v.Int(); whole {
				n.Tag = "!!int"
			}
		}
		if v.Kind == pipeline.String {
			n.Tag = "!!str"
			if _, err := strconv.ParseFloat(v.Text, 64); err == nil || errors.Is(err, strconv.ErrRange) {
				n.Style = yaml.SingleQuotedStyle // 12e3456 too is a number, to those who read it as one
			}
		}
		return n
	}
}

func textNode(texts map[string]string) *yaml.Node {
	n := mapping()
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		value := texts[key]
		if mistake.IsSecret(key) {
			value = "***"
		}
		put(n, key, scalar(value, ""))
	}
	return n
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

func scalar(text, comment string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, LineComment: comment}
}

func put(n *yaml.Node, key string, value *yaml.Node) {
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}
