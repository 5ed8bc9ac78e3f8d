// Package sqlfile reads SQL from files, so that it lies beside a driver as SQL and not as strings of Go.
//
// A file of queries holds several, each after a line with its name, and the names are unique among all files:
//
//	-- name: RunByID
//	SELECT {columns} FROM runs WHERE id = $1
//
// A name that begins with a small letter is a fragment: where another query has it in braces, its text is put.
// A folder of migrations holds files NNNN-what.sql, numbered from 0001 without a gap. Package sqlfile opens no database.
package sqlfile

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// Queries reads all queries below a folder.
func Queries(files fs.FS, dir string) (map[string]string, error) {
	names, err := fs.Glob(files, path.Join(dir, "*.sql"))
	if err != nil {
		return nil, err
	}
	queries := map[string]string{}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		if err := split(queries, string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return expand(queries), nil
}

// expand puts fragments where they are named, and takes them out.
func expand(queries map[string]string) map[string]string {
	var pairs []string
	for name, text := range queries {
		if unicode.IsLower(rune(name[0])) {
			pairs = append(pairs, "{"+name+"}", strings.TrimSuffix(text, "\n"))
		}
	}
	fragments, out := strings.NewReplacer(pairs...), map[string]string{}
	for name, text := range queries {
		if !unicode.IsLower(rune(name[0])) {
			out[name] = fragments.Replace(text)
		}
	}
	return out
}

func split(queries map[string]string, text string) error {
	name := ""
	for line := range strings.Lines(text) {
		if next, ok := strings.CutPrefix(line, "-- name: "); ok {
			name = strings.TrimSpace(next)
			if _, twice := queries[name]; twice || name == "" {
				return fmt.Errorf("a second query with the name %q", name)
			}
			queries[name] = ""
			continue
		}
		if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		}
		if name == "" {
			return fmt.Errorf("a query without a name: %q", line)
		}
		queries[name] += line
	}
	for name, query := range queries {
		if query == "" {
			return fmt.Errorf("the query %s is empty", name)
		}
	}
	return nil
}

// Migration is one step of a schema.
type Migration struct {
	// Number counts from 1, Name is the file's.
	Number int
	Name   string
	SQL    string
}

// Migrations reads the migrations of a folder, in order.
func Migrations(files fs.FS, dir string) ([]Migration, error) {
	names, err := fs.Glob(files, path.Join(dir, "*.sql")) // sorted
	if err != nil {
		return nil, err
	}
	var out []Migration
	for _, name := range names {
		digits, _, _ := strings.Cut(path.Base(name), "-")
		number, err := strconv.Atoi(digits)
		if err != nil || number != len(out)+1 || len(digits) != 4 {
			return nil, fmt.Errorf("%s: want %04d-NAME.sql", name, len(out)+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		out = append(out, Migration{number, path.Base(name), string(text)})
	}
	return out, nil
}
