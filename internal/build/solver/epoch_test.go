package solver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestDateFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	epoch := time.Unix(1_500_000_000, 0)
	for name, at := range map[string]time.Time{
		"young":    time.Now(),
		"old":      time.Unix(1_000_000_000, 0),
		"fraction": time.Unix(1_000_000_000, 5),
		"same":     epoch,
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, nil, 0o600), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.Symlink("old", filepath.Join(dir, "sub/link"))); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // a whiteout
		if err := unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := dateFolder(t.Context(), dir, &epoch); err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"young": 15, "old": 10, "fraction": 10, "same": 15, "sub": 15, "sub/link": 15}
	got := map[string]int64{}
	for name := range want {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.ModTime().UnixNano()%1e17 != 0 {
			t.Errorf("%s is of %v, want whole seconds", name, info.ModTime())
		}
		got[name] = info.ModTime().Unix() / 1e8
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("times mismatch (-want +got):\n%s", diff)
	}
}
