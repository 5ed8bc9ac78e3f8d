package archive

import (
	"fmt"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

// Type says what kind of place mounts are kept in.
type Type string

// Types of places.
const (
	InRegistry Type = "registry"
	InFolder   Type = "local"
)

// Spec is a --cache-mount as typed.
type Spec struct {
	Type Type
	Ref  string // of InRegistry: a repository
	Dir  string // of InFolder
	// ID restricts it to the mounts with this id. Default: all.
	ID string
	// ReadOnly: mounts are restored and never saved.
	ReadOnly bool
	// IgnoreError makes a failure to save a warning.
	IgnoreError bool
}

// For says whether a mount with an id is kept there.
func (s *Spec) For(id string) bool { return s.ID == "" || s.ID == id }

// example is what a mistake is answered with.
const example = "for example type=registry,ref=REGISTRY/REPOSITORY or type=local,dir=DIR, each with id=ID, mode=ro or ignore-error=true if wanted"

// Parse reads the value of --cache-mount: type=registry,ref=REPOSITORY or type=local,dir=DIR, each with id=ID,
// mode=ro|rw and ignore-error=true if wanted.
func Parse(word string) (Spec, error) {
	var s Spec
	for field := range strings.SplitSeq(word, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		err := s.set(strings.ToLower(k), v)
		if !ok {
			err = fmt.Errorf("%q is not key=value: %w", field, errs.Invalid)
		}
		if err != nil {
			return s, errs.Hint(fmt.Errorf("--cache-mount %q: %w", word, err), example)
		}
	}
	if err := s.check(); err != nil {
		return s, errs.Hint(fmt.Errorf("--cache-mount %q: %w", word, err), example)
	}
	return s, nil
}

func (s *Spec) set(k, v string) (err error) {
	switch k {
	case "type":
		s.Type = Type(v)
	case "ref":
		s.Ref = v
	case "dir":
		s.Dir = v
	case "id":
		s.ID = v
	case "mode":
		s.ReadOnly = v == "ro"
		if !s.ReadOnly && v != "rw" {
			err = fmt.Errorf("mode %q: want ro, which only restores, or rw: %w", v, errs.Invalid)
		}
	case "ignore-error":
		if s.IgnoreError, err = strconv.ParseBool(v); err != nil {
			err = fmt.Errorf("ignore-error %q: want true or false: %w", v, errs.Invalid)
		}
	default:
		err = fmt.Errorf("unknown key %q: %w", k, errs.Invalid)
	}
	return err
}

func (s *Spec) check() error {
	_, name, _ := strings.Cut(s.Ref, "/")
	switch {
	case s.Type != InRegistry && s.Type != InFolder:
		return fmt.Errorf("type %q is not supported: the types are registry and local: %w", s.Type, errs.Invalid)
	case s.Type == InRegistry && s.Ref == "":
		return fmt.Errorf("ref is missing: %w", errs.Invalid)
	case s.Type == InRegistry && strings.ContainsAny(name, ":@"):
		return fmt.Errorf("ref %q: want a repository; each mount gets a tag of its own in it: %w", s.Ref, errs.Invalid)
	case s.Type == InFolder && s.Dir == "":
		return fmt.Errorf("dir is missing: %w", errs.Invalid)
	case s.Type == InRegistry && s.Dir != "", s.Type == InFolder && s.Ref != "":
		return fmt.Errorf("type %s has no %s: %w", s.Type, map[Type]string{InRegistry: "dir", InFolder: "ref"}[s.Type], errs.Invalid)
	}
	return nil
}
