package app

import (
	"os"
	"path/filepath"
	"testing"
)

// A run that was killed leaves its folder; the next one removes it, and leaves those of living runs alone.
func TestScratchOfAKilledRunIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	alive, err := newScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	killed, err := newScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(killed.path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := killed.lock.Close(); err != nil { // what the kernel does for a dead process
		t.Fatal(err)
	}
	next, err := newScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{alive.path: true, killed.path: false, next.path: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	for _, s := range []*scratch{alive, next} {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "run-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
