package dockerfile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"slipway/internal/build"
)

// DefaultIgnoreFile is the ignore file of a build context whose Dockerfile has none of its own.
const DefaultIgnoreFile = ".dockerignore"

// IgnoreFile returns the name of the ignore file that belongs to one Dockerfile and lies beside it. When it exists,
// DefaultIgnoreFile in the context's root is not read.
func IgnoreFile(dockerfile string) string { return dockerfile + DefaultIgnoreFile }

// Ignore is a parsed ignore file: which files of a build context do not exist for COPY and ADD. The builder itself may
// still read them, so that a Dockerfile can hide itself. It does not change and may be used by several goroutines. A
// nil Ignore hides nothing.
type Ignore struct {
	patterns []string
	// exceptions are the literal beginnings of the patterns with a "!", whole path components only.
	exceptions []string
}

// ParseIgnore reads an ignore file. A file without patterns gives nil. A bad pattern is an errs.Invalid.
func ParseIgnore(name string, data []byte) (*Ignore, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{File: name, Msg: err.Error()}
	}
	ig, err := NewIgnore(patterns)
	if err != nil {
		return nil, locateIgnore(name, data, err)
	}
	return ig, nil
}

// locateIgnore finds the line of a bad pattern, by trying the lines one by one.
func locateIgnore(name string, data []byte, cause error) error {
	for i, text := range strings.Split(string(data), "\n") {
		patterns, err := ignorefile.ReadAll(strings.NewReader(text))
		if err == nil {
			_, err = NewIgnore(patterns)
		}
		if err != nil {
			source := build.Excerpt{Line: i + 1, Lines: []string{text}, Col: 1, Width: len(strings.TrimSpace(text))}
			return &Error{File: name, Line: i + 1, Col: 1, Msg: err.Error(), Source: source}
		}
	}
	return &Error{File: name, Msg: cause.Error()}
}

// NewIgnore makes an Ignore of patterns as ParseIgnore would read them, one per line.
func NewIgnore(patterns []string) (*Ignore, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	ig := &Ignore{patterns: patterns}
	for _, p := range patterns {
		m, err := patternmatcher.New([]string{p})
		if err == nil {
			// The first match compiles the pattern; a pattern with "!" alone is skipped, so its body is tried.
			_, err = patternmatcher.MatchesOrParentMatches("x", []string{strings.TrimPrefix(p, "!")})
		}
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
		for _, one := range m.Patterns() {
			if one.Exclusion() {
				ig.exceptions = append(ig.exceptions, literal(one.String()))
			}
		}
	}
	return ig, nil
}

// literal returns the leading components of a pattern that match only themselves.
func literal(pattern string) string {
	i := strings.IndexAny(pattern, `*[]?^\`)
	if i < 0 {
		return pattern
	}
	return strings.TrimSuffix(pattern[:strings.LastIndexByte(pattern[:i], '/')+1], "/")
}

// Patterns returns the patterns as they were read.
func (ig *Ignore) Patterns() []string {
	if ig == nil {
		return nil
	}
	return ig.patterns
}

// Root starts a walk over a context: it stands for the context's root folder, which is never hidden.
func (ig *Ignore) Root() (*IgnoreDir, error) {
	if ig == nil {
		return &IgnoreDir{}, nil
	}
	m, err := patternmatcher.New(ig.patterns)
	if err != nil {
		return nil, fmt.Errorf("ignore patterns: %w", err)
	}
	return &IgnoreDir{ignore: ig, matcher: m}, nil
}

// IgnoreDir is a folder of a walk and what has matched it so far. One goroutine at a time may use the folders that come
// from one Root.
type IgnoreDir struct {
	ignore  *Ignore
	matcher *patternmatcher.PatternMatcher
	prefix  string // "" or the folder's path with a slash
	info    patternmatcher.MatchInfo
}

// Match is what an ignore file says of one path.
type Match struct {
	// Hidden: COPY and ADD do not see the path. A folder comes into sight again when something below it is visible.
	Hidden bool
	// Skip: the path is a hidden folder below which nothing can be visible, so that it need not be read.
	Skip bool
	// Dir is where to ask for the folder's children; nil for what is no folder.
	Dir *IgnoreDir
}

// Match decides about a child of the folder, as fsutil's walk does for BuildKit: a pattern that matched a folder matches
// all below it, and the last pattern that matches wins.
func (d *IgnoreDir) Match(name string, isDir bool) (Match, error) {
	if d.ignore == nil {
		return Match{Dir: d}, nil
	}
	path := d.prefix + name
	hidden, info, err := d.matcher.MatchesUsingParentResults(path, d.info)
	if err != nil {
		return Match{}, fmt.Errorf("match ignore patterns against %s: %w", path, err)
	}
	m := Match{Hidden: hidden}
	if isDir {
		m.Skip = hidden && !d.ignore.reachesInto(path)
		m.Dir = &IgnoreDir{ignore: d.ignore, matcher: d.matcher, prefix: path + "/", info: info}
	}
	return m, nil
}

// reachesInto says whether an exception could match something below a folder.
func (ig *Ignore) reachesInto(dir string) bool {
	for _, e := range ig.exceptions {
		if e == "" || strings.HasPrefix(dir+"/", e+"/") || strings.HasPrefix(e, dir+"/") {
			return true
		}
	}
	return false
}

// Hides says whether COPY and ADD do not see one path, slash separated and relative to the context. It asks for each
// parent as a walk would; to visit many paths, walk from Root.
func (ig *Ignore) Hides(path string) (bool, error) {
	if ig == nil || path == "" || path == "." {
		return false, nil
	}
	dir, err := ig.Root()
	if err != nil {
		return false, err
	}
	m := Match{}
	for name := range strings.SplitSeq(path, "/") {
		if m, err = dir.Match(name, true); err != nil {
			return false, err
		}
		dir = m.Dir
	}
	return m.Hidden, nil
}
