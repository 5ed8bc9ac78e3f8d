package spec

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
	"slipway/internal/suggest"
)

// Variable is a name that <% %> knows.
type Variable struct {
	// Name is the path without its leading dot.
	Name string
	// Description is one sentence for documentation and completion.
	Description string
	// Sample is the value that Validate uses.
	Sample string
}

// Variables lists the names that <% %> knows, in the order of documentation. --set adds others.
func Variables() []Variable {
	return []Variable{
		{"git.shortCommitId", "The first 7 characters of the commit's id.", "0123456"},
		{"git.commitId", "The commit's id.", "0123456789abcdef0123456789abcdef01234567"},
		{"git.branch", "The branch the commit was taken from.", "main"},
		{"git.tag", "The tag that points at the commit.", "v1.0.0"},
		{"git.message", "The first line of the commit's message.", "a message"},
		{"git.repository", "The repository's name.", "repository"},
		{"git.cloneUrl", "The address the repository is cloned from.", "https://example.com/owner/repository.git"},
		{"git.sourceBranch", "The branch a pull request comes from.", "feature"},
		{"git.targetBranch", "The branch a pull request goes to.", "main"},
		{"currentTimestampMs", "The time the run was made, in milliseconds since 1970.", "1700000000000"},
		{"appName", "The application's name.", "app"},
		{"envName", "The environment's name.", "test"},
	}
}

func withSamples(given map[string]string) map[string]string {
	out := map[string]string{}
	for _, v := range Variables() {
		out[v.Name] = v.Sample
	}
	maps.Copy(out, given)
	return out
}

func (s *set) lookup(path string) (string, bool) {
	if v, ok := s.opts.Set[path]; ok {
		return v, true
	}
	v, ok := s.opts.Variables[path]
	return v, ok
}

// evaluate returns v with <% %> replaced in every scalar and key. A scalar that held one is a string whatever the
// value looks like. A scalar with a mistake stays as it is, so that later steps can see that its value is not known.
func (s *set) evaluate(v *pipeline.Value) *pipeline.Value {
	if v == nil {
		return nil
	}
	out := *v
	switch v.Kind {
	case pipeline.String:
		var opens []int
		out.Text, opens = s.expand(v.Text, v.Origin)
		out.Marks = s.marks(opens, v.Origin)
	case pipeline.List:
		out.Items = make([]*pipeline.Value, len(v.Items))
		for i, item := range v.Items {
			out.Items[i] = s.evaluate(item)
		}
	case pipeline.Map:
		out.Members = make([]pipeline.Member, len(v.Members))
		seen := map[string]bool{}
		for i, m := range v.Members {
			key := m.Key
			if expr.Has(key) {
				key, _ = s.expand(m.Key, m.Origin)
			}
			if seen[key] {
				s.report(m.Origin, "the key "+quote(key)+" is there already", "remove one of them")
			}
			seen[key] = true
			out.Members[i] = pipeline.Member{Key: key, Origin: m.Origin, Value: s.evaluate(m.Value)}
		}
	}
	return &out
}

// marks finds the places of the ${{ of a scalar in the file.
func (s *set) marks(opens []int, at pipeline.Origin) []pipeline.Mark {
	var marks []pipeline.Mark
	for i, offset := range opens {
		marks = append(marks, pipeline.Mark{Offset: offset, Origin: s.find(at, "${{", i)})
	}
	return marks
}

func (s *set) expand(text string, at pipeline.Origin) (out string, opens []int) {
	out, opens, err := expr.Expand(text, s.lookup)
	if err == nil {
		return out, opens
	}
	msg, hint := err.Error(), ""
	if e, ok := errors.AsType[*expr.Error](err); ok {
		at, hint = s.find(at, "<%", e.Index), e.Hint
		if e.Name != "" {
			msg, hint = s.unknown(e.Name)
		}
	}
	s.report(at, msg, hint)
	return text, nil
}

// unknown says what is wrong with a variable: there is no such name, or nobody gave it a value.
func (s *set) unknown(name string) (msg, hint string) {
	var known []string
	for _, v := range Variables() {
		if v.Name == name {
			return "the variable ." + name + " has no value", whence(name)
		}
		known = append(known, v.Name)
	}
	for _, set := range slices.Sorted(maps.Keys(s.opts.Set)) {
		if !slices.Contains(known, set) {
			known = append(known, set)
		}
	}
	if near := suggest.Nearest(name, slices.Values(known)); near != "" {
		return "unknown variable ." + name, "did you mean ." + near + "?"
	}
	return "unknown variable ." + name, "the variables are ." + strings.Join(known, ", .") + "; --set " + name + "=VALUE adds this one"
}

func whence(name string) string {
	switch {
	case name == "git.tag":
		return "no tag points at the commit: tag it, or --set git.tag=VALUE"
	case name == "git.branch":
		return "no branch is checked out: --ref BRANCH, or --set git.branch=VALUE"
	case name == "git.sourceBranch", name == "git.targetBranch":
		return "only a pull request has one: --set " + name + "=VALUE"
	case strings.HasPrefix(name, "git."):
		return "it comes from the repository: --repo DIR, or --set " + name + "=VALUE"
	default:
		return "--set " + name + "=VALUE"
	}
}

// find returns the place of the index-th token, <% or ${{, of a scalar that begins at at. The source is searched, for a
// block or a quoted scalar does not tell where its characters stand.
func (s *set) find(at pipeline.Origin, token string, index int) pipeline.Origin {
	for _, file := range s.files {
		if file.Name != at.File {
			continue
		}
		for n := at.Line; n >= 1 && n <= len(file.lines); n++ {
			line, col := file.lines[n-1], 1
			for n == at.Line && col < at.Col && line != "" {
				_, size := utf8.DecodeRuneInString(line)
				line, col = line[size:], col+1
			}
			for {
				before, after, found := strings.Cut(line, token)
				if !found {
					break
				}
				col += utf8.RuneCountInString(before)
				if index == 0 {
					return pipeline.Origin{File: at.File, Line: n, Col: col}
				}
				index--
				line, col = after, col+len(token)
			}
		}
	}
	return at
}
