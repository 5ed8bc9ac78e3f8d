package remote

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"slipway/internal/errs"
)

// Type says what kind of place a cache lies in.
type Type string

// Types of cache.
const (
	InRegistry Type = "registry" // a tag of its own, or an image with an inline cache
	InFolder   Type = "local"    // an OCI image layout
	InImage    Type = "inline"   // the image that is built; only to write
)

// Spec is a --cache-from or --cache-to as typed.
type Spec struct {
	Type Type
	Ref  string // of InRegistry
	Dir  string // of InFolder
	// Max keeps the results of all stages, not only of those that the image is made of.
	Max bool
	// TTL drops entries that no build has had for so long. Default: entries are kept.
	TTL time.Duration
	// IgnoreError makes a failure to write the cache a warning.
	IgnoreError bool
}

// ParseFrom reads the value of --cache-from: type=registry,ref=REF, type=local,src=DIR, or REF alone.
func ParseFrom(word string) (Spec, error) { return parse("--cache-from", "src", word) }

// ParseTo reads the value of --cache-to: type=registry,ref=REF or type=local,dest=DIR, each with mode=min|max,
// ttl=DURATION and ignore-error=true if wanted; type=inline; or REF alone.
func ParseTo(word string) (Spec, error) { return parse("--cache-to", "dest", word) }

func parse(flag, folder, word string) (Spec, error) {
	var s Spec
	if word != "" && !strings.ContainsAny(word, "=,") {
		return Spec{Type: InRegistry, Ref: word}, nil
	}
	for field := range strings.SplitSeq(word, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok {
			return s, fmt.Errorf("%s %q: %q is not key=value: %w", flag, word, field, errs.Invalid)
		}
		if err := s.set(folder, strings.ToLower(k), v); err != nil {
			return s, errs.Hint(fmt.Errorf("%s %q: %w", flag, word, err), "for example type=registry,ref=REGISTRY/REPOSITORY:TAG or type=local,"+folder+"=DIR")
		}
	}
	if err := s.check(folder); err != nil {
		return s, fmt.Errorf("%s %q: %w", flag, word, err)
	}
	return s, nil
}

// set takes one key=value. Only what is written has a mode and the like.
func (s *Spec) set(folder, k, v string) (err error) {
	writes := folder == "dest"
	switch {
	case k == "type":
		s.Type = Type(v)
	case k == "ref":
		s.Ref = v
	case k == folder:
		s.Dir = v
	case k == "mode" && writes:
		s.Max = v == "max"
		if !s.Max && v != "min" {
			err = fmt.Errorf("mode %q: want min or max: %w", v, errs.Invalid)
		}
	case k == "ttl" && writes:
		if s.TTL, err = time.ParseDuration(v); err != nil || s.TTL <= 0 {
			err = fmt.Errorf("ttl %q: want a duration such as 168h: %w", v, errs.Invalid)
		}
	case k == "ignore-error" && writes:
		if s.IgnoreError, err = strconv.ParseBool(v); err != nil {
			err = fmt.Errorf("ignore-error %q: want true or false: %w", v, errs.Invalid)
		}
	case (k == "image-manifest" || k == "oci-mediatypes") && v == "true" && writes:
		// What buildx has to be asked for is the only form here.
	default:
		err = fmt.Errorf("unknown key %q: %w", k, errs.Invalid)
	}
	return err
}

func (s *Spec) check(folder string) error {
	missing := func(key, value string) error {
		if value != "" {
			return nil
		}
		return fmt.Errorf("%s is missing: %w", key, errs.Invalid)
	}
	switch s.Type {
	case InRegistry:
		return missing("ref", s.Ref)
	case InFolder:
		return missing(folder, s.Dir)
	case InImage:
		if folder != "dest" {
			return errs.Hint(fmt.Errorf("type inline is only to write: %w", errs.Invalid), "read it with type=registry,ref=IMAGE")
		}
		if s.Max {
			return errs.Hint(fmt.Errorf("an image holds the layers of its own stages alone: %w", errs.Invalid), "use mode=min, or type=registry")
		}
		return nil
	}
	return errs.Hint(fmt.Errorf("type %q is not supported: %w", s.Type, errs.Invalid), "the types are registry, local and, to write, inline")
}
