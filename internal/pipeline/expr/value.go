package expr

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/suggest"
)

// node is a part of an expression.
type node interface {
	value(s *Scope) (any, error)
	check(c *checker)
}

type (
	literal  struct{ v any }
	list     struct{ items []node }
	variable struct {
		name string
		at   int
	}
	member struct {
		of   node
		name string
		at   int
	}
	index struct {
		of, key node
		at      int
	}
	call struct {
		name string
		args []node
		at   int
	}
	unary struct {
		op string
		x  node
	}
	binary struct {
		op   string
		at   int
		x, y node
	}
	choice struct{ condition, then, otherwise node }
)

func (n literal) value(*Scope) (any, error) { return n.v, nil }

func (n list) value(s *Scope) (any, error) { return values(s, n.items) }

func values(s *Scope, nodes []node) ([]any, error) {
	all := make([]any, len(nodes))
	for i, x := range nodes {
		v, err := x.value(s)
		if err != nil {
			return nil, err
		}
		all[i] = v
	}
	return all, nil
}

func (n variable) value(s *Scope) (any, error) {
	v, ok := s.Values[n.name]
	if !ok {
		return nil, &Error{Offset: n.at, Name: n.name, Msg: "there is no " + n.name}
	}
	return v, nil
}

// value of a member that is not there is null, as far down as one asks: it lets || give a default.
func (n member) value(s *Scope) (any, error) {
	of, err := n.of.value(s)
	if err != nil {
		return nil, err
	}
	return get(of, n.name), nil
}

func get(of any, name string) any {
	switch v := of.(type) {
	case map[string]any:
		return v[name]
	case []any:
		if name == "length" {
			return float64(len(v))
		}
	case string:
		if name == "length" {
			return float64(len([]rune(v)))
		}
	}
	return nil
}

func (n index) value(s *Scope) (any, error) {
	of, err := n.of.value(s)
	if err != nil {
		return nil, err
	}
	key, err := n.key.value(s)
	if err != nil {
		return nil, err
	}
	items, isList := of.([]any)
	if f, ok := key.(float64); ok && isList {
		if i := int(f); float64(i) == f && i >= 0 && i < len(items) {
			return items[i], nil
		}
		return nil, nil
	}
	return get(of, Text(key)), nil
}

func (n call) value(s *Scope) (any, error) {
	f, ok := s.Functions[n.name]
	if own, found := functions()[n.name]; found {
		f, ok = own.f, true
		if len(n.args) != own.args {
			return nil, &Error{Offset: n.at, Msg: arity(n.name, own.args)}
		}
	}
	if !ok {
		return nil, &Error{Offset: n.at, Name: n.name, Msg: "there is no function " + n.name}
	}
	args, err := values(s, n.args)
	if err != nil {
		return nil, err
	}
	v, err := f(args)
	if err != nil {
		return nil, asError(fmt.Errorf("%s: %w", n.name, err), n.at)
	}
	return v, nil
}

func (n unary) value(s *Scope) (any, error) {
	v, err := n.x.value(s)
	switch {
	case err != nil:
		return nil, err
	case n.op == "!":
		return !Truth(v), nil
	default:
		return -number(v), nil
	}
}

func (n choice) value(s *Scope) (any, error) {
	v, err := n.condition.value(s)
	switch {
	case err != nil:
		return nil, err
	case Truth(v):
		return n.then.value(s)
	default:
		return n.otherwise.value(s)
	}
}

func (n binary) value(s *Scope) (any, error) {
	x, err := n.x.value(s)
	if err != nil {
		return nil, err
	}
	if n.op == "||" && Truth(x) || n.op == "&&" && !Truth(x) {
		return x, nil
	}
	y, err := n.y.value(s)
	if err != nil {
		return nil, err
	}
	switch n.op {
	case "||", "&&":
		return y, nil
	case "==":
		return loose(x, y), nil
	case "!=":
		return !loose(x, y), nil
	case "===":
		return strict(x, y), nil
	case "!==":
		return !strict(x, y), nil
	case "+":
		if plain(x) && plain(y) {
			return number(x) + number(y), nil
		}
		return Text(x) + Text(y), nil
	case "-":
		return number(x) - number(y), nil
	case "*":
		return number(x) * number(y), nil
	case "/":
		return number(x) / number(y), nil
	case "%":
		return math.Mod(number(x), number(y)), nil
	default:
		return compare(n.op, x, y), nil
	}
}

// plain values are added as numbers; anything else makes + join texts.
func plain(v any) bool {
	switch v.(type) {
	case nil, bool, float64:
		return true
	default:
		return false
	}
}

func compare(op string, x, y any) bool {
	a, isText := x.(string)
	b, both := y.(string)
	if isText && both {
		return order(op, strings.Compare(a, b))
	}
	f, g := number(x), number(y)
	switch {
	case math.IsNaN(f) || math.IsNaN(g):
		return false
	case f < g:
		return order(op, -1)
	case f > g:
		return order(op, 1)
	default:
		return order(op, 0)
	}
}

func order(op string, c int) bool {
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	default:
		return c >= 0
	}
}

// strict is JavaScript's ===, but that lists and maps are equal when what is in them is: identity means nothing here.
func strict(x, y any) bool {
	switch a := x.(type) {
	case []any:
		b, ok := y.([]any)
		return ok && slices.EqualFunc(a, b, strict)
	case map[string]any:
		b, ok := y.(map[string]any)
		return ok && maps.EqualFunc(a, b, strict)
	}
	switch y.(type) {
	case []any, map[string]any:
		return false
	}
	return x == y
}

// loose is JavaScript's ==: null equals null alone, different types are compared as numbers.
func loose(x, y any) bool {
	if x == nil || y == nil {
		return x == nil && y == nil
	}
	_, a := x.(string)
	_, b := y.(string)
	if a && b || !simple(x) || !simple(y) {
		return strict(x, y)
	}
	return number(x) == number(y)
}

func simple(v any) bool {
	_, text := v.(string)
	return text || plain(v)
}

// Truth says whether a value counts as true: not null, false, 0, NaN or "".
func Truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0 && !math.IsNaN(v)
	case string:
		return v != ""
	default:
		return true
	}
}

// number is the value as a number: texts are read, what cannot be one is NaN.
func number(v any) float64 {
	switch v := v.(type) {
	case nil:
		return 0
	case bool:
		if v {
			return 1
		}
		return 0
	case float64:
		return v
	case string:
		v = strings.TrimSpace(v)
		if v == "" {
			return 0
		}
		if f, err := strconv.ParseFloat(v, 64); err == nil && strings.Trim(v, "0123456789.+-eE") == "" {
			return f
		}
	}
	return math.NaN()
}

// Text is a value inside a text: null is nothing, a list or a map is JSON.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return formatNumber(v)
	default:
		text, err := toJSON(v, "")
		if err != nil {
			return fmt.Sprint(v)
		}
		return text
	}
}

func formatNumber(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case math.Abs(f) >= 1e21 || f != 0 && math.Abs(f) < 1e-6:
		return strconv.FormatFloat(f, 'g', -1, 64)
	default:
		return strconv.FormatFloat(f+0, 'f', -1, 64) // + 0 takes the sign off a zero
	}
}

// toJSON is JSON as people expect it: < and & stay, and NaN, which JSON has not, is null.
func toJSON(v any, indent string) (string, error) {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(finite(v)); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

func finite(v any) any {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = finite(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = finite(v[k])
		}
		return out
	}
	return v
}

// function is one of the language's own.
type function struct {
	args int
	f    func(args []any) (any, error)
}

// Functions are the names of the language's own functions.
func Functions() []string { return slices.Sorted(maps.Keys(functions())) }

func functions() map[string]function {
	return map[string]function{
		"contains": {2, func(a []any) (any, error) {
			if items, ok := a[0].([]any); ok {
				return slices.ContainsFunc(items, func(v any) bool { return loose(v, a[1]) }), nil
			}
			return strings.Contains(Text(a[0]), Text(a[1])), nil
		}},
		"startsWith": {2, func(a []any) (any, error) { return strings.HasPrefix(Text(a[0]), Text(a[1])), nil }},
		"endsWith":   {2, func(a []any) (any, error) { return strings.HasSuffix(Text(a[0]), Text(a[1])), nil }},
		"toJSON": {1, func(a []any) (any, error) {
			text, err := toJSON(a[0], "  ")
			return text, err
		}},
	}
}

func arity(name string, args int) string {
	switch args {
	case 0:
		return name + " takes no arguments"
	case 1:
		return name + " takes 1 argument"
	default:
		return fmt.Sprintf("%s takes %d arguments", name, args)
	}
}

// checker looks for names that do not exist.
type checker struct {
	names     Names
	functions map[string]int
	mistakes  []*Error
}

func (c *checker) fail(at int, name, msg, word string, known []string) {
	hint := ""
	if near := suggest.Nearest(word, slices.Values(known)); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(known) > 0 && len(known) <= 20 {
		hint = "there is " + strings.Join(known, ", ")
	}
	c.mistakes = append(c.mistakes, &Error{Offset: at, Name: name, Msg: msg, Hint: hint})
}

func (n literal) check(*checker) {}

func (n list) check(c *checker) {
	for _, x := range n.items {
		x.check(c)
	}
}

func (n variable) check(c *checker) {
	if _, ok := c.names[n.name]; !ok {
		c.fail(n.at, n.name, "there is no "+n.name, n.name, slices.Sorted(maps.Keys(c.names)))
	}
}

func (n member) check(c *checker) {
	n.of.check(c)
	c.below(n.of, n.name, n.at)
}

func (n index) check(c *checker) {
	n.of.check(c)
	n.key.check(c)
	if key, ok := n.key.(literal); ok {
		c.below(n.of, Text(key.v), n.at)
	}
}

// below checks a member of something whose members are known.
func (c *checker) below(of node, name string, at int) {
	known, path := c.known(of)
	if known == nil {
		return
	}
	if _, ok := known[name]; !ok {
		c.fail(at, path+"."+name, "there is no "+path+"."+name, name, slices.Sorted(maps.Keys(known)))
	}
}

// known returns the members that a node has, nil when nothing is known of them, and how the node is written.
func (c *checker) known(n node) (Names, string) {
	switch n := n.(type) {
	case variable:
		return c.names[n.name], n.name
	case member:
		below, path := c.known(n.of)
		return below[n.name], path + "." + n.name
	case index:
		if key, ok := n.key.(literal); ok {
			below, path := c.known(n.of)
			return below[Text(key.v)], path + "." + Text(key.v)
		}
	}
	return nil, ""
}

func (n call) check(c *checker) {
	for _, x := range n.args {
		x.check(c)
	}
	want, ok := c.functions[n.name]
	if own, found := functions()[n.name]; found {
		want, ok = own.args, true
	}
	switch {
	case !ok:
		known := slices.Sorted(maps.Keys(c.functions))
		known = slices.Sorted(slices.Values(append(known, Functions()...)))
		c.fail(n.at, n.name, "there is no function "+n.name, n.name, known)
	case want != len(n.args):
		c.mistakes = append(c.mistakes, &Error{Offset: n.at, Msg: arity(n.name, want)})
	}
}

func (n unary) check(c *checker) { n.x.check(c) }

func (n binary) check(c *checker) {
	n.x.check(c)
	n.y.check(c)
}

func (n choice) check(c *checker) {
	n.condition.check(c)
	n.then.check(c)
	n.otherwise.check(c)
}
