package app_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"slipway/internal/app"
	"slipway/internal/build/output"
	"slipway/internal/config"
)

// TestFilesAlone asks for files and no image: nothing is compressed, and owners and modes are the image's.
func TestFilesAlone(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	a := openApp(t, t.TempDir(), config.Config{RegistryMirrors: map[string][]string{"docker.io": {addr}}})
	dir := write(t, "hello", "hello", "Dockerfile", `FROM busybox
COPY hello /data/hello
RUN chown 7:8 /data/hello && chmod 4711 /data/hello && rm /etc/group && ln -s /etc/passwd /data/link
`)
	for _, round := range []string{"made", "cached"} {
		out := filepath.Join(t.TempDir(), "out")
		im, err := a.Build(t.Context(), app.Build{
			Context: dir, Network: "default", Outputs: []output.Output{{Type: output.Local, Dest: out}},
		})
		if err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		if im.Manifest.Digest != "" || im.Stats.LayersPacked != 0 {
			t.Errorf("%s: an image was made: %+v", round, im.Stats)
		}
		info, err := os.Lstat(filepath.Join(out, "data/hello"))
		if err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o4711 {
			t.Errorf("%s: data/hello is %+v", round, info.Sys())
		}
		if to, err := os.Readlink(filepath.Join(out, "data/link")); err != nil || to != "/etc/passwd" {
			t.Errorf("%s: link = %q, %v", round, to, err)
		}
		if _, err := os.Lstat(filepath.Join(out, "etc/group")); !os.IsNotExist(err) {
			t.Errorf("%s: a deleted file is there: %v", round, err)
		}
		if _, err := os.Lstat(filepath.Join(out, "bin/busybox")); err != nil {
			t.Errorf("%s: the base's files are missing: %v", round, err)
		}
	}
	// The same build as an image: now the layers are made, from the folders.
	im, err := a.Build(t.Context(), app.Build{Context: dir, Network: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if im.Stats.Cached != im.Stats.Steps || im.Stats.LayersPacked != 2 {
		t.Errorf("stats = %+v, want all steps cached and two layers packed", im.Stats)
	}
}

// TestPushOfAnIntermediateStage pushes layers that an earlier build made for their files alone.
func TestPushOfAnIntermediateStage(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	addr := startRegistry(t)
	dir := write(t, "Dockerfile", "FROM busybox AS build\nRUN echo x >/x\nFROM scratch\nCOPY --from=build /x /x\n")
	w.build(t, app.Build{Context: dir})
	got := w.build(t, app.Build{Context: dir, Target: "build", Push: true, Tags: []string{addr + "/stage:1"}})
	if got.Stats.Cached != got.Stats.Steps || got.Stats.LayersPacked != 1 || got.Stats.BlobsPushed == 0 {
		t.Errorf("stats = %+v", got.Stats)
	}
}

// filesOf builds the files of an image into a folder and returns what reads them.
func (w *workshop) filesOf(t *testing.T, b app.Build, dir string) func(name string) string {
	t.Helper()
	b.Network = "none"
	b.Outputs = []output.Output{{Type: output.Local, Dest: dir}}
	if _, err := w.Build(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
}
