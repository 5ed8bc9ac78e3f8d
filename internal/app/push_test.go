package app_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"slipway/internal/app"
	"slipway/internal/errs"
)

// TestPushToSeveralPlaces has two repositories and two tags in one registry, and another registry.
func TestPushToSeveralPlaces(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	one, two := startRegistry(t), startRegistry(t)
	tags := []string{one + "/a:1", one + "/a:2", one + "/b:1", two + "/a:1"}
	dir := write(t, "Dockerfile", "FROM busybox\nRUN echo x >/x\n")
	got := w.build(t, app.Build{Context: dir, Push: true, Tags: tags})
	for _, tag := range tags {
		if d := wantImage(t, tag); d != got.Manifest.Digest {
			t.Errorf("%s is %s, want %s", tag, d, got.Manifest.Digest)
		}
	}
	// Two layers and a config to each registry; the layers of the second repository are mounted from the first.
	if got.Stats.BlobsMounted < 2 || got.Stats.BlobsPushed > 7 {
		t.Errorf("stats = %+v", got.Stats)
	}
}

// TestPushIsAskedForFirst builds for a repository that may not be pushed to: the build ends before its slow step does.
func TestPushIsAskedForFirst(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	f, addr := proxyTo(t, startRegistry(t))
	dir := write(t, "Dockerfile", "FROM busybox\nRUN sleep 60\n")
	for name, c := range map[string]struct {
		status int
		kind   error
		hint   string
	}{
		"forbidden":     {http.StatusForbidden, errs.Denied, "docker login"},
		"no repository": {http.StatusNotFound, errs.NotFound, "create " + addr + "/a first"},
	} {
		f.set(fault{method: http.MethodPost, path: "/blobs/uploads/", do: answer(c.status)})
		_, err := w.attempt(t, app.Build{Context: dir, Push: true, Tags: []string{addr + "/a:1"}})
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), "before building: ") || !strings.Contains(errs.HintOf(err), c.hint) {
			t.Errorf("%s: %v, hint %q", name, err, errs.HintOf(err))
		}
	}
}

// TestPushToImmutableTag pushes twice to a registry that lets no tag move: the same image is no mistake, another is.
func TestPushToImmutableTag(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	f, addr := proxyTo(t, startRegistry(t))
	dir := write(t, "Dockerfile", "FROM busybox\nARG V\nRUN echo $V >/v\n")
	b := app.Build{Context: dir, Push: true, Tags: []string{addr + "/a:1"}}
	want := w.build(t, b).Manifest.Digest
	f.set(fault{method: http.MethodPut, path: "/manifests/1", do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}`))
	}})
	if got := w.build(t, b); !strings.Contains(got.said, "is immutable, and is this image already") {
		t.Errorf("the same image again: %s", got.said)
	}
	b.Args = map[string]string{"V": "2"}
	_, err := w.attempt(t, b)
	if !errors.Is(err, errs.Exists) || !strings.Contains(errs.HintOf(err), "choose a new tag") {
		t.Errorf("another image: %v, hint %q", err, errs.HintOf(err))
	}
	f.set()
	if got := wantImage(t, addr+"/a:1"); got != want {
		t.Errorf("the tag moved to %s", got)
	}
}

// TestPushTellsOfTries pushes to a registry that fails twice.
func TestPushTellsOfTries(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	f, addr := proxyTo(t, startRegistry(t))
	f.set(fault{method: http.MethodPut, path: "/manifests/", times: 2, do: answer(http.StatusServiceUnavailable)})
	got := w.build(t, app.Build{Context: write(t, "Dockerfile", "FROM busybox\nRUN echo x >/x\n"), Push: true, Tags: []string{addr + "/a:1"}})
	if n := strings.Count(got.said, "503 service unavailable; trying again in"); n != 2 {
		t.Errorf("told of %d tries, want 2:\n%s", n, got.said)
	}
}
