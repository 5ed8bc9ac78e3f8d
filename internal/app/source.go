package app

import (
	"context"
	"net/url"
	"os/exec"
	"strings"

	"slipway/internal/build/attest"
)

// contextSource says which commit a folder was checked out from; nil when it is in no repository that git may read.
func contextSource(ctx context.Context, root string) *attest.Source {
	git := func(args ...string) (string, bool) {
		// fsmonitor is a program that a repository's own configuration names.
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root, "-c", "core.fsmonitor=false"}, args...)...).Output()
		return strings.TrimSpace(string(out)), err == nil
	}
	commit, ok := git("rev-parse", "HEAD")
	if !ok {
		return nil
	}
	s := &attest.Source{Commit: commit}
	if remote, ok := git("config", "--get", "remote.origin.url"); ok {
		s.URI = withoutUser(remote)
	}
	changes, ok := git("status", "--porcelain")
	s.Changed = !ok || changes != ""
	return s
}

// withoutUser is an address without its user and password. What is no URL, as git@host:path, names no password.
func withoutUser(remote string) string {
	u, err := url.Parse(remote)
	if err != nil || u.User == nil {
		return remote
	}
	u.User = nil
	return u.String()
}
