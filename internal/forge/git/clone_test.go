package git_test

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/forge/git"
)

func output(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestClone(t *testing.T) {
	t.Parallel()
	origin := repository(t)
	for ref, want := range map[string]struct{ branch, message, status string }{
		"":    {"main", "second", ""},
		"old": {"old", "first", ""},
		"v1":  {"HEAD", "first", ""},
	} {
		dir := t.TempDir()
		if err := open(t, origin, ref).Clone(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if got := output(t, dir, "rev-parse", "--abbrev-ref", "HEAD"); got != want.branch {
			t.Errorf("%q: on branch %s, want %s", ref, got, want.branch)
		}
		if got := output(t, dir, "log", "--format=%s"); got != want.message {
			t.Errorf("%q: history is %q, want %q alone", ref, got, want.message)
		}
		if got := output(t, dir, "status", "--porcelain"); got != want.status {
			t.Errorf("%q: changes: %s", ref, got)
		}
		if got := output(t, dir, "remote", "get-url", "origin"); got != origin {
			t.Errorf("%q: origin is %s", ref, got)
		}
		head, err := git.Head(t.Context(), dir)
		if err != nil || !strings.HasSuffix(head, " "+want.message) || strings.IndexByte(head, ' ') != 7 {
			t.Errorf("Head: %q, %v", head, err)
		}
	}
	if err := open(t, origin, "").Clone(t.Context(), filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a folder that is not there: no error")
	}
}

// server serves a folder of repositories over HTTP, to those who have the password.
func server(t *testing.T, root string) string {
	t.Helper()
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed")
	}
	program := filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend")
	if _, err := os.Stat(program); err != nil {
		t.Skip("git http-backend is not installed")
	}
	handler := &cgi.Handler{Path: program, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}, Stderr: io.Discard}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, token, _ := r.BasicAuth(); user != "oauth2" || token != "t0ken-of-git" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestFetchInto(t *testing.T) {
	t.Parallel()
	origin := repository(t)
	first, second := output(t, origin, "rev-parse", "main~1"), output(t, origin, "rev-parse", "main")
	address := server(t, filepath.Dir(origin)) + "/app.git/.git"
	withToken := strings.Replace(address, "://", "://oauth2:t0ken-of-git@", 1)
	for _, tt := range []struct {
		name, ref, commit, url string
		head, history          string
	}{
		{name: "HEAD", url: address, head: second, history: "second"},
		{name: "credentials in the address", url: withToken, head: second, history: "second"},
		{name: "branch", url: address, ref: "old", head: first, history: "first"},
		{name: "full branch", url: address, ref: "refs/heads/old", head: first, history: "first"},
		{name: "tag", url: address, ref: "v1", head: first, history: "first"},
		{name: "commit", url: address, ref: first, head: first, history: "first"},
		{name: "refspec", url: address, ref: "+" + first + ":refs/remotes/origin/main", head: first, history: "first"},
		{name: "a commit of a branch", url: address, ref: "main", commit: first, head: first, history: "first"},
		{name: "folder", url: origin, ref: "main", head: second, history: "second"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := git.Fetch{URL: tt.url, Ref: tt.ref, Commit: tt.commit}
			if tt.url == address {
				f.User, f.Token = "oauth2", "t0ken-of-git"
			}
			if err := git.FetchInto(t.Context(), f, dir); err != nil {
				t.Fatal(err)
			}
			if got := output(t, dir, "rev-parse", "HEAD"); got != tt.head {
				t.Errorf("HEAD is %s, want %s", got, tt.head)
			}
			if got := output(t, dir, "log", "--format=%s"); got != tt.history {
				t.Errorf("history is %q, want %q", got, tt.history)
			}
			config, err := os.ReadFile(filepath.Join(dir, ".git", "config"))
			if err != nil || strings.Contains(string(config), "t0ken") || strings.Contains(string(config), base64.StdEncoding.EncodeToString([]byte("oauth2:t0ken-of-git"))) {
				t.Errorf("the token is in .git/config: %s, %v", config, err)
			}
		})
	}
}

func TestFetchIntoFailures(t *testing.T) {
	t.Parallel()
	origin := repository(t)
	address := server(t, filepath.Dir(origin)) + "/app.git/.git"
	for _, tt := range []struct {
		name string
		f    git.Fetch
		kind error
	}{
		{"wrong token", git.Fetch{URL: address, User: "oauth2", Token: "wr0ng-token"}, errs.Denied},
		{"nobody there", git.Fetch{URL: "http://127.0.0.1:1/x.git", Token: "wr0ng-token"}, errs.Unavailable},
		{"an option for a ref", git.Fetch{URL: address, Ref: "--upload-pack=touch /tmp/x"}, errs.Invalid},
		{"an option for an address", git.Fetch{URL: "--upload-pack=touch /tmp/x"}, errs.Invalid},
	} {
		err := git.FetchInto(t.Context(), tt.f, t.TempDir())
		if !errors.Is(err, tt.kind) || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.kind)
		}
	}
}
