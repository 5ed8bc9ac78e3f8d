package git

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Mirror is a bare repository that follows one elsewhere: its branches, tags and default branch. Commits stay as long as
// they are on one of those, or pinned. Methods may be called from several goroutines and processes at once.
type Mirror struct {
	dir     string
	url     string
	command command
	askpass func() (env []string, done func() error, err error)
}

// MirrorOptions say how to reach the repository.
type MirrorOptions struct {
	// Credential is a token, USER:PASSWORD, or a private key for ssh. Default: none is needed.
	Credential string
	// Env is the environment of git, as KEY=VALUE. Default: that of this process.
	Env []string
}

// OpenMirror opens the mirror of the repository at location in the folder dir, which is made when it is missing. It does
// not fetch. A location that is neither an address nor an absolute path is an errs.Invalid.
func OpenMirror(ctx context.Context, dir, location string, opts MirrorOptions) (*Mirror, error) {
	if strings.HasPrefix(location, "-") || !IsURL(location) && !filepath.IsAbs(location) {
		return nil, invalid("open repository %s: want an address or an absolute path", redact(location))
	}
	m := &Mirror{dir: dir, url: location, command: newCommand(location, opts.Env)}
	if err := m.credential(opts.Credential); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", redact(location), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return m, nil
	}
	unlock, err := m.lock()
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", redact(location), err)
	}
	_, err = m.command.in(dir).output(ctx, "init", "--quiet", "--bare", "--template=", ".")
	if err = errors.Join(err, unlock()); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", redact(location), err)
	}
	return m, nil
}

// credential makes git use a credential without showing it in arguments or in the folder's configuration.
func (m *Mirror) credential(c string) error {
	m.askpass = func() ([]string, func() error, error) { return nil, func() error { return nil }, nil }
	c = strings.TrimSpace(c)
	switch {
	case c == "":
	case strings.HasPrefix(c, "-----BEGIN "):
		m.askpass = func() ([]string, func() error, error) { return sshKey(c + "\n") }
	default:
		u, err := url.Parse(m.url)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" {
			return errs.Hint(invalid("a token is of no use for this address"), "use an https address, or a private key for ssh")
		}
		if !strings.Contains(c, ":") {
			c = "oauth2:" + c // forges look at the token alone
		}
		m.command.secret = c
		header := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(c))
		// For this host alone: git compares the beginning of addresses, and a redirect elsewhere gets no header.
		m.command = m.command.with("GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http."+u.Scheme+"://"+u.Host+"/.extraHeader", "GIT_CONFIG_VALUE_0="+header)
	}
	return nil
}

// sshKey puts a key where ssh finds it, for as long as it is needed.
func sshKey(key string) (env []string, done func() error, err error) {
	dir, err := os.MkdirTemp("", "slipway-ssh-")
	if err != nil {
		return nil, nil, err
	}
	name := filepath.Join(dir, "key")
	if err := os.WriteFile(name, []byte(key), 0o600); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	ssh := "ssh -i " + name + " -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
	return []string{"GIT_SSH_COMMAND=" + ssh}, func() error { return os.RemoveAll(dir) }, nil
}

// lock makes sure that one at a time changes the mirror.
func (m *Mirror) lock() (unlock func() error, err error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(m.dir, "slipway.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// Fetch brings the mirror up to date, and fetches the commits named besides, by their full ids, which need not be on any
// branch.
func (m *Mirror) Fetch(ctx context.Context, commits ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch %s: %w", redact(m.url), err)
		}
	}()
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	env, done, err := m.askpass()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	git := m.command.of(m.dir).with(env...)
	head, err := git.output(ctx, "ls-remote", "--symref", "--end-of-options", m.url, "HEAD")
	if err != nil {
		return err
	}
	args := []string{"fetch", "--quiet", "--prune", "--no-tags", "--force", "--end-of-options", m.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}
	if _, err := git.output(ctx, args...); err != nil {
		return err
	}
	for _, id := range commits {
		if !isID(id) {
			return invalid("%s is not the full id of a commit", id)
		}
		if _, err := git.output(ctx, "cat-file", "-e", id+"^{commit}"); err == nil {
			continue
		}
		if _, err := git.output(ctx, "fetch", "--quiet", "--no-tags", "--end-of-options", m.url, id); err != nil {
			return err
		}
	}
	if branch, ok := strings.CutPrefix(head, "ref: refs/heads/"); ok {
		branch, _, _ = strings.Cut(branch, "\t")
		if _, err := git.output(ctx, "symbolic-ref", "HEAD", "refs/heads/"+branch); err != nil {
			return err
		}
	}
	_, err = git.output(ctx, "gc", "--auto", "--quiet")
	return err
}

// Open opens the mirror at a ref of it: a branch, a tag or a commit; the default branch when ref is empty. Nothing is
// fetched. The repository's URL is that of the repository that the mirror follows.
func (m *Mirror) Open(ctx context.Context, ref string, scratch string) (*Repository, error) {
	r, err := Open(ctx, m.dir, Options{Ref: ref, Dir: scratch})
	if err != nil {
		return nil, err
	}
	r.URL = withoutUser(m.url)
	r.Name = strings.TrimSuffix(path.Base(filepath.ToSlash(strings.TrimRight(r.URL, "/"))), ".git")
	return r, nil
}

// pinned is where refs of pinned commits are.
const pinned = "refs/slipway/"

// Pin keeps a commit under a name, whatever becomes of its branch. Unpin lets it go; a name that is not there is no error.
func (m *Mirror) Pin(ctx context.Context, name, commit string) error {
	return m.pin(ctx, "update-ref", pinned+name, commit)
}

// Unpin lets a pinned commit go; see Pin.
func (m *Mirror) Unpin(ctx context.Context, name string) error {
	return m.pin(ctx, "update-ref", "-d", pinned+name)
}

func (m *Mirror) pin(ctx context.Context, args ...string) (err error) {
	unlock, err := m.lock()
	if err != nil {
		return fmt.Errorf("pin a commit of %s: %w", redact(m.url), err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := m.command.of(m.dir).output(ctx, args...); err != nil {
		return fmt.Errorf("pin a commit of %s: %w", redact(m.url), err)
	}
	return nil
}

// Branches returns the names of the branches.
func (m *Mirror) Branches(ctx context.Context) ([]string, error) {
	out, err := m.command.of(m.dir).output(ctx, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads")
	if err != nil {
		return nil, fmt.Errorf("list the branches of %s: %w", redact(m.url), err)
	}
	return strings.Fields(out), nil
}

// File returns a file of the commit, up to limit bytes; a larger one is an errs.Limit. One that is not there, or is no
// file, is an errs.NotFound.
func (r *Repository) File(ctx context.Context, name string, limit int64) ([]byte, error) {
	name = path.Clean(filepath.ToSlash(name))
	if !filepath.IsLocal(name) {
		return nil, invalid("read %s: it leads out of the repository", name)
	}
	git, object := r.command.of(r.dir), r.commit.ID+":"+name
	kind, err := git.output(ctx, "cat-file", "-t", object)
	if isExit(err) || err == nil && kind != "blob" {
		return nil, fmt.Errorf("read %s at %s: the commit has no such file: %w", name, r.commit.Short(), errs.NotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s at %s: %w", name, r.commit.Short(), err)
	}
	size, err := git.output(ctx, "cat-file", "-s", object)
	if err == nil {
		n, parsed := strconv.ParseInt(size, 10, 64)
		if err = parsed; err == nil && n > limit {
			err = fmt.Errorf("it has %d bytes, more than %d: %w", n, limit, errs.Limit)
		}
	}
	var text string
	if err == nil {
		text, err = git.verbatim(ctx, "cat-file", "blob", object)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s at %s: %w", name, r.commit.Short(), err)
	}
	return []byte(text), nil
}

// Files returns the names of the commit's files, up to limit of them, sorted.
func (r *Repository) Files(ctx context.Context, limit int) ([]string, error) {
	out, err := r.command.of(r.dir).output(ctx, "ls-tree", "-r", "-z", "--name-only", "--full-tree", r.commit.ID)
	if err != nil {
		return nil, fmt.Errorf("list the files at %s: %w", r.commit.Short(), err)
	}
	names := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	if out == "" {
		names = nil
	}
	slices.Sort(names)
	return names[:min(limit, len(names))], nil
}

// Author returns the name of the commit's author, for people. It proves nothing: anyone may write anything there.
func (r *Repository) Author(ctx context.Context) (string, error) {
	out, err := r.command.of(r.dir).output(ctx, "log", "-1", "--format=%an", r.commit.ID, "--")
	if err != nil {
		return "", fmt.Errorf("read commit %s: %w", r.commit.Short(), err)
	}
	return out, nil
}
