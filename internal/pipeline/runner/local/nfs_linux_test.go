package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
)

func TestIsNFS(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"nfs": defaultNFS, "nfs:vers=4.2": "vers=4.2", "/srv/nfs": "", "./nfs": "", "nfs/x": ""} {
		if options, ok := isNFS(word); ok != (want != "") || ok && options != want {
			t.Errorf("isNFS(%q) = %q, %v", word, options, ok)
		}
	}
}

// A share is mounted once for all who want it, and unmounted with the last of them. What is on it is never removed.
func TestShare(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	mounts := 0
	mount := func() *share {
		t.Helper()
		s, err := mountShare(t.Context(), dir, "nas.example.com:/cache", "vers=3", func(_ context.Context, _, dir, _ string) error {
			mounts++
			return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
		})
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting is not allowed here")
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := mount()
	file := filepath.Join(first.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := mount()
	if second.dir != first.dir || mounts != 1 {
		t.Errorf("mounted %d times, at %s and %s", mounts, first.dir, second.dir)
	}
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("it is gone while somebody uses it: %v", err)
	}
	if err := second.release(); err != nil {
		t.Fatal(err)
	}
	if mounted, err := isMountPoint(second.dir); err != nil || mounted {
		t.Errorf("still mounted: %v, %v", mounted, err)
	}
	if err := mount().release(); err != nil || mounts != 2 {
		t.Errorf("mounted %d times, %v", mounts, err)
	}
}

func TestShareThatCannotBeMounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := New(Options{MountDir: dir})
	env := pipeline.Environment{Mounts: []pipeline.Mount{
		{Dir: "/mnt/a", Server: "127.0.0.1:/a", Folder: "/srv/a"},
		{Dir: "/mnt/b", Server: "127.0.0.1:/b", Folder: "nfs:vers=3,soft,timeo=1,retrans=0,retry=0", Origin: pipeline.Origin{File: "f.yaml", Line: 7, Col: 3}},
	}}
	_, err := r.mount(t.Context(), &env)
	if err == nil || !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.Denied) {
		t.Fatalf("mount: %v", err)
	}
	const begin = "f.yaml:7:3: mount 127.0.0.1:/b: "
	if got := err.Error(); len(got) < len(begin) || got[:len(begin)] != begin {
		t.Errorf("mount: %v, want it to begin with %q", err, begin)
	}
	if env.Mounts[0].Folder != "/srv/a" {
		t.Errorf("a mapped folder became %s", env.Mounts[0].Folder)
	}
}
