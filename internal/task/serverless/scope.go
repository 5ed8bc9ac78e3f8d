package serverless

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
	"slipway/internal/suggest"
)

// gitNames are the members of ${{ git }}: those of <% .git %>, and two under the names that other systems use.
func gitNames() []string {
	return []string{
		"commitId", "shortCommitId", "branch", "tag", "message", "repository", "cloneUrl", "sourceBranch", "targetBranch",
		"commit", "ref",
	}
}

// git are the values of ${{ git }}.
func (w *Worker) git() map[string]any {
	all := map[string]any{}
	for name, value := range w.opts.Git {
		all[name] = value
	}
	if id, ok := w.opts.Git["commitId"]; ok {
		all["commit"] = id
	}
	if tag := w.opts.Git["tag"]; tag != "" {
		all["ref"] = "refs/tags/" + tag
	}
	if branch := w.opts.Git["branch"]; branch != "" {
		all["ref"] = "refs/heads/" + branch
	}
	return all
}

// names are the names that expressions may use. What is below nil is not known before the task runs.
func (w *Worker) names() expr.Names {
	names := expr.Names{
		"ctx": {"data": nil}, "uid": nil, "env": nil, "status": nil, "inputs": nil,
		"sts": {"accessKeyId": nil, "accessKeySecret": nil, "securityToken": nil},
		"git": {}, "secrets": nil, "cloudSecrets": nil,
	}
	for _, name := range gitNames() {
		names["git"][name] = nil
	}
	if w.opts.Secrets != nil {
		names["secrets"], names["cloudSecrets"] = members(w.opts.Secrets), members(w.opts.CloudSecrets)
	}
	return names
}

func members(values map[string]string) expr.Names {
	names := expr.Names{}
	for name := range values {
		names[name] = nil
	}
	return names
}

// values are the contexts that stay the same for a whole task.
func (w *Worker) values(t *pipeline.Task) map[string]any {
	a := w.opts.Account
	values := map[string]any{
		"ctx":          map[string]any{"data": plain(t.Data)},
		"uid":          a.ID,
		"sts":          map[string]any{"accessKeyId": a.AccessKeyID, "accessKeySecret": a.AccessKeySecret, "securityToken": a.SecurityToken},
		"git":          w.git(),
		"secrets":      texts(w.opts.Secrets),
		"cloudSecrets": texts(w.opts.CloudSecrets),
	}
	values["inputs"] = maps.Clone(values)
	return values
}

func texts(values map[string]string) map[string]any {
	all := map[string]any{}
	for name, value := range values {
		all[name] = value
	}
	return all
}

// plain turns a value of the file into one of expressions. A number that would change in print, such as 1.10, is a text.
func plain(v *pipeline.Value) any {
	if v == nil {
		return nil
	}
	switch v.Kind {
	case pipeline.Null:
		return nil
	case pipeline.Bool:
		return v.Bool()
	case pipeline.Number:
		if f, err := strconv.ParseFloat(v.Text, 64); err == nil && expr.Text(f) == v.Text {
			return f
		}
		return v.Text
	case pipeline.List:
		all := make([]any, len(v.Items))
		for i, item := range v.Items {
			all[i] = plain(item)
		}
		return all
	case pipeline.Map:
		all := make(map[string]any, len(v.Members))
		for _, m := range v.Members {
			all[m.Key] = plain(m.Value)
		}
		return all
	default:
		return v.Text
	}
}

// evaluate gives the value of a scalar; one without expressions keeps its kind of the file.
func (s *scalar) evaluate(scope expr.Scope) (any, error) {
	if len(s.v.Marks) == 0 && s.template.Constant() {
		return plain(s.v), nil
	}
	v, err := s.template.Evaluate(scope)
	if e, ok := errors.AsType[*expr.Error](err); ok {
		return nil, fmt.Errorf("%s: %w", s.v.Place(e.Offset), e)
	}
	return v, err
}

func (s *scalar) text(scope expr.Scope) (string, error) {
	if s == nil {
		return "", nil
	}
	v, err := s.evaluate(scope)
	if _, own := v.(string); own || len(s.v.Marks) > 0 {
		return expr.Text(v), err
	}
	return s.v.Text, err // a number as it is written
}

func (t *tree) evaluate(scope expr.Scope) (any, error) {
	switch {
	case t == nil:
		return nil, nil
	case t.leaf != nil:
		return t.leaf.evaluate(scope)
	case t.kind == pipeline.List:
		all := make([]any, len(t.items))
		for i, item := range t.items {
			v, err := item.evaluate(scope)
			if err != nil {
				return nil, err
			}
			all[i] = v
		}
		return all, nil
	case t.kind == pipeline.Map:
		all := make(map[string]any, len(t.members))
		for _, name := range slices.Sorted(maps.Keys(t.members)) {
			v, err := t.members[name].evaluate(scope)
			if err != nil {
				return nil, err
			}
			all[name] = v
		}
		return all, nil
	default:
		return nil, nil
	}
}

// nearest says what was probably meant, or what there is.
func nearest(word string, known []string, what string) string {
	if near := suggest.Nearest(word, slices.Values(known)); near != "" {
		return "did you mean " + near + "?"
	}
	if len(known) == 0 {
		return "it takes no " + what
	}
	return "its " + what + " are " + strings.Join(known, ", ")
}
