package address_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/address"
	"slipway/internal/errs"
)

func TestParseGit(t *testing.T) {
	t.Parallel()
	keep, drop := true, false
	for s, want := range map[string]address.Git{
		"https://example.com/foo.git":                             {Remote: "https://example.com/foo.git"},
		"https://example.com/foo.git#deadbeef":                    {Remote: "https://example.com/foo.git", Ref: "deadbeef"},
		"https://example.com/foo.git#release/1.2":                 {Remote: "https://example.com/foo.git", Ref: "release/1.2"},
		"https://example.com/foo.git#baz/qux:quux/quuz":           {Remote: "https://example.com/foo.git", Ref: "baz/qux", Dir: "quux/quuz"},
		"https://example.com/foo.git#:my/../../folder/":           {Remote: "https://example.com/foo.git", Dir: "folder"},
		"git://example.com/foo":                                   {Remote: "git://example.com/foo"},
		"ssh://git@example.com:22/foo":                            {Remote: "ssh://git@example.com:22/foo"},
		"git@github.com:moby/buildkit":                            {Remote: "git@github.com:moby/buildkit"},
		"git@github.com:moby/buildkit.git?subdir=/subdir#v1.0.0":  {Remote: "git@github.com:moby/buildkit.git", Ref: "v1.0.0", Dir: "subdir"},
		"https://foo:bar@github.com/moby/buildkit.git":            {Remote: "https://foo:bar@github.com/moby/buildkit.git"},
		"https://h/r.git?ref=v1.0.0&subdir=/subdir":               {Remote: "https://h/r.git", Ref: "v1.0.0", Dir: "subdir"},
		"https://h/r.git?tag=v1":                                  {Remote: "https://h/r.git", Ref: "refs/tags/v1"},
		"https://h/r.git?tag=refs/tags/v1#refs/tags/v1":           {Remote: "https://h/r.git", Ref: "refs/tags/v1"},
		"https://h/r.git?branch=v1":                               {Remote: "https://h/r.git", Ref: "refs/heads/v1"},
		"https://h/r.git?mtime=commit":                            {Remote: "https://h/r.git"},
		"https://h/r.git?mtime=checkout":                          {Remote: "https://h/r.git", CheckoutTime: true},
		"https://h/r.git?keep-git-dir":                            {Remote: "https://h/r.git", KeepGitDir: &keep},
		"https://h/r.git?keep-git-dir=0&submodules=false":         {Remote: "https://h/r.git", KeepGitDir: &drop, NoSubmodules: true},
		"https://h/r.git?fetch-by-commit&checksum=deadbeef#refs/": {Remote: "https://h/r.git", Ref: "refs/", Checksum: "deadbeef", ByCommit: true},
		"https://h/r.git?fetch-by-commit=false&commit=de":         {Remote: "https://h/r.git", Checksum: "de"},
	} {
		got, ok, err := address.ParseGit(s)
		if !ok || err != nil {
			t.Errorf("ParseGit(%q) = %t, %v", s, ok, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseGit(%q) mismatch (-want +got):\n%s", s, diff)
		}
	}
}

func TestParseGitKnowsWhatIsNone(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"https://example.com/", "https://example.com/foo", "https://example.com/foo.git/", "https://example.com/foo.git.bar",
		"custom.xyz/moby/buildkit.git", "http://github.com/docker/docker.git:#branch", "./.git", ".git", "", "@:", "a b@c:d", "a@b",
		"file:///x.git", "ftp://h/x.git", "dir/a@b:c", "x*@h:y",
	} {
		if got, ok, err := address.ParseGit(s); ok || err != nil {
			t.Errorf("ParseGit(%q) = %+v, %t, %v", s, got, ok, err)
		}
	}
}

func TestParseGitRefuses(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"?ref=v1.0.0#v1.2.3":       "ref conflicts",
		"?ref=v1.0.0&tag=v1.2.3":   "ref conflicts",
		"?tag=v1.0.0&branch=v1.0":  "ref conflicts",
		"?subdir=a#:b":             "subdir conflicts",
		"?mtime=invalid":           "invalid mtime value",
		"?fetch-by-commit=invalid": "invalid fetch-by-commit value",
		"?keep-git-dir=x":          "invalid keep-git-dir value",
		"?invalid=123":             "unexpected query \"invalid\"",
		"?ref=":                    "query \"ref\" has no value",
		"?ref=a&ref=b":             "multiple values",
		"?ref=%zz":                 "invalid URL escape",
		"#--upload-pack=x":         "invalid git ref",
	} {
		_, ok, err := address.ParseGit("https://me:token@h/r.git" + query)
		if !ok || !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "token") {
			t.Errorf("ParseGit(…%s) = %t, %v; want %q", query, ok, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("0a", 20)
	for _, tc := range []struct {
		git  address.Git
		good bool
	}{
		{address.Git{}, true},
		{address.Git{Ref: commit, Checksum: "0a0a"}, true},
		{address.Git{Ref: "main", Checksum: "0A"}, true},
		{address.Git{ByCommit: true, Checksum: commit}, true},
		{address.Git{ByCommit: true, Ref: commit}, true},
		{address.Git{Checksum: "xyz"}, false},
		{address.Git{Ref: commit, Checksum: "0b"}, false},
		{address.Git{ByCommit: true, Checksum: "0a"}, false},
		{address.Git{ByCommit: true}, false},
	} {
		if err := tc.git.Validate(); (err == nil) != tc.good {
			t.Errorf("Validate of %+v = %v", tc.git, err)
		}
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"https://h/a/b.txt?x=1": "b.txt", "http://h": "__unnamed__", "http://h/": "__unnamed__", "http://h/a/": "a", "http://h/a/..": "__unnamed__", "http://h/%2e%2e": "__unnamed__", "http://h/%zz": "__unnamed__", "https://h/a%20b": "a b",
	} {
		if !address.IsHTTP(s) || address.FileName(s) != want {
			t.Errorf("%q: %t, %q; want %q", s, address.IsHTTP(s), address.FileName(s), want)
		}
	}
	for _, s := range []string{"https://h/r.git", "https://h/r.git?bad=1", "a.txt", "ftp://h/x", "git@h:x"} {
		if address.IsHTTP(s) {
			t.Errorf("%q is a file's URL", s)
		}
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"https://h/x":             "https://h/x",
		"https://token@h/x#a:b":   "https://xxxxx@h/x#a:b",
		"https://me:token@h/x?y":  "https://me:xxxxx@h/x?y",
		"git@h:x":                 "git@h:x",
		"ssh://git@h/x":           "ssh://git@h/x",
		"https://me:to%zzken@h/x": "not an address",
	} {
		if got := address.Redact(s); got != want {
			t.Errorf("Redact(%q) = %q, want %q", s, got, want)
		}
	}
}

// A file gets a name of its own in the folder that it is for, whatever its URL is.
func FuzzFileName(f *testing.F) {
	for _, s := range []string{"https://h/a/b.txt?x=1", "http://h/..", "http://h/%2e%2e", "http://h/a%2fb", "http://h/a/.", "http://%", "http://u:p@h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := address.FileName(s)
		if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			t.Errorf("FileName(%q) = %q", s, name)
		}
		if address.IsHTTP(s) {
			if _, isGit, _ := address.ParseGit(s); isGit {
				t.Errorf("%q is a file's and a repository's", s)
			}
		}
	})
}

func FuzzParseGit(f *testing.F) {
	for _, s := range []string{"https://h/r.git#a:b", "git@h:x?tag=1", "ssh://u@h/x?subdir=..", "#", "?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, ok, err := address.ParseGit(s)
		if !ok && err != nil {
			t.Errorf("ParseGit(%q) is no address and %v", s, err)
		}
		if strings.HasPrefix(g.Ref, "-") || strings.HasPrefix(g.Dir, "/") || strings.Contains("/"+g.Dir+"/", "/../") {
			t.Errorf("ParseGit(%q) = %+v", s, g)
		}
		address.Redact(s)
	})
}
