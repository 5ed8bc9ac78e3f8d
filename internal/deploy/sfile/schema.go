package sfile

import (
	"encoding/json"
	"fmt"
)

// Schema returns the JSON schema of s.yaml files, draft 2020-12, with descriptions.
func Schema() ([]byte, error) {
	action := func(kinds ...string) map[string]any {
		fields := map[string]any{
			"path": described("string", "The folder to run in."),
			"args": described("object", "What a plugin gets."),
			"allow_failure": map[string]any{
				"description": "Whether a failure stops nothing: always, or for some exit codes and commands.",
				"anyOf": []any{map[string]any{"type": "boolean"}, map[string]any{"type": "object", "properties": map[string]any{
					"exit_code": map[string]any{"type": "array", "items": map[string]any{"type": "integer"}},
					"command":   map[string]any{"type": "array", "items": map[string]any{"type": "string"}},
				}}},
			},
		}
		about := map[string]string{"run": "A shell command.", "component": "A command of the resource's component, such as fc3 build.", "plugin": "A plugin."}
		for _, kind := range kinds {
			fields[kind] = described("string", about[kind])
		}
		return map[string]any{
			"description":       "What to do around commands: pre-, success-, fail- and complete- with the command's name.",
			"type":              "object",
			"patternProperties": map[string]any{"^(pre|success|fail|complete|post)-": map[string]any{"type": "array", "items": map[string]any{"type": "object", "properties": fields}}},
		}
	}
	schema := map[string]any{
		"$schema":  "https://json-schema.org/draft/2020-12/schema",
		"title":    "s.yaml",
		"type":     "object",
		"required": []string{"edition", "resources"},
		"properties": map[string]any{
			"edition":  map[string]any{"const": "3.0.0", "description": "The edition of the format."},
			"name":     described("string", "The application's name."),
			"access":   described("string", "The alias of the credentials to deploy with. Default: default."),
			"extend":   described("string", "A file that this one is laid over."),
			"env":      described("string", "The file that describes environments. Default: env.yaml."),
			"vars":     described("object", "Values for ${vars.NAME}."),
			"template": described("object", "Properties that resources extend, by name."),
			"flow": map[string]any{
				"description": "The order of resources, by command: groups one after another, those in a group side by side.", "type": "object",
				"additionalProperties": map[string]any{"type": "array", "items": map[string]any{"type": "array", "items": map[string]any{"type": "string"}}},
			},
			"actions": action("run", "plugin"),
			"resources": map[string]any{"description": "What to deploy, by name.", "type": "object", "additionalProperties": map[string]any{
				"type":     "object",
				"required": []string{"component"},
				"properties": map[string]any{
					"component": map[string]any{"const": Component, "description": "What deploys it."},
					"access":    described("string", "The alias of its credentials."),
					"actions":   action("run", "component", "plugin"),
					"extend":    described("object", "The template it extends: {name, ignore: [property]}."),
					"props":     schemaOf(prop{kind: mapKind, fields: fc3Props(), about: "The function."}),
				},
			}},
		},
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the schema: %w", err)
	}
	return append(out, '\n'), nil
}

func described(kind, about string) map[string]any {
	return map[string]any{"type": kind, "description": about}
}

// schemaOf is a property's schema. Whatever it takes, an expression may stand in its place.
func schemaOf(p prop) map[string]any {
	out := map[string]any{}
	expression := map[string]any{"type": "string", "pattern": `\$\{`}
	switch p.kind {
	case anyKind:
	case textKind:
		out["type"] = []string{"string", "number", "boolean"}
		if p.enum != nil {
			out = map[string]any{"anyOf": []any{map[string]any{"enum": p.enum}, expression}}
		}
	case boolKind:
		out["anyOf"] = []any{map[string]any{"type": "boolean"}, expression}
	case numberKind:
		n := map[string]any{"type": "number"}
		if p.min != 0 || p.max != 0 {
			n["minimum"], n["maximum"] = p.min, p.max
		}
		out["anyOf"] = []any{n, expression}
	case listKind:
		list := map[string]any{"type": "array"}
		if p.items != nil {
			list["items"] = schemaOf(*p.items)
		}
		out["anyOf"] = []any{list, expression}
	case textMapKind:
		out["type"], out["additionalProperties"] = "object", map[string]any{"type": []string{"string", "number", "boolean"}}
	case mapKind, autoKind:
		fields, required := map[string]any{}, []string{}
		for _, f := range p.fields {
			fields[f.name] = schemaOf(f)
			if f.required {
				required = append(required, f.name)
			}
		}
		m := map[string]any{"type": "object"}
		if len(fields) > 0 {
			m["properties"] = fields
		}
		if len(required) > 0 {
			m["required"] = required
		}
		alternatives := []any{m, expression}
		if p.kind == autoKind {
			alternatives = append(alternatives, map[string]any{"enum": []string{"auto", "Auto"}})
		}
		out["anyOf"] = alternatives
	}
	if p.about != "" {
		out["description"] = p.about
	}
	return out
}
