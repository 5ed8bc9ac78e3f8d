// Package git reads repositories by way of the git program: which commit a ref means, what is known about it, and its
// files.
//
//	repo, err := git.Open(ctx, ".", git.Options{Ref: "main"})
//	defer repo.Close()
//	err = repo.Checkout(ctx, dir)
//
// Checkout leaves the repository as it is, index and work tree included, and gives files without a .git folder, all
// with the commit's time and plain permissions: two checkouts of a commit are equal byte for byte, which is what build caches live on.
//
// Git runs without hooks and never asks for a password. Passwords in addresses stay out of errors and variables.
package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"slipway/internal/errs"
)

// Options say which commit to open, and where to work.
type Options struct {
	// Ref is a branch, a tag or a commit; of a repository elsewhere a commit's full id. Default: HEAD.
	Ref string
	// Dir is the folder for temporary files. Default: the system's.
	Dir string
	// Env is the environment of git, as KEY=VALUE. Default: that of this process.
	Env []string
}

// Commit is what is known about a commit.
type Commit struct {
	// ID is the full id.
	ID string
	// Branch and Tag are empty when no branch was opened, or no tag points at the commit.
	Branch, Tag string
	// Message is the first line of the message.
	Message string
	// Time is the committer's.
	Time time.Time
}

// Repository is a repository at one commit.
type Repository struct {
	// Name is the last part of the address, without .git.
	Name string
	// URL is the address it is cloned from, without credentials; the folder when there is no other.
	URL string
	// Changes counts the files of the work tree that differ from the commit; 0 when another ref was asked for.
	Changes int

	commit  Commit
	command command
	dir     string // the git folder
	owned   string // removed by Close
	scratch string // for temporary files
}

// Open opens the repository that holds the folder location, or the one at the address location. The caller closes it.
//
// A folder without a repository, a repository without commits and an unknown ref are of kind errs.Invalid, missing
// credentials errs.Denied.
func Open(ctx context.Context, location string, opts Options) (*Repository, error) {
	if strings.HasPrefix(opts.Ref, "-") || strings.HasPrefix(location, "-") {
		return nil, invalid("open %s: neither a repository nor a ref begins with -", redact(location))
	}
	r := &Repository{command: newCommand(location, opts.Env), scratch: opts.Dir}
	open := r.openFolder
	if IsURL(location) {
		open = r.openURL
	}
	if err := open(ctx, location, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("open repository %s: %w", redact(location), err), r.Close())
	}
	r.Name = strings.TrimSuffix(path.Base(filepath.ToSlash(strings.TrimRight(r.URL, "/"))), ".git")
	return r, nil
}

// IsURL tells an address from a folder: scheme://… or user@host:path.
func IsURL(location string) bool {
	if strings.Contains(location, "://") {
		return true
	}
	host, _, ok := strings.Cut(location, ":")
	return ok && strings.Contains(host, "@") && !strings.Contains(host, "/")
}

// Commit returns the commit that was opened.
func (r *Repository) Commit() Commit { return r.commit }

// FoundOn says on which branch and tag the commit was found, by somebody who knows: a forge, say.
func (r *Repository) FoundOn(branch, tag string) { r.commit.Branch, r.commit.Tag = branch, tag }

// Variables are what <% %> of pipelines knows of the repository, by name. What is not known has none: an empty branch
// would make a broken tag, quietly.
func (r *Repository) Variables() map[string]string {
	vars := map[string]string{}
	for name, value := range map[string]string{
		"git.commitId": r.commit.ID, "git.shortCommitId": r.commit.Short(), "git.branch": r.commit.Branch, "git.tag": r.commit.Tag,
		"git.message": r.commit.Message, "git.repository": r.Name, "git.cloneUrl": r.URL,
	} {
		if value != "" {
			vars[name] = value
		}
	}
	return vars
}

// Short returns the first seven characters of the commit's id.
func (c Commit) Short() string { return c.ID[:min(shortLength, len(c.ID))] }

// Close removes what Open fetched. It may be called twice.
func (r *Repository) Close() error {
	if r.owned == "" {
		return nil
	}
	err := os.RemoveAll(r.owned)
	r.owned = ""
	if err != nil {
		return fmt.Errorf("remove the clone of %s: %w", r.URL, err)
	}
	return nil
}

func (r *Repository) openFolder(ctx context.Context, location string, opts Options) error {
	folder, err := filepath.Abs(location)
	if err != nil {
		return err
	}
	if _, err := os.Stat(folder); err != nil {
		return errs.Mark(err, errs.Invalid)
	}
	dir, err := r.command.in(folder).output(ctx, "rev-parse", "--absolute-git-dir")
	if err != nil {
		if isExit(err) && errs.HintOf(err) == "" {
			err = errs.Hint(errs.Mark(err, errs.Invalid), "name a repository with --repo, or make one: git init, git add, git commit")
		}
		return err
	}
	r.dir, r.URL = dir, folder
	git := r.command.in(folder)
	if url, err := git.output(ctx, "config", "--get", "remote.origin.url"); err == nil && url != "" {
		r.URL = withoutUser(url)
	}
	if err := r.resolve(ctx, opts.Ref); err != nil {
		return err
	}
	if opts.Ref == "" {
		r.Changes = changes(ctx, git)
	}
	return nil
}

// resolve finds the commit that ref means in r.dir, and what is known about it.
func (r *Repository) resolve(ctx context.Context, ref string) error {
	git := r.command.of(r.dir)
	id, branch := "", ""
	for _, name := range candidates(ref) {
		out, err := git.output(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", name+"^{commit}")
		if err == nil {
			id, branch = out, strings.TrimPrefix(strings.TrimPrefix(name, "refs/heads/"), "refs/remotes/origin/")
			if branch == name {
				branch = ""
			}
			break
		}
		if !isExit(err) {
			return err
		}
	}
	switch {
	case id == "" && ref == "":
		return errs.Hint(invalid("it has no commits"), "git add and git commit first")
	case id == "":
		return errs.Hint(invalid("there is no branch, tag or commit %s", ref), "git branch --all lists the branches, git tag the tags")
	}
	if ref == "" {
		branch, _ = git.output(ctx, "symbolic-ref", "--quiet", "--short", "HEAD") // fails on a detached HEAD
	}
	if err := r.describe(ctx, id); err != nil {
		return err
	}
	r.commit.Branch = branch
	r.commit.Tag = r.tag(ctx, ref, id)
	return nil
}

// candidates are the names that a ref may be short for. A branch goes before a tag of the same name, as in git switch.
func candidates(ref string) []string {
	if ref == "" {
		return []string{"HEAD"}
	}
	return []string{"refs/heads/" + ref, "refs/tags/" + ref, "refs/remotes/origin/" + ref, ref}
}

func (r *Repository) describe(ctx context.Context, id string) error {
	out, err := r.command.of(r.dir).output(ctx, "log", "-1", "--format=%H%x00%ct%x00%s", id, "--")
	if err != nil {
		return err
	}
	fields := strings.SplitN(out, "\x00", 3)
	if len(fields) != 3 {
		return fmt.Errorf("read commit %s: unexpected answer %q", id, out)
	}
	seconds, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return fmt.Errorf("read commit %s: %w", id, err)
	}
	r.commit = Commit{ID: fields[0], Time: time.Unix(seconds, 0).UTC(), Message: fields[2]}
	return nil
}

// tag returns the tag the user asked for, or else the newest of those that point at the commit. A repository without
// tags is no error, and neither is one whose tags cannot be listed.
func (r *Repository) tag(ctx context.Context, ref, id string) string {
	out, err := r.command.of(r.dir).output(ctx, "tag", "--points-at", id, "--sort=-creatordate")
	if err != nil {
		return ""
	}
	first := ""
	for name := range strings.Lines(out) {
		name = strings.TrimSpace(name)
		if name == ref {
			return ref
		}
		if first == "" {
			first = name
		}
	}
	return first
}

// changes counts what git status lists. A bare repository has no work tree and no changes.
func changes(ctx context.Context, git command) int {
	out, err := git.output(ctx, "status", "--porcelain", "-z")
	if err != nil {
		return 0
	}
	return strings.Count(out, "\x00")
}

func invalid(format string, args ...any) error {
	return errs.Mark(fmt.Errorf(format, args...), errs.Invalid)
}
