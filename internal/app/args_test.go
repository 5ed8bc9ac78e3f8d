package app_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

// A build argument asks for an index of one image, or forbids one of several.
func TestMultiPlatformArgument(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	for _, tt := range []struct {
		value, platform, mediaType, refused string
	}{
		{"", "", oci.MediaTypeManifest, ""},
		{"0", "", oci.MediaTypeManifest, ""},
		{"1", "", oci.MediaTypeIndex, ""},
		{"true", "linux/arm64", oci.MediaTypeIndex, ""},
		{"", "linux/amd64,linux/arm64", oci.MediaTypeIndex, ""},
		{"false", "linux/amd64,linux/arm64", "", "does not allow for several platforms"},
		{"maybe", "", "", "want true or false"},
	} {
		im, err := a.Build(t.Context(), app.Build{Context: dir, Platform: tt.platform, Args: map[string]string{"BUILDKIT_MULTI_PLATFORM": tt.value}})
		if tt.refused != "" {
			if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%q for %q: %v, want %s", tt.value, tt.platform, err, tt.refused)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if im.Manifest.MediaType != tt.mediaType {
			t.Errorf("%q for %q makes %s, want %s", tt.value, tt.platform, im.Manifest.MediaType, tt.mediaType)
		}
	}
}

// BUILDKIT_INLINE_CACHE is --cache-to type=inline.
func TestInlineCacheArgument(t *testing.T) {
	t.Parallel()
	addr := startRegistry(t)
	dir := write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	for value, want := range map[string]bool{"1": true, "true": true, "0": false, "": false} {
		im, err := openApp(t, t.TempDir(), config.Config{}).Build(t.Context(), app.Build{
			Context: dir, Tags: []string{addr + "/cached:v1"}, Push: true, Args: map[string]string{"BUILDKIT_INLINE_CACHE": value},
		})
		if err != nil {
			t.Fatal(err)
		}
		var m oci.Manifest
		if err := json.Unmarshal(im.Raw, &m); err != nil {
			t.Fatal(err)
		}
		if _, got := m.Annotations[remote.InlineAnnotation]; got != want {
			t.Errorf("BUILDKIT_INLINE_CACHE=%q: a cache in the image is %t, want %t", value, got, want)
		}
	}
}

func TestSandboxHostnameArgument(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	dir := write(t, "Dockerfile", "FROM busybox\nRUN hostname > /name && grep -c \"$(hostname)\" /etc/hosts >> /name\n")
	build := func(args map[string]string) built { return w.build(t, app.Build{Context: dir, Args: args}) }
	usual, other := build(nil), build(map[string]string{"BUILDKIT_SANDBOX_HOSTNAME": "Box-1.example"})
	if usual.tree["/name"] == other.tree["/name"] || other.Stats.Cached != 0 {
		t.Errorf("the cache answers for another host name: %+v", other.Stats)
	}
	if again := build(nil); again.Stats.Cached != 1 {
		t.Errorf("the cache does not answer for the usual name: %+v", again.Stats)
	}
	_, err := w.attempt(t, app.Build{Context: dir, Args: map[string]string{"BUILDKIT_SANDBOX_HOSTNAME": "a\nb"}})
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "want up to 64 letters") {
		t.Errorf("Build with a name of two lines = %v", err)
	}
}

// A syntax directive is accepted and said once, however many platforms are built; another language is a warning.
func TestSyntaxDirective(t *testing.T) {
	t.Parallel()
	a := openApp(t, t.TempDir(), config.Config{})
	for _, tt := range []struct{ text, arg, want string }{
		{"# syntax=docker/dockerfile:1\n", "", "note syntax docker/dockerfile:1: slipway reads the Dockerfile itself"},
		{"# syntax=docker/dockerfile-upstream:master\n", "", "note syntax docker/dockerfile-upstream:master: slipway reads"},
		{"# syntax=example.com/other\n", "", "warning syntax example.com/other: slipway reads the file as a Dockerfile and runs no frontend"},
		{"# syntax=example.com/other\n", "dockerfile.v0", ""},
		{"", "docker/dockerfile:1.7", "note syntax docker/dockerfile:1.7: "},
		{"", "", ""},
	} {
		dir := write(t, "Dockerfile", tt.text+"FROM scratch\nCOPY Dockerfile /\n")
		b := app.Build{Context: dir, Platform: "linux/amd64,linux/arm64"}
		if tt.arg != "" {
			b.Args = map[string]string{"BUILDKIT_SYNTAX": tt.arg}
		}
		var mu sync.Mutex
		said := ""
		b.Events = func(e build.Event) {
			mu.Lock()
			defer mu.Unlock()
			said += string(e.Kind) + " " + e.Text + "\n"
		}
		if _, err := a.Build(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(said, " syntax "); tt.want == "" && n != 0 || tt.want != "" && (n != 1 || !strings.Contains(said, tt.want)) {
			t.Errorf("%q with %q says\n%s, want once %q", tt.text, tt.arg, said, tt.want)
		}
	}
}
