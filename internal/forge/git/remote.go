package git

import (
	"context"
	"fmt"
	"os"
	"strings"

	"slipway/internal/errs"
)

// openURL fetches one commit, without its history, into a repository of our own.
func (r *Repository) openURL(ctx context.Context, location string, opts Options) error {
	r.URL = withoutUser(location)
	dir, err := os.MkdirTemp(opts.Dir, "git-")
	if err != nil {
		return err
	}
	r.owned, r.dir = dir, dir
	if _, err := r.command.in(dir).output(ctx, "init", "--quiet", "--bare"); err != nil {
		return err
	}
	target, err := r.remoteRef(ctx, location, opts.Ref)
	if err != nil {
		return err
	}
	git := r.command.of(dir)
	if _, err := git.output(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--end-of-options", location, target.name); err != nil {
		return err
	}
	id, err := git.output(ctx, "rev-parse", "--verify", "FETCH_HEAD^{commit}")
	if err != nil {
		return err
	}
	if err := r.describe(ctx, id); err != nil {
		return err
	}
	r.commit.Branch, r.commit.Tag = target.branch, target.tags[id]
	if tag, ok := strings.CutPrefix(target.name, "refs/tags/"); ok {
		r.commit.Tag = tag
	}
	return nil
}

// target is what a ref means in a repository elsewhere.
type target struct {
	name   string // what to fetch
	branch string
	tags   map[string]string // commit -> tag
}

// remoteRef asks the other side for its refs and finds the one that is meant.
func (r *Repository) remoteRef(ctx context.Context, location, ref string) (target, error) {
	out, err := r.command.of(r.dir).output(ctx, "ls-remote", "--symref", "--end-of-options", location, "HEAD", "refs/heads/*", "refs/tags/*")
	if err != nil {
		return target{}, err
	}
	t := target{tags: map[string]string{}}
	names := map[string]bool{}
	head := ""
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if symbolic, ok := strings.CutPrefix(id, "ref: "); ok {
			head = strings.TrimPrefix(symbolic, "refs/heads/")
			continue
		}
		names[name] = true
		if tag, ok := strings.CutPrefix(name, "refs/tags/"); ok {
			t.tags[id] = strings.TrimSuffix(tag, "^{}")
		}
	}
	switch {
	case ref == "" && !names["HEAD"]:
		return target{}, errs.Hint(invalid("it has no commits"), "push a commit first, or name a branch with --ref")
	case ref == "":
		t.name, t.branch = "HEAD", head
	case names["refs/heads/"+ref]:
		t.name, t.branch = "refs/heads/"+ref, ref
	case names["refs/tags/"+ref]:
		t.name = "refs/tags/" + ref
	case isID(ref):
		t.name = ref
	default:
		return target{}, errs.Hint(invalid("there is no branch or tag %s", ref), fmt.Sprintf("git ls-remote %s lists them; a commit needs its full id", redact(location)))
	}
	return t, nil
}

// isID reports whether ref is a full commit id, SHA-1 or SHA-256.
func isID(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}
