package app_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/config"
)

// rebuild is a registry with base images, a home and a context to build from.
type rebuild struct {
	registry string
	app      *app.App
	dir      string
}

const rebuilt = `FROM busybox AS tool
COPY tool.txt /
RUN tr a-z A-Z < /tool.txt > /out
FROM busybox
COPY app.txt /app/
RUN cat /app/app.txt > /copy
COPY --from=tool /out /out
CMD ["cat", "/out"]
`

func newRebuild(t *testing.T) *rebuild {
	t.Helper()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	w := &rebuild{registry: addr, dir: write(t, "Dockerfile", rebuilt, "tool.txt", "tool\n", "app.txt", "app\n")}
	w.app = w.open(t)
	return w
}

// open is slipway with a home of its own: another machine.
func (w *rebuild) open(t *testing.T) *app.App {
	t.Helper()
	return openApp(t, t.TempDir(), config.Config{RegistryMirrors: map[string][]string{"docker.io": {w.registry}}})
}

func (w *rebuild) build(t *testing.T, a *app.App, tag, epoch string) *build.Image {
	t.Helper()
	im, err := a.Build(t.Context(), app.Build{Context: w.dir, Tags: []string{w.registry + "/" + tag}, Push: true, Network: "default", Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func (w *rebuild) change(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(w.dir, name), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUnchangedRebuildDoesNothing(t *testing.T) {
	t.Parallel()
	w := newRebuild(t)
	first := w.build(t, w.app, "a:1", "")
	if err := os.Chtimes(filepath.Join(w.dir, "app.txt"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	second := w.build(t, w.app, "a:2", "")
	if first.Manifest.Digest != second.Manifest.Digest {
		t.Errorf("the digest went from %s to %s", first.Manifest.Digest, second.Manifest.Digest)
	}
	s := second.Stats
	if s.Cached != s.Steps || s.LayersPacked != 0 || s.BlobsPushed != 0 || s.BytesPushed != 0 {
		t.Errorf("the rebuild did something: %+v", s)
	}
	if other := w.build(t, w.app, "elsewhere/b:1", "").Stats; other.LayersPacked != 0 || other.BlobsMounted == 0 {
		t.Errorf("another repository got the layers otherwise than by mounts: %+v", other)
	}
}

func TestEditRunsOnlyWhatItReaches(t *testing.T) {
	t.Parallel()
	w := newRebuild(t)
	w.build(t, w.app, "a:1", "")
	w.change(t, "app.txt", "app changed\n")
	im := w.build(t, w.app, "a:2", "")
	// COPY app.txt and the RUN after it ran; so did the COPY on top of them, from a stage that did not.
	if ran := im.Stats.Steps - im.Stats.Cached; ran != 3 || im.Stats.LayersPacked != 3 {
		t.Errorf("%d operations ran and %d layers were packed, want 3 and 3: %+v", ran, im.Stats.LayersPacked, im.Stats)
	}
}

// TestSameContentFromAStageThatRanAnew edits a file so that a stage runs again and leaves what it left before.
func TestSameContentFromAStageThatRanAnew(t *testing.T) {
	t.Parallel()
	w := newRebuild(t)
	w.build(t, w.app, "a:1", "")
	w.change(t, "tool.txt", "TOOL\n") // the same in upper case
	im := w.build(t, w.app, "a:2", "")
	if im.Stats.LayersPacked != 0 {
		t.Errorf("%d layers were packed though the image holds nothing new: %+v", im.Stats.LayersPacked, im.Stats)
	}
}

func TestEpochGivesTheSameDigestEverywhere(t *testing.T) {
	t.Parallel()
	w := newRebuild(t)
	first := w.build(t, w.app, "a:1", "1700000000")
	if err := os.Chtimes(filepath.Join(w.dir, "app.txt"), time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	second := w.build(t, w.open(t), "a:2", "1700000000")
	if first.Manifest.Digest != second.Manifest.Digest {
		t.Errorf("two machines made %s and %s", first.Manifest.Digest, second.Manifest.Digest)
	}
}

// TestLostBlobIsMadeAgain removes everything compressed behind the cache's back.
func TestLostBlobIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newRebuild(t)
	home := t.TempDir()
	a := openApp(t, home, config.Config{RegistryMirrors: map[string][]string{"docker.io": {w.registry}}})
	w.build(t, a, "a:1", "")
	blobs, err := filepath.Glob(filepath.Join(home, "content", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("no blobs: %v", err)
	}
	for _, b := range blobs {
		if err := os.Remove(b); err != nil {
			t.Fatal(err)
		}
	}
	if im := w.build(t, a, "b:1", ""); im.Stats.LayersPacked == 0 {
		t.Errorf("nothing was packed: %+v", im.Stats)
	}
}
