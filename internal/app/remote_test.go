package app_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/app"
	"slipway/internal/errs"
)

// sums are the modes and contents of files as want.json has them.
func fileOf(mode, content string) string {
	return fmt.Sprintf("file %s 0:0 %d %s", mode, len(content), digest.FromString(content).Encoded())
}

// archiveOf is a compressed tar with one file.
func archiveOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAddHTTP(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	archive := archiveOf(t, "in/x", "packed")
	text := "one"
	var bodies atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		etag := `"` + text + `"`
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		bodies.Add(1)
		switch r.URL.Path {
		case "/t.tar.gz":
			w.Write(archive) //nolint:errcheck // the client says what came
		default:
			fmt.Fprint(w, text)
		}
	}))
	defer s.Close()
	context := write(t, "local", "here", "Dockerfile", `FROM scratch
ARG U
ADD $U/a.txt?x=1 /
ADD $U/a.txt local $U/ /d/
ADD --chmod=755 --chown=3:4 $U/a.txt /e
ADD $U/t.tar.gz /packed/
ADD --unpack $U/t.tar.gz /unpacked/
ADD --link $U/a.txt /linked/
`)
	build := func() built {
		t.Helper()
		return w.build(t, app.Build{Context: context, Args: map[string]string{"U": s.URL}})
	}
	first := build()
	want := map[string]string{
		"/a.txt": fileOf("0600", "one"), "/d": "dir 0755 0:0 0", "/d/a.txt": fileOf("0600", "one"), "/d/local": fileOf("0644", "here"),
		"/d/__unnamed__": fileOf("0600", "one"),
		"/e":             strings.Replace(fileOf("0755", "one"), "0:0", "3:4", 1),
		"/packed":        "dir 0755 0:0 0", "/packed/t.tar.gz": fileOf("0600", string(archive)),
		"/unpacked": "dir 0755 0:0 0", "/unpacked/in": "dir 0755 0:0 0", "/unpacked/in/x": fileOf("0640", "packed"),
		"/linked": "dir 0755 0:0 0", "/linked/a.txt": fileOf("0600", "one"),
	}
	if diff := cmp.Diff(want, first.tree); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
	sent := bodies.Load()
	again := build()
	if again.Stats.Cached != again.Stats.Steps || bodies.Load() != sent {
		t.Errorf("again: %d of %d steps cached, %d bodies sent", again.Stats.Cached, again.Stats.Steps, bodies.Load()-sent)
	}
	text = "two"
	if changed := build(); changed.tree["/a.txt"] != fileOf("0600", "two") {
		t.Errorf("a changed file is not noticed: %s", changed.tree["/a.txt"])
	}
}

// A checksum that the build has seen needs no server; another one is no file.
func TestAddChecksum(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") }))
	defer s.Close()
	context := write(t, "Dockerfile", "FROM scratch\nARG U SUM\nADD --checksum=$SUM $U /x/y\n")
	good := map[string]string{"U": s.URL, "SUM": digest.FromString("text").String()}
	got := w.build(t, app.Build{Context: context, Args: good})
	if got.tree["/x/y"] != fileOf("0600", "text") {
		t.Errorf("files are %v", got.tree)
	}
	_, err := w.attempt(t, app.Build{Context: context, Args: map[string]string{"U": s.URL, "SUM": digest.FromString("other").String()}})
	if !errors.Is(err, errs.Corrupt) {
		t.Errorf("another checksum: %v", err)
	}
	s.Close()
	if again := w.build(t, app.Build{Context: context, Args: good}); again.Stats.Cached != again.Stats.Steps {
		t.Errorf("without a server: %d of %d steps cached", again.Stats.Cached, again.Stats.Steps)
	}
	_, err = w.attempt(t, app.Build{Context: context, Args: map[string]string{"U": s.URL, "SUM": "md5:x"}})
	if !errors.Is(err, errs.Invalid) {
		t.Errorf("no checksum: %v", err)
	}
}

func TestAddMissing(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := w.attempt(t, app.Build{Context: write(t, "Dockerfile", "FROM scratch\nARG U\nADD $U/x /\n"), Args: map[string]string{"U": s.URL}})
	if !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "Dockerfile:3:1: ADD") {
		t.Errorf("Build = %v", err)
	}
}

// serveGit serves the repositories in a folder and returns a function that runs git in one.
func serveGit(t *testing.T) (url string, git func(repo string, args ...string) string, dir string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Skip("needs git (apt-get install git)")
	}
	dir = t.TempDir()
	s := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	})
	t.Cleanup(s.Close)
	return s.URL, func(repo string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = filepath.Join(dir, repo)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}, dir
}

// commitFiles writes files, each "name" and content in turn, into a repository and commits them.
func commitFiles(t *testing.T, git func(string, ...string) string, dir, repo string, files ...string) {
	t.Helper()
	root := filepath.Join(dir, repo)
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		git(repo, "init", "-q", "-b", "main")
	}
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(root, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git(repo, "add", "-A")
	git(repo, "commit", "-q", "-m", "x")
}

func TestAddGit(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	url, git, dir := serveGit(t)
	commitFiles(t, git, dir, "r.git", "a", "1", "d/b", "2", "d/c.md", "3")
	git("r.git", "tag", "v1")
	context := write(t, "Dockerfile", `FROM scratch
ARG U
ADD $U/r.git /all/
ADD --exclude=*.md $U/r.git#v1:d /d
ADD --chown=3:4 $U/r.git?tag=v1&subdir=d /e/
ADD --keep-git-dir=true $U/r.git /kept/
`)
	build := func() built {
		t.Helper()
		return w.build(t, app.Build{Context: context, Args: map[string]string{"U": url}})
	}
	got := build()
	kept := false
	for p := range got.tree {
		if strings.HasPrefix(p, "/kept/.git") {
			kept = kept || p == "/kept/.git/HEAD"
			delete(got.tree, p)
		}
	}
	if !kept {
		t.Error(".git was not kept")
	}
	folder, owned := "dir 0755 0:0 0", "dir 0755 3:4 0"
	mine := func(s string) string { return strings.Replace(s, "0:0", "3:4", 1) }
	want := map[string]string{
		"/all": folder, "/all/a": fileOf("0644", "1"), "/all/d": folder, "/all/d/b": fileOf("0644", "2"), "/all/d/c.md": fileOf("0644", "3"),
		"/d": folder, "/d/b": fileOf("0644", "2"),
		"/e": owned, "/e/b": mine(fileOf("0644", "2")), "/e/c.md": mine(fileOf("0644", "3")),
		"/kept": folder, "/kept/a": fileOf("0644", "1"), "/kept/d": folder, "/kept/d/b": fileOf("0644", "2"), "/kept/d/c.md": fileOf("0644", "3"),
	}
	if diff := cmp.Diff(want, got.tree); diff != "" {
		t.Errorf("files mismatch (-want +got):\n%s", diff)
	}
	if again := build(); again.Stats.Cached != again.Stats.Steps {
		t.Errorf("again: %d of %d steps cached", again.Stats.Cached, again.Stats.Steps)
	}
	commitFiles(t, git, dir, "r.git", "a", "changed")
	changed := build()
	if changed.tree["/all/a"] != fileOf("0644", "changed") || changed.Stats.Cached != 0 {
		t.Errorf("after a commit /all/a is %s, with %d steps cached", changed.tree["/all/a"], changed.Stats.Cached)
	}
}
