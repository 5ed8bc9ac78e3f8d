package app_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/app"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci/registry/serve"
	"slipway/internal/pipeline"
)

// commit makes a repository out of a folder.
func commit(t *testing.T, dir string) string {
	t.Helper()
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "-m", "files"}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	return dir
}

// An access key and an instanceID are enough to push: the registry's password is asked for, once for all requests.
func TestRunWithInstance(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	r, err := serve.New(serve.Options{Dir: t.TempDir(), Authorize: func(_ context.Context, user, password string, a serve.Access) error {
		switch {
		case user == "":
			return errors.New("who is it?")
		case user != "cr_temp_user" || password != "t0ken-of-cri-1" || a.Write && !strings.HasPrefix(a.Repository, "team/"):
			return errs.Denied
		}
		return nil
	}})
	if err == nil {
		err = r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	calls := 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if !strings.HasPrefix(r.Header.Get("Authorization"), "ACS3-HMAC-SHA256 Credential=AK,") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"TempUsername":"cr_temp_user","AuthorizationToken":"t0ken-of-` + r.URL.Query().Get("InstanceId") + `","ExpireTime":99999999999999}`))
	}))
	t.Cleanup(api.Close)
	pipelineOf := func(repository string) string {
		return "kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a, taskTemplate: build-image-task, context: {data: {enable: true, build: {" +
			"image: \"" + r.Addr() + "/" + repository + ":v1\", instanceID: cri-1}}}}]}}\n"
	}
	dir := commit(t, write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", "good.yaml", pipelineOf("team/app"), "bad.yaml", pipelineOf("theirs/app")))
	keys := map[string]string{"ALIBABA_CLOUD_ACCESS_KEY_ID": "AK", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "SK"}
	run := func(file string, env map[string]string) (*pipeline.Run, []string, error) {
		home := t.TempDir()
		a, err := app.Open(app.Options{
			Home: home, Now: time.Now, Getenv: func(name string) string { return env[name] }, Config: config.Config{ACREndpoint: api.URL},
		})
		if err != nil {
			t.Fatal(err)
		}
		p, err := app.Prepare(t.Context(), home, time.Now(), app.Run{Files: []string{filepath.Join(dir, file)}})
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		result, err := a.Run(t.Context(), p, app.Listener{Events: func(e pipeline.Event) {
			if e.Kind == pipeline.Notice {
				told = append(told, e.Text)
			}
		}})
		return result, told, errors.Join(err, p.Close())
	}
	result, told, err := run("good.yaml", keys)
	if err != nil || !strings.HasPrefix(result.Tasks[0].Output.Digest, "sha256:") {
		t.Errorf("Run: %v", err)
	}
	if calls != 1 {
		t.Errorf("%d calls of the API, want 1", calls)
	}
	if !strings.Contains(strings.Join(told, "\n"), "instanceID cri-1: the registry's credentials are asked for with the access key") {
		t.Errorf("told %q", told)
	}
	if _, _, err := run("bad.yaml", keys); !errors.Is(err, errs.Denied) {
		t.Errorf("a repository of others: %v", err)
	}
	_, told, err = run("good.yaml", nil)
	if !errors.Is(err, errs.Denied) || !strings.Contains(strings.Join(told, "\n"), "ALIBABA_CLOUD_ACCESS_KEY_ID is not set") {
		t.Errorf("without an access key: %v, told %q", err, told)
	}
}
