package git_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/forge/git"
)

// repository makes a repository with two commits on main, a branch and tags, and returns its folder.
func repository(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := filepath.Join(t.TempDir(), "app.git")
	script(t, dir, "init --quiet --initial-branch=main .")
	write(t, dir, "README", "first")
	script(t, dir, "add .", "commit --quiet -m first", "tag v1", "branch old")
	write(t, dir, "code/Dockerfile", "FROM scratch")
	write(t, dir, "run.sh", "#!/bin/sh")
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	script(t, dir, "add .", "commit --quiet -m second -m body", "tag -a v2 -m annotated")
	return dir
}

func script(t *testing.T, dir string, lines ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		cmd := exec.Command("git", strings.Fields(line)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=1700000000 +0000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", line, err, out)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, location, ref string) *git.Repository {
	t.Helper()
	repo, err := git.Open(t.Context(), location, git.Options{Ref: ref, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := repo.Close(); err != nil {
			t.Error(err)
		}
	})
	return repo
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	full := open(t, dir, "").Commit().ID
	for _, tt := range []struct{ name, location, ref, branch, tag, message string }{
		{"HEAD", dir, "", "main", "v2", "second"},
		{"a folder inside", filepath.Join(dir, "code"), "", "main", "v2", "second"},
		{"a branch", dir, "old", "old", "v1", "first"},
		{"a tag", dir, "v1", "", "v1", "first"},
		{"a commit", dir, full[:12], "", "v2", "second"},
		{"relative", dir, "HEAD~1", "", "v1", "first"},
		{"an address", "file://" + dir, "", "main", "v2", "second"},
		{"an address and a branch", "file://" + dir, "old", "old", "v1", "first"},
		{"an address and a tag", "file://" + dir, "v2", "", "v2", "second"},
		{"an address and a commit", "file://" + dir, full, "", "v2", "second"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			repo := open(t, tt.location, tt.ref)
			c := repo.Commit()
			got := []string{c.Branch, c.Tag, c.Message, repo.Name}
			if diff := cmp.Diff([]string{tt.branch, tt.tag, tt.message, "app"}, got); diff != "" && tt.name != "a folder inside" {
				t.Errorf("mismatch (-want +got):\n%s", diff)
			}
			if want := time.Unix(1700000000, 0); !c.Time.Equal(want) || len(c.ID) != 40 || len(c.Short()) != 7 {
				t.Errorf("commit %+v", c)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	empty := filepath.Join(t.TempDir(), "empty")
	script(t, empty, "init --quiet .")
	for _, tt := range []struct {
		name, location, ref, want string
		kind                      error
	}{
		{"no such folder", "/nowhere/at/all", "", "no such file or directory", errs.Invalid},
		{"no repository", t.TempDir(), "", "not a git repository", errs.Invalid},
		{"no commits", empty, "", "it has no commits", errs.Invalid},
		{"no commits at an address", "file://" + empty, "", "it has no commits", errs.Invalid},
		{"no such ref", dir, "nope", "there is no branch, tag or commit nope", errs.Invalid},
		{"no such ref at an address", "file://" + dir, "nope", "there is no branch or tag nope", errs.Invalid},
		{"a ref that is an option", dir, "--upload-pack=x", "begins with -", errs.Invalid},
		{"an address that is an option", "--upload-pack=x://y", "", "begins with -", errs.Invalid},
		{"a command as address", "ext::sh -c true% ://", "", "transport 'ext' not allowed", nil},
		{"nobody listens", "http://user:hush@127.0.0.1:1/x.git", "", "http://***@127.0.0.1:1/x.git", errs.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			scratch := t.TempDir()
			_, err := git.Open(t.Context(), tt.location, git.Options{Ref: tt.ref, Dir: scratch})
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("Open: %v, want %q of kind %v", err, tt.want, tt.kind)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("the password shows: %v", err)
			}
			if left, _ := os.ReadDir(scratch); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestWithoutGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := git.Open(t.Context(), t.TempDir(), git.Options{})
	if err == nil || !strings.Contains(err.Error(), "the program git is not installed") {
		t.Errorf("Open: %v", err)
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errs.Canceled)
	if _, err := git.Open(ctx, dir, git.Options{}); !errors.Is(err, errs.Canceled) {
		t.Errorf("Open: %v, want errs.Canceled", err)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	if got := open(t, dir, "").Changes; got != 0 {
		t.Errorf("%d changes in a clean work tree", got)
	}
	write(t, dir, "README", "changed")
	write(t, dir, "new", "")
	if got := open(t, dir, "").Changes; got != 2 {
		t.Errorf("%d changes, want 2", got)
	}
	if got := open(t, dir, "main").Changes; got != 0 {
		t.Errorf("%d changes of a ref that was asked for", got)
	}
}

func TestCredentialsStayOut(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	script(t, dir, "remote add origin https://user:hush@example.com/owner/app.git")
	if got, want := open(t, dir, "").URL, "https://example.com/owner/app.git"; got != want {
		t.Errorf("URL = %s, want %s", got, want)
	}
}

// list describes every file below dir.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = info.Mode().String() + " " + info.ModTime().UTC().Format(time.DateTime)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCheckout(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, "README", "changed, not committed")
	write(t, dir, "stray", "not committed")
	for _, location := range []string{dir, "file://" + dir} {
		repo := open(t, location, "")
		out := t.TempDir()
		if err := repo.Checkout(t.Context(), out); err != nil {
			t.Fatal(err)
		}
		got := list(t, out)
		delete(got, ".")
		const at = " 2023-11-14 22:13:20"
		want := map[string]string{
			"README": "-rw-r--r--" + at, "code": "drwxr-xr-x" + at, "code/Dockerfile": "-rw-r--r--" + at,
			"link": "Lrwxrwxrwx" + at, "run.sh": "-rwxr-xr-x" + at,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: checkout mismatch (-want +got):\n%s", location, diff)
		}
		if text, err := os.ReadFile(filepath.Join(out, "README")); err != nil || string(text) != "first" {
			t.Errorf("README is %q, %v", text, err)
		}
	}
	if got := open(t, dir, "").Changes; got != 2 {
		t.Errorf("the repository has %d changes after a checkout, want the same 2", got)
	}
}

func TestCheckoutOfALinkedWorkTree(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	linked := filepath.Join(t.TempDir(), "linked")
	script(t, dir, "worktree add --quiet "+linked+" old")
	repo := open(t, linked, "")
	out := t.TempDir()
	if err := repo.Checkout(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(out, "code")); !errors.Is(err, fs.ErrNotExist) || repo.Commit().Branch != "old" {
		t.Errorf("branch %s, code: %v", repo.Commit().Branch, err)
	}
}

func FuzzIsURL(f *testing.F) {
	f.Add("https://u:p@h/x")
	f.Add("git@github.com:a/b.git")
	f.Fuzz(func(t *testing.T, s string) {
		if git.IsURL(s) && strings.HasPrefix(s, "/") && !strings.Contains(s, "://") {
			t.Errorf("IsURL(%q) of a path", s)
		}
	})
}
