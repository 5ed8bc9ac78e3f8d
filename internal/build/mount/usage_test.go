package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"slipway/internal/build/mount"
	"slipway/internal/errs"
)

func usage(t *testing.T, s *mount.Store) []mount.Usage {
	t.Helper()
	all, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUsageAndRemove(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mounts")
	s := mount.Open(dir)
	if all := usage(t, s); len(all) > 0 {
		t.Fatalf("an empty store has %v", all)
	}
	for _, sharing := range []string{mount.Shared, mount.Locked} {
		taken := take(t, s, want("npm", sharing))
		if err := os.WriteFile(filepath.Join(taken.Paths[0], "x"), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		all := usage(t, s)
		if len(all) != 1 || all[0].ID != "npm" || !all[0].Held || all[0].Size < 1<<20 || time.Since(all[0].Used) > time.Minute {
			t.Errorf("Usage of a %s folder in use = %+v", sharing, all)
		}
		if err := s.Remove(all[0].Name); !errors.Is(err, errs.Conflict) {
			t.Errorf("Remove of a %s folder in use: %v, want a conflict", sharing, err)
		}
		if err := taken.Release(); err != nil {
			t.Fatal(err)
		}
	}
	all := usage(t, s)
	if len(all) != 1 || all[0].Held || all[0].Size < 1<<20 {
		t.Fatalf("Usage = %+v", all)
	}
	taken := take(t, s, want("npm", mount.Shared)) // it grows: what was measured is no longer so
	if err := os.WriteFile(filepath.Join(taken.Paths[0], "y"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := taken.Release(); err != nil {
		t.Fatal(err)
	}
	if all = usage(t, s); all[0].Size < 2<<20 {
		t.Errorf("Usage = %+v, want two megabytes", all)
	}
	if used := s.Used(); len(used) != 1 || used[0] != all[0].Name || len(mount.Open(dir).Used()) > 0 {
		t.Errorf("Used = %q, want %q", used, all[0].Name)
	}
	if err := s.Remove(all[0].Name); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(all[0].Name); !errors.Is(err, errs.NotFound) {
		t.Errorf("Remove of what is gone: %v", err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if again := take(t, s, want("npm", mount.Shared)); len(files(t, again.Paths[0])) > 0 {
		t.Error("a removed folder has kept its files")
	}
	for _, name := range []string{"", "x", "../x/0", "x/y", "a/../b/0", "trash/0/1"} {
		if err := s.Remove(name); !errors.Is(err, errs.Invalid) {
			t.Errorf("Remove(%q): %v, want invalid", name, err)
		}
	}
}

func files(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestRemoveBesideUse removes a folder again and again while others use it: nobody loses it while he has it.
func TestRemoveBesideUse(t *testing.T) {
	t.Parallel()
	s := mount.Open(filepath.Join(t.TempDir(), "mounts"))
	stop := make(chan struct{})
	var remover sync.WaitGroup
	remover.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			all, err := s.Usage(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for _, u := range all {
				if err := s.Remove(u.Name); err != nil && !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.NotFound) {
					t.Error(err)
					return
				}
			}
			if err := s.Sweep(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var users sync.WaitGroup
	for i := range 4 {
		sharing := []string{mount.Shared, mount.Locked, mount.Private, mount.Shared}[i]
		users.Go(func() {
			for range 50 {
				taken, err := s.Take(t.Context(), []mount.Want{want("npm", sharing)})
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(taken.Paths[0], "file")
				err = os.WriteFile(file, nil, 0o600)
				if err == nil {
					_, err = os.Stat(file)
				}
				if err := errors.Join(err, taken.Release()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	users.Wait()
	close(stop)
	remover.Wait()
}
