package fetch_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/address"
	"slipway/internal/build/fetch"
	"slipway/internal/errs"
)

// origin is a repository that is served over HTTP, beside others.
type origin struct {
	t   *testing.T
	dir string // with the repositories
	url string
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Skip("needs git (apt-get install git)")
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("needs git-http-backend, which comes with git")
	}
	o := &origin{t: t, dir: t.TempDir()}
	handler := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + o.dir, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: os.Stderr}
	o.url = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); strings.HasPrefix(r.URL.Path, "/private") && password != "hush" && user != "hush" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	})
	return o
}

// git runs git in a repository and returns what it prints.
func (o *origin) git(repo string, args ...string) string {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), "git", args...)
	cmd.Dir = filepath.Join(o.dir, repo)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2020-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2020-01-02T03:04:05Z", "GIT_ALLOW_PROTOCOL=file:http")
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repository makes a repository whose branch main has files, each "name" and content in turn.
func (o *origin) repository(name string, files ...string) {
	o.t.Helper()
	if err := os.MkdirAll(filepath.Join(o.dir, name), 0o755); err != nil {
		o.t.Fatal(err)
	}
	o.git(name, "init", "-q", "-b", "main")
	o.commit(name, files...)
}

func (o *origin) commit(name string, files ...string) string {
	o.t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(o.dir, name, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			o.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			o.t.Fatal(err)
		}
	}
	o.git(name, "add", "-A")
	o.git(name, "commit", "-q", "-m", "x", "--allow-empty")
	return o.git(name, "rev-parse", "HEAD")
}

func (o *origin) address(s string) address.Git {
	o.t.Helper()
	g, ok, err := address.ParseGit(o.url + s)
	if !ok || err != nil {
		o.t.Fatalf("address %s: %t, %v", s, ok, err)
	}
	return g
}

// checkout resolves an address and lists its files with their content.
func checkout(t *testing.T, c *fetch.Client, g address.Git, keep bool, secrets map[string][]byte) (map[string]string, error) {
	t.Helper()
	at, err := c.Resolve(t.Context(), g, secrets)
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	if err := c.Checkout(t.Context(), g, at, fetch.CheckoutOptions{Dir: dir, Scratch: t.TempDir(), KeepGitDir: keep, Secrets: secrets}); err != nil {
		return nil, err
	}
	return files(t, dir), nil
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			target, err := os.Readlink(p)
			found[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(p)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCheckout(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("r.git", "a", "1", "d/b", "1")
	first := o.git("r.git", "rev-parse", "HEAD")
	o.git("r.git", "tag", "light")
	o.git("r.git", "tag", "-a", "-m", "x", "v1")
	tag := o.git("r.git", "rev-parse", "v1")
	second := o.commit("r.git", "a", "2", "d/c", "2")
	o.git("r.git", "branch", "both")
	o.git("r.git", "branch", "feature/x")
	o.git("r.git", "tag", "both", first)
	old, current := map[string]string{"a": "1", "d/b": "1"}, map[string]string{"a": "2", "d/b": "1", "d/c": "2"}
	for _, tc := range []struct {
		address string
		want    map[string]string
	}{
		{"", current},
		{"#main", current},
		{"#refs/heads/main", current},
		{"#heads/main", current},
		{"#feature/x", current},
		{"#v1", old},
		{"#light", old},
		{"?tag=v1", old},
		{"?branch=main", current},
		{"#both", current}, // a branch goes before a tag
		{"?tag=both", old},
		{"#" + first, old},
		{"#" + second, current},
		{"#:d", map[string]string{"b": "1", "c": "2"}},
		{"?tag=v1&subdir=d", map[string]string{"b": "1"}},
		{"?checksum=" + second[:9], current},
		{"?checksum=" + first + "#v1", old},
		{"?checksum=" + tag + "#v1", old},
		{"?fetch-by-commit&checksum=" + first + "#main", old},
	} {
		got, err := checkout(t, newClient(t), o.address("/r.git"+tc.address), false, nil)
		if err != nil {
			t.Errorf("%s: %v", tc.address, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: files mismatch (-want +got):\n%s", tc.address, diff)
		}
	}
}

func TestCheckoutFailures(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("r.git", "a", "1", "d/b", "1")
	head := o.git("r.git", "rev-parse", "HEAD")
	if err := os.Symlink("d", filepath.Join(o.dir, "r.git/l")); err != nil {
		t.Fatal(err)
	}
	o.commit("r.git")
	if err := os.MkdirAll(filepath.Join(o.dir, "empty.git"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.git("empty.git", "init", "-q", "--bare")
	for _, tc := range []struct {
		address string
		kind    error
	}{
		{"/none.git", errs.NotFound},
		{"/empty.git", errs.NotFound},
		{"/r.git#none", errs.NotFound},
		{"/r.git#" + strings.Repeat("0", 40), nil},
		{"/r.git#:none", errs.NotFound},
		{"/r.git#:a", errs.Invalid},
		{"/r.git#:l", errs.Invalid},
		{"/r.git?checksum=" + head, errs.Corrupt},
		{"/r.git?checksum=xyz", errs.Invalid},
	} {
		_, err := checkout(t, newClient(t), o.address(tc.address), false, nil)
		if err == nil || tc.kind != nil && !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v, want %v", tc.address, err, tc.kind)
		}
	}
}

// A token may be in the address or a secret. No error shows it, nor does what is left in .git.
func TestPrivateRepository(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("private.git", "a", "1")
	host := strings.TrimPrefix(o.url, "http://")
	with := o.address("/private.git")
	with.Remote = "http://me:hush@" + host + "/private.git"
	token := o.address("/private.git")
	for name, secrets := range map[string]map[string][]byte{
		"in the address":    nil,
		"as a token":        {"GIT_AUTH_TOKEN": []byte("hush\n")},
		"for the host":      {"GIT_AUTH_TOKEN." + host: []byte("hush")},
		"as a header":       {"GIT_AUTH_HEADER": []byte("basic aHVzaDpodXNo")},
		"for another":       {"GIT_AUTH_TOKEN.example.com": []byte("hush")},
		"not at all":        {},
		"wrongly":           {"GIT_AUTH_TOKEN": []byte("secret-but-wrong")},
		"wrongly addressed": nil,
	} {
		g := token
		switch name {
		case "in the address":
			g = with
		case "wrongly addressed":
			g.Remote = "http://me:secret-but-wrong@" + host + "/private.git"
		}
		good := name == "in the address" || name == "as a token" || name == "for the host" || name == "as a header"
		got, err := checkout(t, newClient(t), g, true, secrets)
		if good != (err == nil) || err != nil && !errors.Is(err, errs.Denied) {
			t.Errorf("%s: %v", name, err)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		for f, data := range got {
			text += f + data
		}
		if strings.Contains(text, "hush") || strings.Contains(text, "secret-but-wrong") || strings.Contains(text, "aHVzaDpodXNo") {
			t.Errorf("%s: the password is told:\n%s", name, text)
		}
	}
}

func TestKeepGitDir(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("r.git", "a", "1")
	o.git("r.git", "tag", "-a", "-m", "x", "v1")
	for _, ref := range []string{"", "#main", "#v1", "#" + o.git("r.git", "rev-parse", "HEAD")} {
		c := newClient(t)
		g := o.address("/r.git" + ref)
		at, err := c.Resolve(t.Context(), g, nil)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := c.Checkout(t.Context(), g, at, fetch.CheckoutOptions{Dir: dir, Scratch: t.TempDir(), KeepGitDir: true}); err != nil {
			t.Fatal(err)
		}
		git := func(args ...string) string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*"}, args...)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: git %v: %v\n%s", ref, args, err, out)
			}
			return strings.TrimSpace(string(out))
		}
		if got := git("rev-parse", "HEAD"); got != at.ID {
			t.Errorf("%s: HEAD is %s, want %s", ref, got, at.ID)
		}
		if got := git("status", "--porcelain"); got != "" {
			t.Errorf("%s: there are changes: %s", ref, got)
		}
		if got := git("config", "remote.origin.url"); got != o.url+"/r.git" {
			t.Errorf("%s: origin is %s", ref, got)
		}
		if ref == "#v1" && git("describe", "--exact-match") != "v1" {
			t.Error("the tag is not known")
		}
	}
	if got, err := checkout(t, newClient(t), o.address("/r.git#:."), true, nil); err != nil || got["a"] != "1" {
		t.Errorf("the root as a folder: %v, %v", got, err)
	}
}

// Two checkouts are equal: modes, times, links.
func TestCheckoutIsPlain(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("r.git", "a", "1", "d/run", "1")
	if err := os.Chmod(filepath.Join(o.dir, "r.git/d/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../outside", filepath.Join(o.dir, "r.git/d/l")); err != nil {
		t.Fatal(err)
	}
	o.commit("r.git")
	c, g := newClient(t), o.address("/r.git")
	at, err := c.Resolve(t.Context(), g, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := c.Checkout(t.Context(), g, at, fetch.CheckoutOptions{Dir: dir, Scratch: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, mode := range map[string]fs.FileMode{"a": 0o644, "d": fs.ModeDir | 0o755, "d/run": 0o755, "d/l": fs.ModeSymlink | 0o777} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode || !info.ModTime().Equal(when) {
			t.Errorf("%s: %v, %v; want %v, %v", name, info.Mode(), info.ModTime(), mode, when)
		}
	}
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("sub.git", "s", "1")
	o.repository("r.git", "a", "1")
	o.git("r.git", "submodule", "--quiet", "add", "../sub.git", "m")
	o.commit("r.git")
	o.git("r.git", "config", "-f", ".gitmodules", "submodule.m.url", "../sub.git")
	o.commit("r.git")
	got, err := checkout(t, newClient(t), o.address("/r.git"), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got["m/s"] != "1" {
		t.Errorf("files are %v", got)
	}
	for name := range got {
		if strings.HasSuffix(name, ".git") {
			t.Errorf("%s is left", name)
		}
	}
	if got, err := checkout(t, newClient(t), o.address("/r.git?submodules=0"), false, nil); err != nil || got["m/s"] != "" {
		t.Errorf("without submodules: %v, %v", got, err)
	}
}

func TestResolveIsCancelled(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.repository("r.git", "a", "1")
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if _, err := newClient(t).Resolve(ctx, o.address("/r.git"), nil); !errors.Is(err, stopped) {
		t.Errorf("Resolve = %v", err)
	}
}
