package git

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Clone makes dir, an empty folder, a repository that has the commit checked out, and no history: for programs that ask
// git where they are. Its origin is URL, without credentials.
func (r *Repository) Clone(ctx context.Context, dir string) error {
	err := clone(ctx, r.command, dir, source{from: r.dir, name: r.commit.ID, branch: r.commit.Branch, origin: r.URL})
	if err != nil {
		return fmt.Errorf("clone %s: %w", r.commit.Short(), err)
	}
	return nil
}

// Fetch says what to get from a repository elsewhere.
type Fetch struct {
	// URL is the repository's address.
	URL string
	// Ref is what to ask for: a branch, a tag, refs/…, a commit's full id, or +ID:refs/… as git's refspecs have it.
	// Default: HEAD.
	Ref string
	// Commit is checked out when the other side cannot be asked for a commit, as old GitLabs cannot: Ref is then a branch,
	// which is fetched with its history. Default: what Ref is.
	Commit string
	// User and Token are credentials, which no process list and no file shows. Default: those of URL, or git's own.
	User, Token string
	// Env is the environment of git, as KEY=VALUE. Default: that of this process.
	Env []string
}

// FetchInto makes dir, an empty folder, a repository that has what f names checked out. Errors are as those of Open.
func FetchInto(ctx context.Context, f Fetch, dir string) error {
	if strings.HasPrefix(f.Ref, "-") || strings.HasPrefix(f.URL, "-") || strings.HasPrefix(f.Commit, "-") {
		return invalid("fetch %s: neither a repository nor a ref begins with -", redact(f.URL))
	}
	c := newCommand(f.URL, f.Env)
	location := f.URL
	if u, err := url.Parse(f.URL); err == nil && strings.HasPrefix(u.Scheme, "http") {
		if password, ok := u.User.Password(); ok && f.Token == "" {
			f.User, f.Token = u.User.Username(), password
		} else if u.User != nil && f.Token == "" {
			f.User, f.Token = u.User.Username(), "x-oauth-basic"
		}
		location = withoutUser(f.URL)
		c = c.authorized(u.Scheme+"://"+u.Host+"/", f.User, f.Token)
	}
	s := source{from: location, name: f.Ref, commit: f.Commit, origin: location}
	if s.name == "" {
		s.name = "HEAD"
	}
	if err := clone(ctx, c, dir, s); err != nil {
		return fmt.Errorf("fetch %s of %s: %w", s.name, redact(f.URL), err)
	}
	return nil
}

// authorized gives git credentials for an address by way of its environment: its arguments are anybody's to read.
func (c command) authorized(address, user, token string) command {
	if token == "" {
		return c
	}
	code := base64.StdEncoding.EncodeToString([]byte(user + ":" + token))
	c.secret = token
	return c.with("GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http."+address+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Basic "+code)
}

// source is where a commit comes from.
type source struct {
	from, name, commit, branch, origin string
}

func clone(ctx context.Context, c command, dir string, s source) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	git := c.in(dir)
	depth := []string{"--depth=1"}
	if s.commit != "" {
		depth = nil
	}
	name, branch := s.name, s.branch
	if head, ok := strings.CutPrefix(name, "refs/heads/"); ok && branch == "" {
		branch = head
	}
	target := "FETCH_HEAD"
	if s.commit != "" {
		target = s.commit
	}
	checkout := []string{"checkout", "--quiet", "--force", "--detach", target}
	if branch != "" {
		checkout = []string{"checkout", "--quiet", "--force", "-B", branch, target}
	}
	fetch := append([]string{"-c", "protocol.version=2", "fetch", "--quiet", "--no-tags", "--update-shallow"}, depth...)
	for _, args := range [][]string{
		{"init", "--quiet", "--template="},
		{"remote", "add", "origin", s.origin},
		append(fetch, "--end-of-options", s.from, name),
		checkout,
	} {
		if _, err := git.output(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Head says which commit a repository that Clone or FetchInto made has checked out: "0123456 its message".
func Head(ctx context.Context, dir string) (string, error) {
	return newCommand("", nil).in(dir).output(ctx, "log", "-1", "--no-color", "--format=%h %s", "--abbrev="+strconv.Itoa(shortLength))
}

// shortLength is how many characters a short commit id has.
const shortLength = 7
