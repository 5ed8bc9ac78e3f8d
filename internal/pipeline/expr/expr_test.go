package expr_test

import (
	"errors"
	"strings"
	"testing"

	"slipway/internal/pipeline/expr"
)

func lookup(path string) (string, bool) {
	switch path {
	case "git.shortCommitId":
		return "12e3456", true
	case "git.branch":
		return "feature/<% .appName %>", true
	case "appName":
		return "demo: true\nevil: yes", true
	case "enable", "on":
		return "true", true
	case "stage":
		return "test", true
	case "count":
		return "3", true
	default:
		return "", false
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"nothing to do", "plain %> text", "plain %> text"},
		{"whole scalar", "<% .git.shortCommitId %>", "12e3456"},
		{"inside text", "p-<% .git.shortCommitId %>-x", "p-12e3456-x"},
		{"two", "<% .stage %>/<% .count %>", "test/3"},
		{"no spaces", "<%.stage%>", "test"},
		{"a value is not evaluated again", "<% .git.branch %>", "feature/<% .appName %>"},
		{"a value stays text", "<% .appName %>", "demo: true\nevil: yes"},
		{"literal", `<% "<% literal %>" %>`, "<% literal %>"},
		{"raw literal", "<% `a\"%>` %>", `a"%>`},
		{"other languages stay", "${{ ctx.data.x }} {{ .success }} ${env(X)}", "${{ ctx.data.x }} {{ .success }} ${env(X)}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := expr.Expand(tt.in, lookup)
			if err != nil || got != tt.want {
				t.Errorf("Expand(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestExpandErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in, msg, unknown string
		index, offset          int
	}{
		{"unknown", "a <% .git.shortCommitID %>", "unknown variable .git.shortCommitID", "git.shortCommitID", 0, 5},
		{"second", "<% .stage %><% .nope %>", "unknown variable .nope", "nope", 1, 15},
		{"open", "a <% .stage", "<% without %>", "", 0, 2},
		{"empty", "<%  %>", "nothing between <% and %>", "", 0, 2},
		{"function", "<% env \"HOME\" %>", "takes the name of a variable", "", 0, 3},
		{"pipeline", "<% .stage | upper %>", "takes the name of a variable", "", 0, 3},
		{"bare name", "<% stage %>", "takes the name of a variable", "", 0, 3},
		{"dot", "<% . %>", "takes the name of a variable", "", 0, 3},
		{"bad string", `<% "a" "b" %>`, "is not a quoted string", "", 0, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := expr.Expand(tt.in, lookup)
			e, ok := errors.AsType[*expr.Error](err)
			if !ok {
				t.Fatalf("Expand(%q): %v, want an *expr.Error", tt.in, err)
			}
			if !strings.Contains(e.Msg, tt.msg) || e.Name != tt.unknown || e.Index != tt.index || e.Offset != tt.offset {
				t.Errorf("Expand(%q): %+v, want %q name %q index %d offset %d", tt.in, *e, tt.msg, tt.unknown, tt.index, tt.offset)
			}
		})
	}
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"enable == true":                       true,
		"enable==true":                         true,
		"enable":                               true,
		"enable != true":                       false,
		"missing == true":                      false,
		"missing == null":                      true,
		"missing":                              false,
		"ctx.data.enable == true":              true,
		`stage == "prod" || stage == 'test'`:   true,
		`enable == true && !(stage == "test")`: false,
		"count == 3":                           true,
		"count == -3":                          false,
		"!missing && (on || missing) && stage!=count": true,
		"stage == 'a && b'":                           false,
		"count >= 3 and count < 4.5":                  true,
		"count > 3 or count <= 2":                     false,
		"missing > 3 || missing < 3":                  false,
		"stage in ['prod', 'test']":                   true,
		"stage not in ['prod', 'test']":               false,
		"stage in []":                                 false,
		"count in [1, 3]":                             true,
		"not stage == 'prod'":                         true,
		"not (not enable)":                            true,
		"stage contains 'es' && stage startsWith 't'": true,
		"stage endsWith 'x' or missing contains ''":   false,
		"instance == null and order == null":          true,
	} {
		got, err := expr.Evaluate(in, lookup)
		if err != nil || got != want {
			t.Errorf("Evaluate(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestEvaluateErrors(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                          "ends too early",
		"enable ==":                 "ends too early",
		"enable = true":             `unexpected "= true"`,
		"(enable":                   "missing )",
		"stage == 'x":               "quote is not closed",
		"a b":                       `unexpected "b"`,
		"&& a":                      "a name or a value is expected",
		"f(x)":                      `unexpected "(x)"`,
		"a..b":                      "a name or a value is expected",
		"stage > 3":                 `"test" and "3" are not both numbers`,
		"stage in 'test'":           "in takes a list",
		"stage in ['a' 'b']":        "missing ]",
		"stage in ['a', ":           "ends too early",
		"stage not 'a'":             "after a value, not is part of not in",
		"enable and and on":         "a name or a value is expected",
		strings.Repeat("not ", 1e5): "too deep",
		strings.Repeat("(", 100000): "too deep",
		strings.Repeat("!", 100000): "too deep",
	} {
		if _, err := expr.Evaluate(in, lookup); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Evaluate(%.20q): %.200v, want %q", in, err, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"p-<% .git.branch %>", "<%", "%><%%>", `<% "\x" %>`, "<% ` %>", "<% .a.b %><% .stage %>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, _, err := expr.Expand(s, func(string) (string, bool) { return "v", true })
		if err == nil && !expr.Has(s) && out != s {
			t.Errorf("Expand(%q) = %q", s, out)
		}
		if e, ok := errors.AsType[*expr.Error](err); err != nil && (!ok || e.Offset < 0 || e.Offset > len(s)) {
			t.Errorf("Expand(%q): error %#v", s, err)
		}
	})
}

func FuzzEvaluate(f *testing.F) {
	for _, s := range []string{"enable == true", "!(a||b)&&c", "'", "1e9 != -.5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := expr.Evaluate(s, lookup)
		if e, ok := errors.AsType[*expr.Error](err); err != nil && (!ok || e.Offset < 0 || e.Offset > len(s)) {
			t.Errorf("Evaluate(%q): error %#v", s, err)
		}
	})
}
