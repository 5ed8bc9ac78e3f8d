// Package address reads how Dockerfiles and command lines name what is elsewhere: a file by its URL, a commit by a git
// address. It means what BuildKit means by them, and does no I/O.
//
//	https://host/path/file.tar.gz                    a file
//	https://host/repo.git#REF:DIR                    a folder of a commit, in the form of a fragment
//	git@host:repo?branch=REF&subdir=DIR              the same, in the form of a query
package address

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"slipway/internal/errs"
)

// Git is a commit of a repository elsewhere, or a folder of it.
type Git struct {
	// Remote is what git clones: a URL, or user@host:path.
	Remote string
	// Ref is a branch, a tag or a commit. Default: the repository's default branch.
	Ref string
	// Dir is a folder of the repository. Default: all of it.
	Dir string
	// Checksum is what the id of the commit, or of the tag, must begin with. Default: any will do.
	Checksum string
	// KeepGitDir says whether .git is kept; nil when the address does not say.
	KeepGitDir *bool
	// NoSubmodules leaves submodules out.
	NoSubmodules bool
	// CheckoutTime gives files the time of the checkout (mtime=checkout). Default: that of the commit, so that two
	// machines get the same.
	CheckoutTime bool
	// ByCommit trusts Checksum to be the commit that Ref means and asks nobody (fetch-by-commit).
	ByCommit bool
}

// ParseGit reads a git address. ok says whether s is one at all: https://host/path is one only if path ends in .git.
func ParseGit(s string) (g Git, ok bool, err error) {
	rest, fragment, _ := strings.Cut(s, "#")
	rest, rawQuery, _ := strings.Cut(rest, "?")
	switch scheme := scheme(rest); scheme {
	case "http", "https", "ssh", "git":
		u, err := url.Parse(rest)
		if err != nil || strings.HasPrefix(scheme, "http") && !strings.HasSuffix(u.Path, ".git") {
			return Git{}, false, nil //nolint:nilerr // whoever reads it as a URL will say what is wrong
		}
	default:
		if !scpStyle(rest) {
			return Git{}, false, nil
		}
	}
	g.Remote = rest
	ref, dir, _ := strings.Cut(fragment, ":")
	g.Ref, g.Dir = ref, strings.TrimPrefix(path.Join("/", dir), "/")
	query, err := url.ParseQuery(rawQuery)
	if err == nil {
		err = g.query(query)
	}
	if err == nil && strings.HasPrefix(g.Ref, "-") {
		err = fmt.Errorf("invalid git ref %q", g.Ref)
	}
	if err != nil {
		return Git{}, true, fmt.Errorf("git address %s: %w", Redact(s), errs.Mark(err, errs.Invalid))
	}
	return g, true, nil
}

// query reads the second form of an address. What both forms say must agree.
func (g *Git) query(query url.Values) error {
	ref := ""
	for key, values := range query {
		if len(values) > 1 {
			return fmt.Errorf("query %q has multiple values", key)
		}
		value := values[0]
		isFlag := key == "submodules" || key == "keep-git-dir" || key == "fetch-by-commit"
		if value == "" && !isFlag {
			return fmt.Errorf("query %q has no value", key)
		}
		flag := true
		if isFlag && value != "" {
			var err error
			if flag, err = strconv.ParseBool(value); err != nil {
				return fmt.Errorf("invalid %s value: %q", key, value)
			}
		}
		switch key {
		case "ref", "tag", "branch":
			full := refPrefix(key, value) + value
			if ref != "" && ref != full {
				return fmt.Errorf("ref conflicts: %q vs %q", ref, full)
			}
			ref = full
		case "subdir":
			dir := strings.TrimPrefix(path.Join("/", value), "/")
			if g.Dir != "" && g.Dir != dir {
				return fmt.Errorf("subdir conflicts: %q vs %q", g.Dir, dir)
			}
			g.Dir = dir
		case "checksum", "commit":
			g.Checksum = value
		case "keep-git-dir":
			g.KeepGitDir = &flag
		case "submodules":
			g.NoSubmodules = !flag
		case "fetch-by-commit":
			g.ByCommit = flag
		case "mtime":
			if value != "checkout" && value != "commit" {
				return fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", value)
			}
			g.CheckoutTime = value == "checkout"
		default:
			return fmt.Errorf("unexpected query %q", key)
		}
	}
	if ref != "" && g.Ref != "" && g.Ref != ref {
		return fmt.Errorf("ref conflicts: %q vs %q", g.Ref, ref)
	}
	if ref != "" {
		g.Ref = ref
	}
	return nil
}

// refPrefix is what makes a tag or a branch unmistakable.
func refPrefix(kind, name string) string {
	prefix := map[string]string{"tag": "refs/tags/", "branch": "refs/heads/"}[kind]
	if strings.HasPrefix(name, prefix) {
		return ""
	}
	return prefix
}

// scheme is the lower case word before "://", or "".
func scheme(s string) string {
	word, _, ok := strings.Cut(s, "://")
	if !ok || word == "" || strings.ContainsFunc(word, func(r rune) bool { return !letterOrDigit(r) }) {
		return ""
	}
	return strings.ToLower(word)
}

// scpStyle says whether s is user@host:path.
func scpStyle(s string) bool {
	user, rest, ok := strings.Cut(s, "@")
	host, _, colon := strings.Cut(rest, ":")
	word := func(s, more string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune(more, r) })
	}
	return ok && colon && word(user, "-_") && word(host, "-.")
}

func letterOrDigit(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z'
}

// IsCommit says whether s is a whole commit id, SHA-1 or SHA-256.
func IsCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && isHex(s) && s == strings.ToLower(s)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" && s != "" }

// Validate refuses a checksum that cannot be the beginning of an id, and a ByCommit that does not say which commit.
func (g Git) Validate() error {
	switch {
	case g.Checksum != "" && !isHex(g.Checksum):
		return fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash: %w", g.Checksum, errs.Invalid)
	case IsCommit(g.Ref) && !strings.HasPrefix(g.Ref, g.Checksum):
		return fmt.Errorf("expected checksum to match %s, got %s: %w", g.Checksum, g.Ref, errs.Invalid)
	case g.ByCommit && !IsCommit(g.Checksum) && !IsCommit(g.Ref):
		return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum: %w", errs.Invalid)
	}
	return nil
}

// IsHTTP says whether s is the URL of a file. That of a git repository is not.
func IsHTTP(s string) bool {
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return false
	}
	_, isGit, _ := ParseGit(s) // an address with a mistake in it is one, too
	return !isGit
}

// FileName is what a file is called that was fetched from a URL.
func FileName(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "__unnamed__"
	}
	base := path.Base(u.Path)
	if base == "." || base == "/" || base == ".." {
		return "__unnamed__"
	}
	return base
}

// errSecret is all that is said of an address that cannot be read.
var errSecret = errors.New("not an address")

// Redact hides the password of an address, and the name too when it is alone: tokens are given that way.
func Redact(s string) string {
	if scheme(s) == "" {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return errSecret.Error()
	}
	if u.User == nil || u.Scheme == "ssh" {
		return s
	}
	hidden := "xxxxx"
	if _, ok := u.User.Password(); ok {
		hidden = u.User.Username() + ":xxxxx"
	}
	_, rest, _ := strings.Cut(s, "@")
	return u.Scheme + "://" + hidden + "@" + rest
}
