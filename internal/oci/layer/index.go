package layer

import (
	"cmp"
	"slices"
	"sort"
	"strings"
)

// Index holds the entries of one layer, so that paths can be looked up without an unpacked directory. It is made once
// and then only read, by any number of goroutines.
type Index struct {
	entries []Entry // ordered by directory, then by name
}

// NewIndex returns an index of entries, which it takes over. Of several with the same path the last one counts.
func NewIndex(entries []Entry) *Index {
	slices.SortStableFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	out := entries[:0]
	for i := range entries {
		if i+1 < len(entries) && entries[i].Path == entries[i+1].Path {
			continue
		}
		out = append(out, entries[i])
	}
	return &Index{entries: out}
}

// Len returns the number of entries.
func (x *Index) Len() int { return len(x.entries) }

// Entries returns all entries, ordered by directory and then by name. They must not be changed.
func (x *Index) Entries() []Entry { return x.entries }

// Lookup returns the entry at a clean, relative path. A hard link has the fields of the file that it names.
func (x *Index) Lookup(path string) (Entry, bool) {
	i, ok := sort.Find(len(x.entries), func(i int) int { return comparePaths(path, x.entries[i].Path) })
	if !ok || x.entries[i].Path != path {
		return Entry{}, false
	}
	return x.entries[i], true
}

// Children returns the entries directly inside the directory at path ("." is the root), whiteouts included, by name.
// They must not be changed.
func (x *Index) Children(path string) []Entry {
	if path == "." {
		path = ""
	}
	compare := func(e Entry, dir string) int {
		got, base := splitPath(e.Path)
		if got == dir && base == "." {
			return -1 // the root is not in itself
		}
		return strings.Compare(got, dir)
	}
	start, _ := slices.BinarySearchFunc(x.entries, path, compare)
	end := start + sort.Search(len(x.entries)-start, func(i int) bool { return compare(x.entries[start+i], path) > 0 })
	return x.entries[start:end]
}

// comparePaths orders by directory, then by name: so what is in a directory is together. The root comes first.
func comparePaths(a, b string) int {
	aDir, aBase := splitPath(a)
	bDir, bBase := splitPath(b)
	if c := strings.Compare(aDir, bDir); c != 0 {
		return c
	}
	return cmp.Or(rootFirst(aBase, bBase), strings.Compare(aBase, bBase))
}

// rootFirst orders "." before "-", "!" and whatever else sorts below a dot.
func rootFirst(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	return 0
}

// splitPath divides a clean relative path. The directory of a name at the top, and of the root, is "".
func splitPath(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}
