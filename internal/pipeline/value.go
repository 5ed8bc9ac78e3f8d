package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Origin is where something was written: a place in a file, or a flag when Line is 0.
type Origin struct {
	// File is the file's name as the user gave it, or the flag, such as "--set appName".
	File string
	// Line and Col count from 1; Col counts characters, not bytes.
	Line, Col int
}

// String prints file:line:column, the form editors and terminals make clickable.
func (o Origin) String() string {
	if o.Line == 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.Line) + ":" + strconv.Itoa(o.Col)
}

// Kind is the kind of a Value.
type Kind uint8

// The kinds of Value, as YAML's core schema has them.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Map
)

// String names the kind as messages do.
func (k Kind) String() string {
	switch k {
	case Null:
		return "empty"
	case Bool:
		return "a boolean"
	case Number:
		return "a number"
	case String:
		return "a string"
	case List:
		return "a list"
	case Map:
		return "a map"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// Value is a piece of YAML that knows where it was written. A nil *Value stands for one that is absent, and every
// method accepts it. Values are shared between tasks and never changed once made.
type Value struct {
	Kind Kind
	// Text is a scalar as written, after unquoting and evaluation: 1.10 stays 1.10 and 0123 stays 0123.
	Text    string
	Items   []*Value
	Members []Member
	Origin  Origin
	// Marks are the ${{ of Text that the file wrote, in order. A ${{ that a variable's value brought along has none, and
	// is no expression.
	Marks []Mark
}

// Mark is where a ${{ stands: in a Value's Text, and in the file.
type Mark struct {
	Offset int
	Origin Origin
}

// Place returns where in the file the byte at offset of Text was written, as nearly as can be told.
func (v *Value) Place(offset int) Origin {
	if v == nil {
		return Origin{}
	}
	at := v.Origin
	for _, m := range v.Marks {
		if m.Offset > offset {
			break
		}
		at = m.Origin
		if between := v.Text[m.Offset:min(offset, len(v.Text))]; !strings.Contains(between, "\n") {
			at.Col += utf8.RuneCountInString(between)
		}
	}
	return at
}

// Member is one entry of a Map, in the order of the file. Keys are unique in a Map.
type Member struct {
	Key    string
	Origin Origin
	Value  *Value
}

// Get follows keys down through maps and returns what it finds, nil when there is nothing.
func (v *Value) Get(path ...string) *Value {
	for _, key := range path {
		v = v.member(key)
	}
	return v
}

func (v *Value) member(key string) *Value {
	if v == nil || v.Kind != Map {
		return nil
	}
	for i := range v.Members {
		if v.Members[i].Key == key {
			return v.Members[i].Value
		}
	}
	return nil
}

// KeyAt returns where the key of a map's member was written, and the map's own place when there is no such member.
func (v *Value) KeyAt(key string) Origin {
	if v == nil {
		return Origin{}
	}
	for i := range v.Members {
		if v.Members[i].Key == key {
			return v.Members[i].Origin
		}
	}
	return v.Origin
}

// Absent reports whether there is no value: nothing was written, or nothing but the key.
func (v *Value) Absent() bool { return v == nil || v.Kind == Null }

// String returns a scalar's text, and "" for anything else.
func (v *Value) String() string {
	if v == nil || v.Kind == Null || v.Kind >= List {
		return ""
	}
	return v.Text
}

// Bool returns a boolean's value. The string "true" counts: that is what <% %> gives.
func (v *Value) Bool() bool {
	return v != nil && (v.Kind == Bool && isTrue(v.Text) || v.Kind == String && v.Text == "true")
}

func isTrue(text string) bool { return text == "true" || text == "True" || text == "TRUE" }

// Float returns a scalar that reads as a decimal number.
func (v *Value) Float() (float64, bool) {
	f, err := strconv.ParseFloat(v.String(), 64)
	return f, err == nil
}

// Int returns a scalar that reads as a decimal whole number.
func (v *Value) Int() (int64, bool) {
	n, err := strconv.ParseInt(v.String(), 10, 64)
	return n, err == nil
}

// Strings returns the texts of a list of scalars.
func (v *Value) Strings() []string {
	if v == nil {
		return nil
	}
	var out []string
	for _, item := range v.Items {
		out = append(out, item.String())
	}
	return out
}

// At returns where the value was written, and fallback when it is absent.
func (v *Value) At(fallback Origin) Origin {
	if v == nil {
		return fallback
	}
	return v.Origin
}

// Merge lays over on top of base: maps are merged key by key, however deep; anything else, lists included, is replaced
// whole. An explicit null replaces too. Keys keep the order in which they first appear. Neither input is changed.
func Merge(base, over *Value) *Value {
	switch {
	case over == nil:
		return base
	case base == nil || base.Kind != Map || over.Kind != Map:
		return over
	}
	out := &Value{Kind: Map, Origin: over.Origin, Members: slices.Clone(base.Members)}
	index := make(map[string]int, len(base.Members))
	for i, m := range base.Members {
		index[m.Key] = i
	}
	for _, m := range over.Members {
		i, ok := index[m.Key]
		if !ok {
			out.Members = append(out.Members, m)
			continue
		}
		out.Members[i] = Member{Key: m.Key, Origin: m.Origin, Value: Merge(out.Members[i].Value, m.Value)}
	}
	return out
}
