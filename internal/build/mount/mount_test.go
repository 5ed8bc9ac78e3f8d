package mount_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/build/mount"
)

func want(id, sharing string) mount.Want {
	return mount.Want{Key: digest.FromString(id), ID: id, Sharing: sharing, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
}

func take(t *testing.T, s *mount.Store, wants ...mount.Want) *mount.Taken {
	t.Helper()
	taken, err := s.Take(t.Context(), wants)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := taken.Release(); err != nil {
			t.Error(err)
		}
	})
	return taken
}

// busy says that a folder cannot be had while others hold it.
func busy(t *testing.T, s *mount.Store, w mount.Want) {
	t.Helper()
	enough := errors.New("waited enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 60*time.Millisecond, enough)
	defer cancel()
	if _, err := s.Take(ctx, []mount.Want{w}); !errors.Is(err, enough) {
		t.Fatalf("Take of a %s folder that is in use = %v, want it to wait", w.Sharing, err)
	}
}

func TestFoldersAreKept(t *testing.T) {
	t.Parallel()
	s := mount.Open(filepath.Join(t.TempDir(), "mounts"))
	first := take(t, s, want("npm", mount.Shared), want("go", mount.Locked), want("npm", mount.Shared))
	if first.Paths[0] == first.Paths[1] || first.Paths[0] != first.Paths[2] {
		t.Errorf("folders are %q", first.Paths)
	}
	if err := os.WriteFile(filepath.Join(first.Paths[0], "x"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	again := take(t, s, want("npm", mount.Private))
	if data, err := os.ReadFile(filepath.Join(again.Paths[0], "x")); string(data) != "kept" {
		t.Errorf("the folder holds %q, %v", data, err)
	}
}

func TestSharing(t *testing.T) {
	t.Parallel()
	s := mount.Open(t.TempDir())
	one := take(t, s, want("a", mount.Shared))
	two := take(t, s, want("a", mount.Shared))
	if one.Paths[0] != two.Paths[0] {
		t.Errorf("two shared folders: %s and %s", one.Paths[0], two.Paths[0])
	}
	busy(t, s, want("a", mount.Locked))
	own := take(t, s, want("a", mount.Private))
	if own.Paths[0] == one.Paths[0] {
		t.Error("a private folder is one that somebody else has")
	}
	for _, taken := range []*mount.Taken{one, two, own} {
		if err := taken.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if again := take(t, s, want("a", mount.Private)); again.Paths[0] != one.Paths[0] {
		t.Error("a private folder is a new one though an old one is free")
	}
	busy(t, s, want("a", mount.Shared))
	busy(t, s, want("a", mount.Locked))
}

// Whoever wants a folder twice has it once, in the stricter way.
func TestOneFolderTwice(t *testing.T) {
	t.Parallel()
	s := mount.Open(t.TempDir())
	take(t, s, want("a", mount.Shared), want("a", mount.Locked))
	busy(t, s, want("a", mount.Shared))
}

// Two who want the same folders in another order do not wait for each other.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	s := mount.Open(t.TempDir())
	var inside atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		wants := []mount.Want{want("a", mount.Locked), want("b", mount.Locked)}
		if i%2 == 1 {
			wants[0], wants[1] = wants[1], wants[0]
		}
		wg.Go(func() {
			taken, err := s.Take(t.Context(), wants)
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d have a locked folder", n)
			}
			inside.Add(-1)
			if err := taken.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSeed(t *testing.T) {
	t.Parallel()
	s := mount.Open(t.TempDir())
	failed := errors.New("no seed")
	seeds := 0
	w := want("a", mount.Shared)
	w.Seed = func(_ context.Context, path string) error {
		seeds++
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if seeds == 1 {
			return failed
		}
		return os.WriteFile(filepath.Join(path, "seed"), nil, 0o644)
	}
	if _, err := s.Take(t.Context(), []mount.Want{w}); !errors.Is(err, failed) {
		t.Fatalf("Take = %v", err)
	}
	for range 2 {
		taken := take(t, s, w)
		if _, err := os.Stat(filepath.Join(taken.Paths[0], "seed")); err != nil {
			t.Error(err)
		}
	}
	if seeds != 2 {
		t.Errorf("the folder was seeded %d times, want a failed one and a good one", seeds)
	}
}

func TestNewFolderIsOwned(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives a folder away")
	}
	w := want("a", mount.Shared)
	w.Mode, w.UID, w.GID = 0o710, 12, 34
	info, err := os.Stat(take(t, mount.Open(t.TempDir()), w).Paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o710 {
		t.Errorf("mode is %v", info.Mode())
	}
}

// A process that is killed gives back what it had, and what it was about to make is made anew.
func TestKilledHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestHoldForever$")
	cmd.Env = append(os.Environ(), "MOUNT_HOLD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s := mount.Open(dir)
	busy(t, s, want("a", mount.Locked))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a killed process ended well")
	}
	taken := take(t, s, want("a", mount.Locked))
	if _, err := os.Stat(filepath.Join(taken.Paths[0], "half")); err == nil {
		t.Error("a half made folder is used")
	}
}

// TestHoldForever is the process that TestKilledHolder kills.
func TestHoldForever(t *testing.T) { //nolint:paralleltest // it does not return
	dir := os.Getenv("MOUNT_HOLD")
	if dir == "" {
		t.Skip("is run by TestKilledHolder")
	}
	w := want("a", mount.Locked)
	w.Seed = func(_ context.Context, path string) error {
		if err := os.MkdirAll(filepath.Join(path, "half"), 0o700); err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString("x"); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin) // which nobody closes
		return err
	}
	if _, err := mount.Open(dir).Take(t.Context(), []mount.Want{w}); err != nil {
		t.Fatal(err)
	}
}
