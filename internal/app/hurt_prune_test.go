package app_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/build"
)

// wantSound looks for records of steps whose blob and folder are both gone.
func wantSound(t *testing.T, home string) {
	t.Helper()
	for _, file := range records(t, home) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r build.Record
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		there := r.Empty()
		if r.Layer != nil {
			_, err := os.Stat(filepath.Join(home, "content/blobs/sha256", r.Layer.Digest.Encoded()))
			there = there || err == nil
		}
		if r.Folder != "" {
			_, err := os.Stat(filepath.Join(home, "snapshots/keys/sha256", r.Folder.Encoded(), "fs"))
			_, named := os.Stat(filepath.Join(home, "snapshots/keys/sha256", r.Folder.Encoded()))
			there = there || err == nil || named == nil
		}
		if !there {
			t.Errorf("the record of %s is about what is gone", r.Name)
		}
	}
}

func records(t *testing.T, home string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(home, "cache/??/*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestPruneBesideBuilds removes all that is not in use again and again while builds run, all of them processes of their
// own on one home: every build succeeds with the digest that it has alone.
func TestPruneBesideBuilds(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	const kinds = 3
	dockerfile := strings.Replace(stages(registry+"/library/busybox"), "COPY . .\n", "COPY . .\nRUN --mount=type=cache,target=/cache echo x >>/cache/file && test -s /cache/file\n", 1)
	dir := write(t, "Dockerfile", dockerfile, "main.txt", strings.Repeat("content\n", 5000), "sub/other.txt", "x")
	run := func(home string, kind int) *command {
		// A round has steps of its own and some that all have: some are found, some are made, some are being made.
		return slipway(t, home, "build", "-t", registry+"/app:"+strconv.Itoa(kind), "--push", "--source-date-epoch", epoch,
			"--build-arg", "ROUND="+strconv.Itoa(kind), dir)
	}
	var want [kinds]string
	for i := range want {
		want[i] = run(t.TempDir(), i).digest(t)
	}
	home := t.TempDir()
	stop := make(chan struct{})
	var pruner sync.WaitGroup
	pruned := 0
	pruner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c := slipway(t, home, "cache", "prune", "--all"); c.run(t) != 0 {
				t.Errorf("prune: %s", c.stderr.String())
				return
			}
			pruned++
		}
	})
	var builds sync.WaitGroup
	for i := range want {
		builds.Go(func() {
			for range 6 {
				c := run(home, i)
				if code := c.run(t); code != 0 {
					t.Errorf("build: exit status %d\n%s", code, c.stderr.String())
					return
				}
				if !strings.Contains(c.stdout.String(), want[i]) {
					t.Errorf("digest %q, alone %s", c.stdout.String(), want[i])
				}
			}
		})
	}
	builds.Wait()
	close(stop)
	pruner.Wait()
	t.Logf("pruned %d times", pruned)
	if c := slipway(t, home, "cache", "prune", "--keep-storage", "1g"); c.run(t) != 0 {
		t.Errorf("prune: %s", c.stderr.String())
	}
	wantSound(t, home)
	wantNothingLeft(t, home)
}

// TestKilledPrunes kills removals at random moments. The next build finds nothing that is half gone, and removes what
// they had put aside.
func TestKilledPrunes(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	dir := write(t, "Dockerfile", stages(registry+"/library/busybox"), "main.txt", strings.Repeat("content\n", 5000))
	run := func(home string) *command {
		return slipway(t, home, "build", "-t", registry+"/app:v1", "--push", "--source-date-epoch", epoch, dir)
	}
	home := t.TempDir()
	want := run(home).digest(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	halfway := 0
	for range 20 {
		before := len(records(t, home))
		c := slipway(t, home, "cache", "prune", "--all").start(t)
		time.Sleep(time.Duration(random.Int64N(int64(60 * time.Millisecond)))) // the moment is what is tested
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code == -1 && len(records(t, home)) < before {
			halfway++
		}
		if got := run(home).digest(t); got != want {
			t.Errorf("digest %s after a removal was killed, want %s", got, want)
		}
		wantSound(t, home)
		wantNothingLeft(t, home)
	}
	t.Logf("%d of 20 removals were killed halfway", halfway)
}

// TestRoomIsMade builds what only fits on a disk if an earlier build's results go, first with nobody making room: the
// room is needed while the build runs.
func TestRoomIsMade(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	run := func(home, gc, commands string) *command {
		c := slipway(t, home, "build", "--progress", "plain", "-f", "-", t.TempDir())
		c.Stdin = strings.NewReader("FROM " + registry + "/library/busybox\nRUN " + commands + "\n")
		c.Env = append(c.Env, "SLIPWAY_GC="+gc)
		return c
	}
	const (
		earlier = "head -c 30000000 /dev/urandom >/earlier"
		// Long enough in between for somebody to notice, and to make room.
		later = "head -c 14000000 /dev/urandom >/one && sleep 2 && head -c 14000000 /dev/urandom >/two"
	)
	for _, tc := range []struct {
		gc   string
		code int
	}{{"off", 5}, {"maxUsed=off,minFree=20%", 0}} {
		t.Run(tc.gc, func(t *testing.T) {
			t.Parallel()
			home := smallDisk(t, "96m")
			run(home, tc.gc, earlier).digest(t)
			c := run(home, tc.gc, later)
			if code := c.run(t); code != tc.code {
				t.Fatalf("exit status %d, want %d\n%s", code, tc.code, c.stderr.String())
			}
			if told := strings.Contains(c.stderr.String(), "that was not in use"); told != (tc.code == 0) {
				t.Errorf("stderr %s", c.stderr.String())
			}
			wantSound(t, home)
			wantNothingLeft(t, home)
		})
	}
}
