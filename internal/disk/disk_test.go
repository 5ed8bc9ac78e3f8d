package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/disk"
)

func TestUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, err := disk.Used(dir)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub/file"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "sub/file"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "sub/file"), 10*size); err != nil { // a hole takes nothing
		t.Fatal(err)
	}
	got, err := disk.Used(dir)
	if got -= empty; err != nil || got < size || got > size*3/2 {
		t.Errorf("Used = %d, %v; want about %d", got, err, size)
	}
	if n, err := disk.Used(filepath.Join(dir, "absent")); n != 0 || err != nil {
		t.Errorf("Used of what is not there = %d, %v", n, err)
	}
}

func TestSpaceOf(t *testing.T) {
	t.Parallel()
	s, err := disk.SpaceOf(t.TempDir())
	if err != nil || s.Total <= 0 || s.Free < 0 || s.Free > s.Total {
		t.Errorf("SpaceOf = %+v, %v", s, err)
	}
	if _, err := disk.SpaceOf(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("SpaceOf what is not there succeeds")
	}
}
