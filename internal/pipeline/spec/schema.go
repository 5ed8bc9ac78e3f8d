package spec

import (
	"encoding/json"
	"fmt"
)

// Schema returns the JSON schema of a document of a pipeline file, with descriptions for editors. It comes from the
// same table as the check. It is stricter in one thing: keys that the check warns of are mistakes to it, since that is
// the way to have an editor underline them.
func Schema() ([]byte, error) {
	var kinds []any
	w := schemaWriter{defs: map[string]any{"variable": map[string]any{"type": "string", "pattern": "<%"}}}
	for _, kind := range []string{KindPipeline, KindPipelineTemplate, KindTaskTemplate, KindPipelineTrigger} {
		schema := w.schema(documentShape(kind))
		schema["title"] = kind
		kinds = append(kinds, schema)
	}
	out, err := json.MarshalIndent(map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Slipway pipeline file",
		"oneOf":   kinds,
		"$defs":   w.defs,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the pipeline schema: %w", err)
	}
	return append(out, '\n'), nil
}

// schemaWriter collects the shapes that are used in several places.
type schemaWriter struct{ defs map[string]any }

// schema returns the shape as JSON schema, or a reference to its definition.
func (w *schemaWriter) schema(sh *shape) map[string]any {
	if sh.def == "" {
		return w.form(sh)
	}
	if _, done := w.defs[sh.def]; !done {
		w.defs[sh.def] = nil // a shape may contain itself
		w.defs[sh.def] = w.form(sh)
	}
	return map[string]any{"$ref": "#/$defs/" + sh.def}
}

func (w *schemaWriter) form(sh *shape) map[string]any {
	out := map[string]any{}
	switch sh.form {
	case text:
		sh.textSchema(out)
	case boolean:
		variable(out, map[string]any{"type": "boolean"}, map[string]any{"enum": []string{"true", "false"}})
	case whole:
		variable(out, sh.bounded("integer"))
	case decimal:
		variable(out, sh.bounded("number"))
	case list:
		out["type"] = []string{"array", "null"}
		out["items"] = w.schema(sh.items)
	case object:
		w.object(sh, out)
	}
	if sh.desc != "" {
		out["description"] = sh.desc
	}
	if sh.or != nil {
		return map[string]any{"anyOf": []any{out, w.schema(sh.or)}}
	}
	return out
}

func (sh *shape) textSchema(out map[string]any) {
	switch {
	case len(sh.enum) == 1:
		out["const"] = sh.enum[0]
	case len(sh.enum) > 1:
		out["enum"] = sh.enum
	default:
		out["type"] = []string{"string", "number", "boolean", "null"}
	}
}

func (sh *shape) bounded(typ string) map[string]any {
	out := map[string]any{"type": typ}
	if sh.most > 0 {
		out["minimum"], out["maximum"] = sh.least, sh.most
	}
	return out
}

func (w *schemaWriter) object(sh *shape, out map[string]any) {
	properties, required := map[string]any{}, []string{}
	for _, k := range sh.keys {
		properties[k.name] = w.schema(k.shape)
		if k.required {
			required = append(required, k.name)
		}
	}
	out["type"] = []string{"object", "null"}
	if len(required) > 0 {
		out["type"], out["required"] = "object", required
	}
	if len(properties) > 0 {
		out["properties"] = properties
	}
	switch {
	case !sh.own:
		out["additionalProperties"] = false
	case sh.items != nil:
		out["additionalProperties"] = w.schema(sh.items)
	}
}

// variable allows a value's own forms, nothing at all, and a string with a <% %> in it.
func variable(out map[string]any, forms ...any) {
	out["anyOf"] = append(forms, map[string]any{"type": "null"}, map[string]any{"$ref": "#/$defs/variable"})
}
