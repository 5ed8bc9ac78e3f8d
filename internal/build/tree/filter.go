package tree

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/patternmatcher"

	"slipway/internal/errs"
)

// Source is what a COPY or ADD names.
type Source struct {
	// Pattern is a path of the tree, with the wildcards of path.Match.
	Pattern string
	// Literal says that Pattern has no wildcards, whatever it looks like.
	Literal bool
	// Include is what is taken below a folder that Pattern names, as a pattern of an ignore file: "**" is any number of
	// folders, and folders on the way are taken for the sake of what is in them (--parents). Default: everything.
	Include string
	// Required says that Pattern/Include is a path that must exist.
	Required bool
	// Exclude are patterns, as in an ignore file, of what is left out below Pattern (--exclude). Default: nothing is.
	Exclude []string
}

// Find returns the paths of t that the source names, in order, and what is taken below them. A pattern without
// wildcards names itself, whether it exists or not.
func (s Source) Find(t Tree) ([]string, *Filter, error) {
	filter, err := newFilter(s.Include, s.Exclude)
	if err != nil {
		return nil, nil, err
	}
	if s.Required {
		if err := s.require(t, filter); err != nil {
			return nil, nil, err
		}
	}
	if s.Literal {
		return []string{clean(s.Pattern)}, filter, nil
	}
	matches, err := matches(t, s.Pattern)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.Pattern, err)
	}
	return matches, filter, nil
}

// require sees to it that something is taken at Pattern/Include. As in BuildKit a symbolic link on the way, below
// Pattern, is not followed.
func (s Source) require(t Tree, filter *Filter) error {
	missing := fmt.Errorf("%q: %w", path.Join("/", s.Pattern, s.Include), errs.NotFound)
	e, err := source(t, s.Pattern)
	if err != nil || s.Include == "" {
		return err
	}
	at := verdict{taken: true, below: sieve{filter: filter}}
	for name := range strings.SplitSeq(s.Include, "/") {
		if at, err = at.below.child(name); err != nil {
			return err
		}
		if !e.Mode.IsDir() || !at.taken && at.prune {
			return missing
		}
		if e, err = t.Lstat(join(e.Path, name)); notExist(err) {
			return missing
		} else if err != nil {
			return err
		}
	}
	if at.taken {
		return nil
	}
	found, err := walk(t, e, &at.below, false, nil)
	if err == nil && len(found) == 0 {
		err = missing
	}
	return err
}

// Filter decides what is taken below a source folder. The source itself always is. One goroutine at a time may use it;
// nil takes everything.
type Filter struct {
	include, exclude *patternmatcher.PatternMatcher
	literal          string // the leading components of the pattern to include that match only themselves
}

// newFilter returns nil when there is nothing to decide.
func newFilter(include string, exclude []string) (*Filter, error) {
	if include == "" && len(exclude) == 0 {
		return nil, nil
	}
	f := &Filter{}
	var err error
	if include != "" {
		if f.include, err = patternmatcher.New([]string{include}); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", include, errs.Mark(err, errs.Invalid))
		}
		f.literal = literal(include)
	}
	if len(exclude) > 0 {
		if f.exclude, err = patternmatcher.New(exclude); err != nil {
			return nil, fmt.Errorf("--exclude %q: %w", exclude, errs.Mark(err, errs.Invalid))
		}
	}
	return f, nil
}

// literal returns the leading components of a pattern that have no wildcards.
func literal(pattern string) string {
	fixed, _ := splitWildcards(pattern)
	if fixed == "." || strings.Contains(fixed, `\`) {
		return ""
	}
	return fixed
}

// sieve is a filter at one folder below a source. The zero value takes everything.
type sieve struct {
	filter           *Filter
	rel              string // the folder below the source: "" or with a slash at its end
	include, exclude patternmatcher.MatchInfo
}

// verdict is what a sieve says of a file in its folder.
type verdict struct {
	taken bool
	// prune says that nothing below can be taken either.
	prune bool
	below sieve // decides about what is in the file, if that is a folder
}

// child decides about a file of the folder, as fsutil's copier does for BuildKit: a pattern that matched a folder
// matches all below it, and what is excluded is not included.
func (s *sieve) child(name string) (verdict, error) {
	if s.filter == nil {
		return verdict{taken: true}, nil
	}
	p := s.rel + name
	v := verdict{taken: true, below: sieve{filter: s.filter, rel: p + "/"}}
	if m := s.filter.include; m != nil {
		in, info, err := m.MatchesUsingParentResults(p, s.include)
		if err != nil {
			return v, badPattern(err)
		}
		v.taken, v.below.include = in, info
		v.prune = !in && !s.filter.leadsTo(p)
	}
	if m := s.filter.exclude; m != nil {
		out, info, err := m.MatchesUsingParentResults(p, s.exclude)
		if err != nil {
			return v, badPattern(err)
		}
		v.below.exclude = info
		if out {
			v.taken = false
			v.prune = v.prune || !m.Exclusions()
		}
	}
	return v, nil
}

// leadsTo says whether something below a folder that is not included may be.
func (f *Filter) leadsTo(dir string) bool {
	return f.literal == "" || strings.HasPrefix(f.literal+"/", dir+"/") || strings.HasPrefix(dir+"/", f.literal+"/")
}

func badPattern(err error) error {
	if errors.Is(err, path.ErrBadPattern) {
		return errs.Mark(err, errs.Invalid)
	}
	return err
}
