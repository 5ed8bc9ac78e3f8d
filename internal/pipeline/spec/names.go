package spec

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"slipway/internal/pipeline"
)

// naming is a rule for names. The hosted system allows 40 characters for resources and 63 for triggers. A task's name is
// an alias inside one pipeline, which that system does not limit; ours keeps it fit for file names and labels.
type naming struct {
	most int
	bad  func(name string) string // what is wrong, or ""
}

func resourceName() *naming { return &naming{40, badResource} }
func triggerName() *naming  { return &naming{63, badTrigger} }
func aliasName() *naming    { return &naming{63, badAlias} }

func (s *set) checkName(v *pipeline.Value, rule *naming, path string) {
	n, problem := utf8.RuneCountInString(v.Text), rule.bad(v.Text)
	switch {
	case n > rule.most:
		s.report(v.Origin, fmt.Sprintf("%s has %d characters, at most %d are allowed: %s", subject(path), n, rule.most, quote(v.Text)), "choose a shorter one")
	case problem != "":
		s.report(v.Origin, subject(path)+" "+quote(v.Text)+" "+problem, "for example "+quote(fix(v.Text)))
	}
}

// badResource says what is wrong with the name of a pipeline or a template, or "".
func badResource(name string) string {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z':
		case i == 0:
			return "must begin with a lower-case letter"
		case c >= '0' && c <= '9', c == '-':
		default:
			return "may have lower-case letters, digits and - alone"
		}
	}
	if strings.HasSuffix(name, "-") {
		return "must not end with -"
	}
	return ""
}

// badTrigger says what is wrong with the name of a trigger, or "".
func badTrigger(name string) string {
	digits := 0
	for _, c := range []byte(name) {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
		default:
			return "may have letters, digits, - and _ alone"
		}
	}
	switch {
	case digits == len(name):
		return "must not be a number"
	case strings.HasPrefix(name, "-"), strings.HasSuffix(name, "-"):
		return "must not begin or end with -"
	default:
		return ""
	}
}

// badAlias says what is wrong with the name of a task, or "".
func badAlias(name string) string {
	for i, r := range name {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r):
		case i > 0 && strings.ContainsRune("-_.", r):
		default:
			return "may have letters, digits, -, _ and ., and begins with a letter or digit"
		}
	}
	return ""
}

// fix turns a name into one that every rule accepts.
func fix(name string) string {
	fixed := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		default:
			return '-'
		}
	}, name)
	fixed = strings.Trim(fixed, "-")
	if fixed == "" || fixed[0] >= '0' && fixed[0] <= '9' {
		fixed = strings.TrimSuffix("p-"+fixed, "-")
	}
	return fixed
}
