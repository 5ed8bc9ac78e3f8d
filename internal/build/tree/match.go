package tree

import (
	"path"
	"strings"
)

// matches expands a source of COPY: the paths of t that pattern names, in order. A pattern without wildcards names
// itself, whether it exists or not. Wildcards match as path.Match does, one element each, and a folder that matches is
// taken whole.
func matches(t Tree, pattern string) ([]string, error) {
	fixed, wild := splitWildcards(clean(pattern))
	if wild == "" {
		return []string{fixed}, nil
	}
	base, err := Resolve(t, fixed, true)
	if err != nil {
		return nil, err
	}
	var found []string
	return found, match(t, base, strings.Split(wild, "/"), &found)
}

// match descends from dir along the elements of a pattern.
func match(t Tree, dir string, elems []string, found *[]string) error {
	entries, err := t.ReadDir(dir)
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		ok, err := path.Match(elems[0], path.Base(e.Path))
		if err != nil {
			return err
		}
		switch {
		case !ok:
		case len(elems) == 1:
			*found = append(*found, e.Path)
		case e.Mode.IsDir():
			if err := match(t, e.Path, elems[1:], found); err != nil {
				return err
			}
		}
	}
	return nil
}

// splitWildcards cuts a path before its first element that holds a wildcard.
func splitWildcards(p string) (fixed, wild string) {
	elems := strings.Split(p, "/")
	for i, e := range elems {
		if HasWildcards(e) {
			fixed = strings.Join(elems[:i], "/")
			if fixed == "" {
				fixed = "."
			}
			return fixed, strings.Join(elems[i:], "/")
		}
	}
	return p, ""
}

// HasWildcards says whether a path holds an unescaped *, ? or [.
func HasWildcards(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
