package app_test

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/build/output"
	"slipway/internal/config"
)

// workshop is slipway on a machine of its own, beside a registry with the base images.
type workshop struct {
	*app.App
	home string
	base map[string]string
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	needSandbox(t)
	registry := startRegistry(t)
	w := &workshop{home: t.TempDir(), base: pushBases(t, registry)}
	w.App = openApp(t, w.home, config.Config{RegistryMirrors: map[string][]string{"docker.io": {registry}}})
	return w
}

// built is what came of a build: the image, the files that its base does not have, and what was told meanwhile.
type built struct {
	*build.Image
	tree map[string]string
	said string
}

// attempt builds a context, by default with its own Dockerfile.
func (w *workshop) attempt(t *testing.T, b app.Build) (built, error) {
	t.Helper()
	layout := filepath.Join(t.TempDir(), "out")
	b.Outputs = append(b.Outputs, output.Output{Type: "layout", Dest: layout})
	if b.Network == "" {
		b.Network = "none"
	}
	var mu sync.Mutex
	var said strings.Builder
	b.Events = func(e build.Event) {
		mu.Lock()
		defer mu.Unlock()
		said.WriteString(string(e.Kind) + " " + e.Name + " " + e.Text + "\n")
	}
	im, err := w.Build(t.Context(), b)
	if err != nil {
		return built{said: said.String()}, err
	}
	return built{im, changes(w.base, readLayout(t, layout).tree), said.String()}, nil
}

func (w *workshop) build(t *testing.T, b app.Build) built {
	t.Helper()
	got, err := w.attempt(t, b)
	if err != nil {
		t.Fatalf("%v\n%s", err, got.said)
	}
	return got
}

// The layer of a COPY --link is packed once, whatever it comes to lie on; what follows it is not taken over.
func TestLinkedLayerSurvivesAnotherBase(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	context := write(t, "a", "1", "Dockerfile", `FROM busybox
ARG V
RUN echo $V > /v
COPY --link a /x/a
RUN cat /v > /w
`)
	one := w.build(t, app.Build{Context: context, Args: map[string]string{"V": "1"}})
	two := w.build(t, app.Build{Context: context, Args: map[string]string{"V": "2"}})
	if one.Layers[2].Digest != two.Layers[2].Digest {
		t.Errorf("the linked layer is %s on one base and %s on the other", one.Layers[2].Digest, two.Layers[2].Digest)
	}
	if two.Stats.Cached != 1 || two.Stats.LayersPacked != 2 {
		t.Errorf("on another base %d steps came from the cache and %d layers were packed, want 1 and 2", two.Stats.Cached, two.Stats.LayersPacked)
	}
	if one.tree["/w"] == two.tree["/w"] {
		t.Error("a RUN behind the linked layer was taken over from another base")
	}
	if again := w.build(t, app.Build{Context: context, Args: map[string]string{"V": "1"}}); again.Stats.Cached != 3 {
		t.Errorf("the first build again: %d steps of 3 came from the cache", again.Stats.Cached)
	}
}

// A stage whose last step is linked is not known by that step alone.
func TestCopyFromAStageThatEndsLinked(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	context := write(t, "a", "1", "Dockerfile", `FROM busybox AS b
ARG V
RUN mkdir /out && echo $V > /out/v
COPY --link a /out/a
FROM scratch
COPY --from=b /out /
`)
	one := w.build(t, app.Build{Context: context, Args: map[string]string{"V": "1"}})
	two := w.build(t, app.Build{Context: context, Args: map[string]string{"V": "2"}})
	if one.tree["/v"] == two.tree["/v"] {
		t.Error("a COPY took files over from another base")
	}
}
