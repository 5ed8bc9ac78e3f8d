package mount_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

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

// TestRestore fills what has nothing in it, and nothing else.
func TestRestore(t *testing.T) {
	t.Parallel()
	s := mount.Open(filepath.Join(t.TempDir(), "mounts"))
	asked := 0
	w := want("npm", mount.Shared)
	restore := func(restored bool) {
		w.Restore = func(_ context.Context, path string) (bool, error) {
			asked++
			if len(files(t, path)) > 0 {
				t.Error("asked to fill a folder that has files")
			}
			if err := os.WriteFile(filepath.Join(path, "partly"), nil, 0o600); err != nil {
				return false, err
			}
			return restored, nil
		}
	}
	count := func(wantAsked, wantFiles int) {
		t.Helper()
		taken := take(t, s, w)
		if n := len(files(t, taken.Paths[0])); n != wantFiles || asked != wantAsked {
			t.Errorf("%d files, asked %d times; want %d, %d", n, asked, wantFiles, wantAsked)
		}
		if err := taken.Release(); err != nil {
			t.Fatal(err)
		}
	}
	restore(false)
	count(1, 0) // what was begun is no part of it
	count(2, 0) // it is empty: there may be something by now
	user := take(t, s, want("npm", mount.Shared))
	count(2, 0) // somebody uses it, and is about to fill it
	if err := user.Release(); err != nil {
		t.Fatal(err)
	}
	restore(true)
	count(3, 1)
	count(3, 1)
	w.Sharing = mount.Locked
	w.Key, w.Seed = digest.FromString("other"), func(_ context.Context, path string) error {
		return errors.Join(os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "a"), nil, 0o600), os.WriteFile(filepath.Join(path, "b"), nil, 0o600))
	}
	restore(false)
	count(4, 2) // its seed
	failed := errors.New("broken disk")
	w.Key, w.Restore = digest.FromString("third"), func(context.Context, string) (bool, error) { return false, failed }
	if _, err := s.Take(t.Context(), []mount.Want{w}); !errors.Is(err, failed) {
		t.Errorf("Take: %v, want %v", err, failed)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	s := mount.Open(filepath.Join(t.TempDir(), "mounts"))
	taken := take(t, s, want("npm", mount.Shared))
	look := func(sharing string, want error) {
		t.Helper()
		again, err := s.Look(t.Context(), taken.Paths[0], sharing)
		if !errors.Is(err, want) {
			t.Errorf("Look at a %s folder: %v, want %v", sharing, err, want)
		}
		if err == nil {
			if err := again.Release(); err != nil {
				t.Error(err)
			}
		}
	}
	look(mount.Shared, nil)
	look(mount.Locked, errs.Conflict)
	if err := taken.Release(); err != nil {
		t.Fatal(err)
	}
	look(mount.Locked, nil)
	if err := s.Remove(usage(t, s)[0].Name); err != nil {
		t.Fatal(err)
	}
	look(mount.Shared, errs.NotFound)
}
