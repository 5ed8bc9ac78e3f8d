package sqlfile_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline/store/sqlfile"
)

func files(pairs ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return out
}

func TestQueries(t *testing.T) {
	t.Parallel()
	got, err := sqlfile.Queries(files(
		"q/a.sql", "-- about a\n\n-- name: One\n-- says one\nSELECT 1\n\n-- name: Two\nSELECT\n  2\n",
		"q/b.sql", "-- name: columns\na, b\n-- name: Three\nSELECT {columns} FROM t\n",
	), "q")
	want := map[string]string{"One": "SELECT 1\n", "Two": "SELECT\n  2\n", "Three": "SELECT a, b FROM t\n"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Queries: %v; mismatch (-want +got):\n%s", err, diff)
	}
	for name, text := range map[string]string{
		"a query without a name": "SELECT 1\n",
		"a second query":         "-- name: One\nSELECT 1\n-- name: One\nSELECT 2\n",
		"is empty":               "-- name: One\n-- name: Two\nSELECT 2\n",
	} {
		if _, err := sqlfile.Queries(files("q/a.sql", text), "q"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Queries(%q): %v, want %q", text, err, name)
		}
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	got, err := sqlfile.Migrations(files("m/0002-more.sql", "b", "m/0001-first.sql", "a", "m/README", ""), "m")
	want := []sqlfile.Migration{{Number: 1, Name: "0001-first.sql", SQL: "a"}, {Number: 2, Name: "0002-more.sql", SQL: "b"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Migrations: %v; mismatch (-want +got):\n%s", err, diff)
	}
	for _, names := range [][]string{{"m/0002-a.sql", ""}, {"m/1-a.sql", ""}, {"m/first.sql", ""}, {"m/0001-a.sql", "", "m/0001-b.sql", ""}} {
		if _, err := sqlfile.Migrations(files(names...), "m"); err == nil {
			t.Errorf("Migrations of %v succeeded", names)
		}
	}
}
