package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/app"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
	"slipway/internal/pipeline"
)

// acrLike is a registry that converts images as ACR does: some time after one is pushed, the same is there under its tag
// with a suffix.
type acrLike struct {
	t     *testing.T
	addr  string
	after time.Duration // negative: it never does

	work sync.WaitGroup
}

func startACR(t *testing.T, after time.Duration) *acrLike {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	a := &acrLike{t: t, after: after}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.ServeHTTP(w, req)
		dir, tag := filepath.Split(req.URL.Path)
		if req.Method == http.MethodPut && strings.HasSuffix(dir, "/manifests/") && !strings.HasSuffix(tag, "_accelerated") && a.after >= 0 {
			repository := strings.TrimSuffix(strings.TrimPrefix(dir, "/v2/"), "/manifests/")
			ctx := context.WithoutCancel(req.Context())
			a.work.Add(1)
			time.AfterFunc(a.after, func() { defer a.work.Done(); a.convert(ctx, repository, tag) })
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(a.work.Wait)
	a.addr = strings.TrimPrefix(server.URL, "http://")
	return a
}

// convert marks the image, which is all the conversion that a test needs.
func (a *acrLike) convert(ctx context.Context, repository, tag string) {
	client := registry.New(registry.Options{})
	defer client.Close()
	from, err := ref.Parse(a.addr + "/" + repository + ":" + tag)
	if err != nil {
		a.t.Error(err)
		return
	}
	_, raw, err := client.Resolve(ctx, from)
	if err != nil {
		a.t.Error(err)
		return
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		a.t.Error(err)
		return
	}
	m.Annotations = map[string]string{"converted": "yes"}
	if raw, err = oci.Marshal(m); err == nil {
		_, err = client.PushManifest(ctx, from.WithTag(tag+"_containerd_accelerated"), m.MediaType, raw)
	}
	if err != nil {
		a.t.Error(err)
	}
}

// runOne runs a pipeline of one task that builds a small image.
func runOne(t *testing.T, build string, settings config.Config) (*pipeline.Run, []string, error) {
	t.Helper()
	text := "kind: Pipeline\nname: p\nspec: {templateSpec: {tasks: [{name: a, taskTemplate: build-image-task, context: {data: {enable: true, build: " + build + "}}}]}}\n"
	dir := commit(t, write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n", "p.yaml", text))
	home := t.TempDir()
	a := openApp(t, home, settings)
	p, err := app.Prepare(t.Context(), home, time.Now(), app.Run{Files: []string{filepath.Join(dir, "p.yaml")}})
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

// TestRunWaitsForACR pushes to a registry that makes accelerated images itself.
func TestRunWaitsForACR(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	acr := startACR(t, 500*time.Millisecond)
	result, told, err := runOne(t, `{image: "`+acr.addr+`/team/app:debug_accelerated", instanceID: cri-1}`, config.Config{})
	if err != nil {
		t.Fatal(err, told)
	}
	out := result.Tasks[0].Output
	if out.Image != acr.addr+"/team/app:debug" || len(out.Accelerated) != 1 || out.Accelerated[0].Ref != acr.addr+"/team/app:debug_containerd_accelerated" {
		t.Fatalf("output is %+v", out)
	}
	if !strings.Contains(strings.Join(told, "\n"), "waiting for the registry to make") {
		t.Errorf("told %q", told)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	r, err := ref.Parse(out.Accelerated[0].Ref)
	if err != nil {
		t.Fatal(err)
	}
	if desc, err := client.Head(t.Context(), r); err != nil || desc.Digest.String() != out.Accelerated[0].Digest || out.Accelerated[0].Digest == out.Digest {
		t.Errorf("the tag names %s, output is %+v, %v", desc.Digest, out, err)
	}

	never := startACR(t, -1)
	_, _, err = runOne(t, `{image: "`+never.addr+`/team/app:debug_accelerated", instanceID: cri-1, acceleration: {format: acr, timeout: 1}}`, config.Config{})
	if !errors.Is(err, errs.Limit) || !strings.Contains(err.Error(), "debug was pushed, but the registry made no accelerated image of it") {
		t.Errorf("a registry that never does: %v", err)
	}
}

// TestRunAccelerates converts the image itself where another registry stands for ACR.
func TestRunAccelerates(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	result, told, err := runOne(t, `{image: "demo-registry-vpc.cn-hangzhou.aliyuncs.com/team/app:debug_accelerated", instanceID: cri-1}`,
		config.Config{MapRegistry: map[string]string{"demo-registry-vpc.cn-hangzhou.aliyuncs.com": addr}})
	if err != nil {
		t.Fatal(err, told)
	}
	out := result.Tasks[0].Output
	if out.Image != addr+"/team/app:debug" || len(out.Accelerated) != 1 || out.Accelerated[0].Ref != addr+"/team/app:debug_accelerated" {
		t.Fatalf("output is %+v", out)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	r, err := ref.Parse(out.Accelerated[0].Ref)
	if err != nil {
		t.Fatal(err)
	}
	_, raw, err := client.Resolve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.Subject == nil || m.Subject.Digest.String() != out.Digest {
		t.Errorf("manifest is %s, %v", raw, err)
	}
}
