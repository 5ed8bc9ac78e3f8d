package tempfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"slipway/internal/tempfile"
)

func create(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := tempfile.Create(dir, ".x-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// A lock ends with its process; closing the file is the same to the kernel.
func TestRecoverRemovesWhatNobodyHolds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	alive, dead := create(t, dir), create(t, dir)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := tempfile.Recover(dir, ".x-")
	if n != 1 || err != nil {
		t.Errorf("Recover = %d, %v, want 1", n, err)
	}
	for path, want := range map[string]bool{alive.Name(): true, dead.Name(): false, other: true} {
		if exists(t, path) != want {
			t.Errorf("%s is there: %v, want %v", path, !want, want)
		}
	}
	if n, err := tempfile.Recover(filepath.Join(dir, "none"), ""); n != 0 || err != nil {
		t.Errorf("Recover of no folder = %d, %v, want nothing", n, err)
	}
}

// Whoever has created a file can rename it, however many others recover meanwhile.
func TestCreateBesideRecover(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := tempfile.Recover(dir, ".x-"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 500 {
		f := create(t, dir)
		if err := os.Rename(f.Name(), filepath.Join(dir, "file")); err != nil {
			t.Error(err)
			break
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		f, err := tempfile.Create(dir, ".x-")
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(os.Remove(f.Name()), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecoverNothing(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := tempfile.Recover(dir, ""); err != nil {
			b.Fatal(err)
		}
	}
}
