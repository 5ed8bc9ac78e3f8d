package git_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/forge/git"
)

func mirror(t *testing.T, location string, opts git.MirrorOptions) *git.Mirror {
	t.Helper()
	m, err := git.OpenMirror(t.Context(), filepath.Join(t.TempDir(), "mirror"), location, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func fetch(t *testing.T, m *git.Mirror) {
	t.Helper()
	if err := m.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func head(t *testing.T, m *git.Mirror, ref string) (*git.Repository, error) {
	t.Helper()
	return m.Open(t.Context(), ref, t.TempDir())
}

func TestMirror(t *testing.T) {
	t.Parallel()
	source := repository(t)
	m := mirror(t, source, git.MirrorOptions{})
	if _, err := head(t, m, ""); !errors.Is(err, errs.Invalid) {
		t.Errorf("Open of a mirror that was never fetched: %v", err)
	}
	fetch(t, m)
	r, err := head(t, m, "")
	if err != nil {
		t.Fatal(err)
	}
	first := r.Commit()
	if first.Branch != "main" || first.Tag != "v2" || first.Message != "second" || r.URL != source || r.Name != "app" {
		t.Errorf("the default branch is %+v of %s, %s", first, r.URL, r.Name)
	}
	branches, err := m.Branches(t.Context())
	if diff := cmp.Diff([]string{"main", "old"}, branches); err != nil || diff != "" {
		t.Errorf("Branches: %v; mismatch (-want +got):\n%s", err, diff)
	}

	// The branch is rewritten, another one goes, the default branch changes.
	script(t, source, "commit --quiet --amend -m rewritten", "tag -d v2", "branch -D old", "switch --quiet -c develop")
	if err := m.Pin(t.Context(), "runs/1", first.ID); err != nil {
		t.Fatal(err)
	}
	fetch(t, m)
	r, err = head(t, m, "")
	if err != nil || r.Commit().Branch != "develop" || r.Commit().Message != "rewritten" || r.Commit().Tag != "" {
		t.Errorf("after the rewrite: %+v, %v", r.Commit(), err)
	}
	if _, err := head(t, m, "old"); !errors.Is(err, errs.Invalid) {
		t.Errorf("a branch that is gone: %v", err)
	}
	r, err = head(t, m, first.ID)
	if err != nil || r.Commit().Message != "second" {
		t.Errorf("the pinned commit: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.Checkout(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "code/Dockerfile")); err != nil || string(data) != "FROM scratch" {
		t.Errorf("the checkout has %q, %v", data, err)
	}
	for range 2 {
		if err := m.Unpin(t.Context(), "runs/1"); err != nil {
			t.Error(err)
		}
	}
	if err := m.Fetch(t.Context(), "main"); !errors.Is(err, errs.Invalid) {
		t.Errorf("Fetch of a commit by a name: %v", err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	m := mirror(t, repository(t), git.MirrorOptions{})
	fetch(t, m)
	r, err := head(t, m, "main")
	if err != nil {
		t.Fatal(err)
	}
	data, err := r.File(t.Context(), "./code/../code/Dockerfile", 100)
	if err != nil || string(data) != "FROM scratch" {
		t.Errorf("File: %q, %v", data, err)
	}
	for name, kind := range map[string]error{
		"none": errs.NotFound, "code": errs.NotFound, "../x": errs.Invalid, "/etc/passwd": errs.Invalid, "": errs.Invalid,
	} {
		if data, err := r.File(t.Context(), name, 100); !errors.Is(err, kind) && !errors.Is(err, errs.NotFound) {
			t.Errorf("File(%q): %q, %v, want %v", name, data, err, kind)
		}
	}
	if _, err := r.File(t.Context(), "code/Dockerfile", 3); !errors.Is(err, errs.Limit) {
		t.Errorf("File of more than the limit: %v", err)
	}
	if data, err := r.File(t.Context(), "link", 100); err != nil || string(data) != "../../etc/passwd" {
		t.Errorf("a link is followed: %q, %v", data, err) // its text is what the commit has, and no file of this machine
	}
	names, err := r.Files(t.Context(), 10)
	if diff := cmp.Diff([]string{"README", "code/Dockerfile", "link", "run.sh"}, names); err != nil || diff != "" {
		t.Errorf("Files: %v; mismatch (-want +got):\n%s", err, diff)
	}
	if names, err := r.Files(t.Context(), 2); err != nil || len(names) != 2 {
		t.Errorf("two Files: %v, %v", names, err)
	}
	if author, err := r.Author(t.Context()); err != nil || author != "a" {
		t.Errorf("Author: %q, %v", author, err)
	}
}

func TestMirrorRefuses(t *testing.T) {
	t.Parallel()
	for _, location := range []string{"relative", "--upload-pack=touch", "", "-"} {
		if _, err := git.OpenMirror(t.Context(), t.TempDir(), location, git.MirrorOptions{}); !errors.Is(err, errs.Invalid) {
			t.Errorf("OpenMirror(%q): %v", location, err)
		}
	}
	if _, err := git.OpenMirror(t.Context(), t.TempDir(), "git@example.com:a/b", git.MirrorOptions{Credential: "token"}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a token for ssh: %v", err)
	}
	m := mirror(t, "ext::sh -c false://", git.MirrorOptions{})
	if m.Fetch(t.Context()) == nil {
		t.Error("the transport ext was used")
	}
}

// TestMirrorCredential serves a repository over HTTP to those who have a token.
func TestMirrorCredential(t *testing.T) {
	t.Parallel()
	source := repository(t)
	out, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(source), "GIT_HTTP_EXPORT_ALL=1"},
	}
	if _, err := os.Stat(backend.Path); err != nil {
		t.Skip("git has no HTTP backend")
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("oauth2:hunter2"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	location := server.URL + "/app.git/.git"
	dir := filepath.Join(t.TempDir(), "mirror")
	m, err := git.OpenMirror(t.Context(), dir, location, git.MirrorOptions{Credential: "hunter2\n"})
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, m)
	if r, err := head(t, m, ""); err != nil || r.URL != location {
		t.Errorf("Open: %v", err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil || strings.Contains(string(config), "hunter2") || strings.Contains(string(config), want) {
		t.Errorf("the folder's configuration is %q, %v", config, err)
	}
	err = mirror(t, location, git.MirrorOptions{Credential: "wrong-secret"}).Fetch(t.Context())
	if !errors.Is(err, errs.Denied) || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("Fetch with a wrong token: %v", err)
	}
}

// TestMirrorTogether has several fetch, pin and read at once.
func TestMirrorTogether(t *testing.T) {
	t.Parallel()
	source := repository(t)
	dir := filepath.Join(t.TempDir(), "mirror")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			m, err := git.OpenMirror(t.Context(), dir, source, git.MirrorOptions{})
			if err == nil {
				err = m.Fetch(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			r, err := m.Open(t.Context(), "main", t.TempDir())
			if err == nil {
				err = m.Pin(t.Context(), "runs/1", r.Commit().ID)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
