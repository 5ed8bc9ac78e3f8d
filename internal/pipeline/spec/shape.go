package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/mistake"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/expr"
	"slipway/internal/suggest"
)

// form is what a shape asks of a value.
type form uint8

const (
	anything form = iota
	text          // any scalar, taken as it is written
	boolean
	whole
	decimal
	list
	object
)

// shape describes a value of a pipeline file: for the check, for the JSON schema, and through it for editors.
type shape struct {
	form form
	desc string
	// keys are the known members of an object. own says that users may add keys of their own, of shape items when that
	// is set; otherwise an unknown key gets a warning.
	keys []key
	own  bool
	// items is the shape of a list's items, or of an own key's value.
	items *shape
	// or is a second form that is as good, such as a bare string for {name: string}.
	or *shape
	// least and most bound a number; both 0 means no bounds.
	least, most float64
	// enum lists the texts that are allowed.
	enum []string
	// def names the shape in the JSON schema, for one that is used in several places.
	def string
	// name is the rule for a name, nil for other texts.
	name *naming
}

type key struct {
	name     string
	shape    *shape
	required bool
}

// checkDocument checks a whole document and reports whether it is worth a closer look.
func (s *set) checkDocument(kind string, d *pipeline.Value) bool {
	if d.Kind != pipeline.Map {
		s.report(d.Origin, "a document must be a map, this is "+d.Kind.String(), "begin with: kind: Pipeline")
		return false
	}
	sh := documentShape(kind)
	if sh == nil {
		s.unknownKind(d)
		return false
	}
	s.check(d, sh, "")
	return true
}

func (s *set) unknownKind(d *pipeline.Value) {
	kinds := []string{KindPipeline, KindPipelineTemplate, KindTaskTemplate, KindPipelineTrigger}
	kind := d.Get("kind")
	if kind.Absent() {
		hint := "begin with: kind: Pipeline"
		if !d.Get("edition").Absent() {
			hint = "this is an s.yaml, and only pipeline files can be checked"
		}
		s.report(d.Origin, "the document has no kind", hint)
		return
	}
	hint := "the kinds are " + strings.Join(kinds, ", ")
	if near := suggest.Nearest(kind.String(), slices.Values(kinds)); near != "" {
		hint = "did you mean " + near + "?"
	}
	s.report(kind.Origin, "unknown kind "+quote(kind.String()), hint)
}

// check reports where v differs from its shape. path is where v stands, such as "spec.context", for messages.
func (s *set) check(v *pipeline.Value, sh *shape, path string) {
	if v.Absent() || sh == nil || sh.form == anything {
		return
	}
	if sh.or != nil && fits(v, sh.or) {
		sh = sh.or
	}
	if !fits(v, sh) {
		s.report(v.Origin, fmt.Sprintf("%s must be %s, not %s", subject(path), sh.form, what(v, path)), example(sh, path))
		return
	}
	switch sh.form {
	case object:
		s.checkObject(v, sh, path)
	case list:
		for i, item := range v.Items {
			s.check(item, sh.items, fmt.Sprintf("%s[%d]", path, i))
		}
	case whole, decimal:
		s.checkNumber(v, sh, path)
	case text:
		s.checkText(v, sh, path)
	}
}

// fits reports whether v has the form. A string with an expression nobody could evaluate fits every scalar.
func fits(v *pipeline.Value, sh *shape) bool {
	scalar := v.Kind < pipeline.List
	switch sh.form {
	case object:
		return v.Kind == pipeline.Map
	case list:
		return v.Kind == pipeline.List
	case text:
		return scalar
	case boolean:
		return scalar && (v.Kind == pipeline.Bool || v.Text == "true" || v.Text == "false" || expr.Has(v.Text))
	case whole:
		_, ok := v.Int()
		return scalar && (ok || expr.Has(v.Text))
	case decimal:
		_, ok := v.Float()
		return scalar && (ok || expr.Has(v.Text))
	default:
		return true
	}
}

// String names the form as messages do.
func (f form) String() string {
	switch f {
	case text:
		return "a string"
	case boolean:
		return "true or false"
	case whole:
		return "a whole number"
	case decimal:
		return "a number"
	case list:
		return "a list"
	case object:
		return "a map"
	default:
		return "anything"
	}
}

// subject shortens a path to the part that says something beside the place: what stands below context.data, or a task.
func subject(path string) string {
	if path == "" {
		return "the document"
	}
	for _, prefix := range []string{"context.data.", "templateSpec.", "spec."} {
		if i := strings.LastIndex(path, prefix); i >= 0 {
			return path[i+len(prefix):]
		}
	}
	return path
}

// what says what v is: a scalar is quoted, unless it may be a secret.
func what(v *pipeline.Value, path string) string {
	if v.Kind >= pipeline.List || mistake.IsSecret(path) || len(v.Text) > 100 {
		return v.Kind.String()
	}
	return quote(v.Text)
}

// example shows how a value of the shape is written.
func example(sh *shape, path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch sh.form {
	case list:
		return "write it as a list: " + last + ": [a, b]"
	case object:
		if len(sh.keys) > 0 {
			return "write it as a map: " + last + ": {" + sh.keys[0].name + ": …}"
		}
		return "write it as a map: " + last + ": {key: value}"
	case boolean:
		return "write true or false"
	case whole:
		return "for example " + last + ": " + strconv.Itoa(int(max(sh.least, 1)))
	default:
		return ""
	}
}

func (s *set) checkObject(v *pipeline.Value, sh *shape, path string) {
	for _, m := range v.Members {
		i := slices.IndexFunc(sh.keys, func(k key) bool { return k.name == m.Key })
		switch {
		case i >= 0:
			s.check(m.Value, sh.keys[i].shape, join(path, m.Key))
		case sh.own && sh.items != nil:
			s.check(m.Value, sh.items, join(path, m.Key))
		default:
			s.unknownKey(m, sh, path)
		}
	}
	for _, k := range sh.keys {
		if k.required && empty(v.Get(k.name)) {
			s.report(v.Get(k.name).At(v.Origin), subject(path)+" needs a "+k.name, "add "+k.name+": …")
		}
	}
}

func empty(v *pipeline.Value) bool {
	return v.Absent() || v.Kind == pipeline.String && v.Text == ""
}

// unknownKey warns of a key that nothing reads. Where users may have keys of their own only a near miss is worth it.
func (s *set) unknownKey(m pipeline.Member, sh *shape, path string) {
	names := func(yield func(string) bool) {
		for _, k := range sh.keys {
			if !yield(k.name) {
				return
			}
		}
	}
	near := suggest.Nearest(m.Key, names)
	switch {
	case near != "":
		s.warn(m.Origin, "unknown key "+subject(join(path, m.Key))+": it is ignored", "did you mean "+near+"?")
	case !sh.own:
		s.warn(m.Origin, "unknown key "+subject(join(path, m.Key))+": it is ignored", "the keys here are "+strings.Join(slices.Collect(names), ", "))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (s *set) checkNumber(v *pipeline.Value, sh *shape, path string) {
	if n, ok := v.Float(); ok && sh.most > 0 && !(n >= sh.least && n <= sh.most) {
		nearest := sh.least // of no number, too
		if n > sh.least {
			nearest = sh.most
		}
		s.report(v.Origin, fmt.Sprintf("%s is %s; it must be from %v to %.0f", subject(path), v.Text, sh.least, sh.most),
			"the nearest that is allowed is "+strconv.FormatFloat(nearest, 'f', -1, 64))
	}
}

func (s *set) checkText(v *pipeline.Value, sh *shape, path string) {
	if expr.Has(v.Text) {
		return
	}
	if len(sh.enum) > 0 && !slices.Contains(sh.enum, v.Text) {
		hint := "it may be " + strings.Join(sh.enum, ", ")
		if near := suggest.Nearest(v.Text, slices.Values(sh.enum)); near != "" {
			hint = "did you mean " + near + "?"
		}
		s.report(v.Origin, subject(path)+" cannot be "+quote(v.Text), hint)
	}
	if sh.name != nil {
		s.checkName(v, sh.name, path)
	}
}
