package expr_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline/expr"
)

func scope() expr.Scope {
	return expr.Scope{
		Values: map[string]any{
			"ctx": map[string]any{"data": map[string]any{
				"appName": "shop", "port": 9000.0, "debug": false, "list": []any{"a", 2.0}, "evil": "${{ secrets.token }}", "yaml": "a: b\n- c",
			}},
			"steps": map[string]any{
				"s-setup": map[string]any{"status": "success", "outputs": map[string]any{"cache-hit": true}},
				"test":    map[string]any{"status": "failure", "outputs": map[string]any{}},
			},
			"env":    map[string]any{"NAME": "Tony"},
			"status": "success",
		},
		Functions: map[string]func([]any) (any, error){
			"success": func([]any) (any, error) { return true, nil },
			"fails":   func([]any) (any, error) { return nil, errors.New("no such file") },
		},
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     any
	}{
		{"no expression", "echo $X {{ .a }} }}", "echo $X {{ .a }} }}"},
		{"inside a text", "echo ${{ ctx.data.appName }}!", "echo shop!"},
		{"two", "${{ env.NAME }}:${{ctx.data.port}}", "Tony:9000"},
		{"alone it keeps its type", "${{ ctx.data.port }}", 9000.0},
		{"alone, a boolean", "${{ ctx.data.debug }}", false},
		{"alone, a list", "${{ ctx.data.list }}", []any{"a", 2.0}},
		{"with anything around it is text", " ${{ ctx.data.debug }}", " false"},
		{"a list inside a text is JSON", "x ${{ ctx.data.list }}", `x ["a",2]`},
		{"null inside a text is nothing", "[${{ ctx.data.nothing }}]", "[]"},
		{"what comes out is not evaluated again", "x ${{ ctx.data.evil }}", "x ${{ secrets.token }}"},
		{"what comes out is not YAML", "x ${{ ctx.data.yaml }}", "x a: b\n- c"},
		{"default", `${{ ctx.data.deployFile || "s.yaml" }}`, "s.yaml"},
		{"no default", `${{ ctx.data.appName || "s.yaml" }}`, "shop"},
		{"member of nothing", "${{ ctx.data.a.b.c }}", nil},
		{"and", "${{ ctx.data.port && 'yes' }}", "yes"},
		{"and stops", "${{ ctx.data.debug && fails() }}", false},
		{"not", "${{ !ctx.data.debug }}", true},
		{"choice", "${{ ctx.data.debug ? 'a' : status == 'success' ? 'b' : 'c' }}", "b"},
		{"equal", "${{ steps.s-setup.status === 'success' }}", true},
		{"not equal", "${{ steps.test.status !== 'success' }}", true},
		{"equal across types", "${{ ctx.data.port == '9000' }}", true},
		{"strictly not", "${{ ctx.data.port === '9000' }}", false},
		{"null is nothing else", "${{ ctx.data.nothing == false }}", false},
		{"null is undefined", "${{ ctx.data.nothing == undefined && ctx.data.nothing === null }}", true},
		{"compare numbers", "${{ ctx.data.port > 80 && ctx.data.port <= '9000' }}", true},
		{"compare texts", "${{ 'a' < 'b' && !('10' < '9' == false) }}", true},
		{"text is no number", "${{ 'a' < 1 || 'a' >= 1 }}", false},
		{"plus joins", "${{ ctx.data.appName + '-' + 1 + 2 }}", "shop-12"},
		{"plus adds", "${{ 1 + 2 * 3 - 4 / 2 % 3 }}", 5.0},
		{"minus needs a space", "${{ ctx.data.port -1 }}", 8999.0},
		{"negative", "${{ -ctx.data.port }}", -9000.0},
		{"brackets", "${{ steps['s-setup'].outputs[\"cache-hit\"] }}", true},
		{"dashes", "${{ steps.s-setup.outputs.cache-hit }}", true},
		{"index", "${{ ctx.data.list[1] }}", 2.0},
		{"index beyond", "${{ ctx.data.list[7] }}", nil},
		{"length", "${{ ctx.data.list.length + ctx.data.appName.length }}", 6.0},
		{"list", "${{ contains(['a', status], 'success') }}", true},
		{"contains text", "${{ contains('Hello world', 'Hello') }}", true},
		{"startsWith", "${{ startsWith('Hello', 'He') && !startsWith('Hello', 'lo') }}", true},
		{"endsWith", "${{ endsWith('Hello world', 'Hello') }}", false},
		{"toJSON", "x${{ toJSON(env) }}", "x{\n  \"NAME\": \"Tony\"\n}"},
		{"toJSON keeps signs", "${{ toJSON('a<b>&c') }}", `"a<b>&c"`},
		{"given function", "${{ success() }}", true},
		{"braces in a string", "${{ '}} ${{' }}", "}} ${{"},
		{"escapes", `${{ "a\n\"\\\u0041'" }}`, "a\n\"\\A'"},
		{"infinity is JSON's null", "${{ toJSON([1/0]) }}", "[\n  null\n]"},
		{"numbers", "${{ 1.50 }} ${{ .5 }} ${{ 0 * -1 }}", "1.5 0.5 0"},
		{"over lines", "${{\n  status\n}}", "success"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			template, mistakes := expr.ParseTemplate(tt.in, expr.Opens(tt.in))
			if len(mistakes) > 0 {
				t.Fatalf("ParseTemplate(%q): %v", tt.in, mistakes)
			}
			got, err := template.Evaluate(scope())
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%q: %v, mismatch (-want +got):\n%s", tt.in, err, diff)
			}
		})
	}
}

func TestTemplateMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     []string // offset: message (hint)
	}{
		{"open", "a ${{ status", []string{"2: ${{ without }}"}},
		{"empty", "a ${{ }} b", []string{"2: an empty expression (write a name, such as ctx.data.deployFile)"}},
		{"too early", "${{ status == }}", []string{"14: the expression ends too early"}},
		{"assignment", "${{ status = 'x' }}", []string{`11: unexpected "=" in the expression (write == to compare)`}},
		{"filter", "${{ status | upper }}", []string{`11: unexpected "|" in the expression (write || for or; there are no filters)`}},
		{"method", "${{ status.toUpperCase() }}", []string{"11: there are no methods: toUpperCase (the functions are contains, endsWith, startsWith, toJSON)"}},
		{"optional member", "${{ env?.NAME }}", []string{`7: unexpected "?.NAME" in the expression (write . instead: a member of null is null)`}},
		{"coalescing", "${{ env ?? 1 }}", []string{`8: unexpected "??" in the expression (write || instead)`}},
		{"map", "${{ {a: 1} }}", []string{`4: unexpected "{a:" in the expression (there are no maps in expressions)`}},
		{"no colon", "${{ a ? b }}", []string{"10: a ? without its :"}},
		{"parenthesis", "${{ (a }}", []string{"7: the expression ends too early"}},
		{"quote", "${{ 'a }}", []string{"4: a quote is not closed"}},
		{"escape", `${{ "\x" }}`, []string{`6: unknown escape in a string (\\, \", \', \n, \r, \t and \uXXXX are known)`}},
		{"number", "${{ 1.2.3 }}", []string{`4: unexpected "1.2.3" in the expression`}},
		{"two at once", "${{ a b }} and ${{ c d }}", []string{`6: unexpected "b" in the expression`, `21: unexpected "d" in the expression`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, mistakes := expr.ParseTemplate(tt.in, expr.Opens(tt.in))
			if diff := cmp.Diff(tt.want, told(mistakes)); diff != "" {
				t.Errorf("ParseTemplate(%q) mismatch (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func told(mistakes []*expr.Error) []string {
	var all []string
	for _, e := range mistakes {
		text := fmt.Sprintf("%d: %s", e.Offset, e.Msg)
		if e.Hint != "" {
			text += " (" + e.Hint + ")"
		}
		all = append(all, text)
	}
	return all
}

func TestCheckNames(t *testing.T) {
	t.Parallel()
	names := expr.Names{"ctx": {"data": nil}, "steps": {"build": {"status": nil, "outputs": nil}}, "env": nil}
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"${{ ctx.data.anything.at.all || env.X || steps.build.outputs.x || steps['build'].status }}", nil},
		{"${{ cxt.data }}", []string{"4: there is no cxt (did you mean ctx?)"}},
		{"${{ ctx.dta.x }}", []string{"8: there is no ctx.dta (did you mean data?)"}},
		{"${{ steps.biuld.status }}", []string{"10: there is no steps.biuld (did you mean build?)"}},
		{"${{ steps['biuld'].status }}", []string{"9: there is no steps.biuld (did you mean build?)"}},
		{"${{ steps.build.state }}", []string{"16: there is no steps.build.state (did you mean status?)"}},
		{"${{ startswith('a', 'b') }}", []string{"4: there is no function startswith (did you mean startsWith?)"}},
		{"${{ contains('a') && succes() && [x][y] }}", []string{
			"4: contains takes 2 arguments", "21: there is no function succes (did you mean success?)",
			"34: there is no x (there is ctx, env, steps)", "37: there is no y (there is ctx, env, steps)",
		}},
		{"${{ success(1) }}", []string{"4: success takes no arguments"}},
	} {
		template, mistakes := expr.ParseTemplate(tt.in, expr.Opens(tt.in))
		if len(mistakes) > 0 {
			t.Fatalf("ParseTemplate(%q): %v", tt.in, mistakes)
		}
		if diff := cmp.Diff(tt.want, told(template.Check(names, map[string]int{"success": 0}))); diff != "" {
			t.Errorf("%q: Check mismatch (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestEvaluateFailures(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"x ${{ nope }}":            "6: there is no nope",
		"x ${{ nope() }}":          "6: there is no function nope",
		"x ${{ contains('a') }}":   "6: contains takes 2 arguments",
		"x ${{ true && fails() }}": "14: fails: no such file",
	} {
		template, mistakes := expr.ParseTemplate(in, expr.Opens(in))
		if len(mistakes) > 0 {
			t.Fatalf("ParseTemplate(%q): %v", in, mistakes)
		}
		_, err := template.Evaluate(scope())
		e, ok := errors.AsType[*expr.Error](err)
		if !ok || told([]*expr.Error{e})[0] != want {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

// A ${{ that a variable's value brings along is no expression.
func TestExpressionsCannotBeInjected(t *testing.T) {
	t.Parallel()
	values := map[string]string{"git.message": "${{ secrets.token }}", "git.branch": "x' || secrets.token || '", "dollar": "$"}
	lookup := func(path string) (string, bool) { v, ok := values[path]; return v, ok }
	for _, tt := range []struct{ in, want string }{
		{"<% .git.message %> ${{ status }}", "${{ secrets.token }} success"},
		{"<% .dollar %>{{ status }}", "${{ status }}"},
		{"${{ status }} <% .git.branch %>", "success x' || secrets.token || '"},
	} {
		text, opens, err := expr.Expand(tt.in, lookup)
		if err != nil {
			t.Fatal(err)
		}
		template, mistakes := expr.ParseTemplate(text, opens)
		if len(mistakes) > 0 {
			t.Fatalf("ParseTemplate(%q): %v", text, mistakes)
		}
		if got, err := template.Evaluate(scope()); err != nil || got != tt.want {
			t.Errorf("%q: %v, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	_, _, err := expr.Expand("${{ '<% .git.branch %>' == 'main' }}", lookup)
	if err == nil || !strings.Contains(err.Error(), "must be a plain word") {
		t.Errorf("Expand: %v", err)
	}
}

func TestDeepExpressions(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"parentheses": strings.Repeat("(", 1000) + "a" + strings.Repeat(")", 1000),
		"negations":   strings.Repeat("!", 1000) + "a",
		"brackets":    strings.Repeat("a[", 1000) + "a" + strings.Repeat("]", 1000),
		"choices":     strings.Repeat("a ? a : ", 1000) + "a",
		"operators":   strings.Repeat("a + ", 10_000) + "a",
		"members":     "a" + strings.Repeat(".a", 10_000),
	} {
		if _, err := expr.ParseExpression(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"${{ a.b['c'][0] || !d && e(1, \"x\\n\") ? 1 : -2 }} and ${{ [1, 'a'] }}", "${{ '}}' }}", "${{", "${{}}", "a${{ 1.5 <= .5 }}b", "${{ a.b-c }}",
	} {
		f.Add(seed)
	}
	values := map[string]any{"a": map[string]any{"b": []any{"x", 1.0, nil, true}}, "d": "text"}
	f.Fuzz(func(t *testing.T, text string) {
		template, mistakes := expr.ParseTemplate(text, expr.Opens(text))
		for _, e := range mistakes {
			if e.Offset < 0 || e.Offset > len(text) || e.Msg == "" {
				t.Errorf("ParseTemplate(%q): %+v", text, *e)
			}
		}
		if len(mistakes) > 0 {
			return
		}
		unknown := template.Check(expr.Names{"a": nil, "d": nil}, nil)
		v, err := template.Evaluate(expr.Scope{Values: values})
		if err != nil && len(unknown) == 0 {
			t.Errorf("%q: Check found nothing, Evaluate %v", text, err)
		}
		if err == nil {
			if _, err := json.Marshal(expr.Text(v)); err != nil {
				t.Errorf("%q gives %v: %v", text, v, err)
			}
		}
	})
}
