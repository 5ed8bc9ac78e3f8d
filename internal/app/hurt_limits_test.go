package app_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestLimits builds what goes beyond each limit: the build ends with exit status 5 and the limit's name, leaves nothing
// behind, and a build beside it in the same home does not notice.
func TestLimits(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	noise := make([]byte, 20<<20)
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(noise) // never fails
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, tc := range []struct {
		name, step string
		flags      []string
		want       string
	}{
		{
			"time", "RUN mkdir /made && sleep 60",
			[]string{"--timeout", "400ms"},
			"slipway: error: the time limit of 400ms of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --timeout, or with runnerConfig.timeout in a pipeline\n",
		},
		{
			"disk", "RUN dd if=/dev/zero of=/big bs=1M count=64 && sleep 60",
			[]string{"--disk", "16m"},
			"slipway: error: the disk limit of 16MiB of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --disk, or with runnerConfig.diskSize in a pipeline\n",
		},
		{
			"disk by a layer", "COPY noise /",
			[]string{"--disk", "16m"},
			"slipway: error: the disk limit of 16MiB of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --disk, or with runnerConfig.diskSize in a pipeline\n",
		},
		{
			"memory", "RUN tail /dev/zero",
			[]string{"--memory", "32m"},
			"slipway: error: DOCKERFILE:2:1: RUN tail /dev/zero: the memory limit of 32MiB, with a peak of PEAK, of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --memory, or with runnerConfig.memory in a pipeline\n",
		},
		{
			"memory of a child", "RUN tail /dev/zero; echo survived",
			[]string{"--memory", "32m"},
			"slipway: error: DOCKERFILE:2:1: RUN tail /dev/zero; echo survived: the memory limit of 32MiB, with a peak of PEAK, of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --memory, or with runnerConfig.memory in a pipeline\n",
		},
		{
			"processes' memory together", "RUN for i in 1 2 3 4; do head -c 20000000 /dev/zero | tail >/dev/null & done; wait",
			[]string{"--memory", "32m"},
			"slipway: error: DOCKERFILE:2:1: RUN for i in 1 2 3 4; do head -c 20000000 /dev/zero | tail >/dev/null & done; wait: " +
				"the memory limit of 32MiB, with a peak of PEAK, of this build was hit: limit exceeded\n" +
				"slipway: hint: allow more with --memory, or with runnerConfig.memory in a pipeline\n",
		},
	} {
		wg.Go(func() {
			t.Run(tc.name, func(t *testing.T) {
				dir := write(t, "Dockerfile", "FROM "+addr+"/library/busybox\n"+tc.step+"\n", "noise", string(noise))
				home := t.TempDir()
				neighbour := slipway(t, home, "build", "--memory", "512m", "--disk", "1g", "--timeout", "1m", "-f", "-", dir)
				neighbour.Stdin = strings.NewReader("FROM " + addr + "/library/busybox\nRUN sleep 1 && head -c 10000000 /dev/zero >/file\nRUN rm /file\n")
				neighbour.start(t)
				c := slipway(t, home, append(append([]string{"build"}, tc.flags...), dir)...)
				code := c.run(t)
				got := strings.ReplaceAll(c.errorLines(), dir+"/Dockerfile", "DOCKERFILE")
				if before, after, ok := strings.Cut(got, "a peak of 3"); ok { // 32 MiB, or a page or two less
					_, after, _ = strings.Cut(after, ",")
					got = before + "a peak of PEAK," + after
				}
				if code != 5 || got != tc.want {
					t.Errorf("exit status %d, want 5; mismatch (-want +got):\n%s", code, cmp.Diff(tc.want, got))
				}
				if c.stdout.Len() > 0 {
					t.Errorf("stdout %q", c.stdout.String())
				}
				if code := neighbour.wait(t); code != 0 {
					t.Errorf("the neighbour has exit status %d\n%s", code, neighbour.stderr.String())
				}
				wantNothingLeft(t, home, c.Process.Pid, neighbour.Process.Pid)
			})
		})
	}
}

// TestFullDisk builds more than fits, in each way in which a build writes, on a disk of its own. The error says what was
// being written and which folder has no room; afterwards a smaller build in the same home succeeds.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	noise := make([]byte, 40<<20)
	random := rand.NewChaCha8([32]byte{4})
	_, _ = random.Read(noise) // never fails
	hostileImage{layers: [][]byte{layerOf(t, []file{{name: "big", content: string(noise), mode: 0o644}})}}.push(t, addr+"/big", layerOf(t, busyboxFiles(t)))
	const byHome = "free some space in the file system of HOME, or choose another home with SLIPWAY_HOME"
	for _, tc := range []struct {
		name, dockerfile string
		code             int
		want, hint       string
	}{
		{
			"base image", "FROM ADDR/big\nRUN true\n", 5,
			`unpack layer LAYER of ADDR/big:latest: apply layer: "big": write: no space left on device`, byHome,
		},
		{
			"copy", "FROM ADDR/library/busybox\nCOPY big /\n", 5,
			"DOCKERFILE:2:1: COPY big /: pack layer: write layer: write blob: no space left on device", byHome,
		},
		{
			"copy that is run on", "FROM ADDR/library/busybox\nCOPY big /\nRUN true\n", 5,
			"DOCKERFILE:2:1: COPY big /: WRITING: no space left on device", byHome,
		},
		{
			"copy from a stage", "FROM scratch AS a\nCOPY big /\nFROM ADDR/library/busybox\nCOPY --from=a big /\n", 5,
			"DOCKERFILE:2:1: COPY big /: place files in HOME/snapshots/ID/fs: big: write: no space left on device", byHome,
		},
		{
			"run", "FROM ADDR/library/busybox\nRUN dd if=/dev/zero of=/big bs=1M count=40\n", 3,
			"DOCKERFILE:2: RUN dd if=/dev/zero of=/big bs=1M count=40: exit status 1",
			"the file system of HOME/snapshots/ID/fs is full: free some space there",
		},
		{
			"layer of a run", "FROM ADDR/library/busybox\nRUN head -c 12000000 /dev/urandom >/big\n", 5,
			"DOCKERFILE:2:1: RUN head -c 12000000 /dev/urandom >/big: pack layer: write layer: write blob: no space left on device", byHome,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			home := smallDisk(t, "24m")
			dir := write(t, "Dockerfile", strings.ReplaceAll(tc.dockerfile, "ADDR", addr), "big", string(noise))
			c := slipway(t, home, "build", "--timeout", "20s", dir)
			code := c.run(t)
			got := strings.NewReplacer(dir+"/Dockerfile", "DOCKERFILE", home, "HOME", addr, "ADDR").Replace(c.errorLines())
			got = regexp.MustCompile(`sha256:[0-9a-f]{64}`).ReplaceAllString(got, "LAYER")                  //nolint:forbidigo // a test's
			got = regexp.MustCompile(`snapshots/[0-9a-f]+-[0-9a-f]+`).ReplaceAllString(got, "snapshots/ID") //nolint:forbidigo // a test's
			if tc.name == "copy that is run on" {                                                           // the folder and the blob fill the disk side by side: the first to notice tells
				got = regexp.MustCompile(`place files in HOME/snapshots/ID/fs: big: write|pack layer: write layer: write blob`). //nolint:forbidigo // a test's
																			ReplaceAllString(got, "WRITING")
			}
			want := "slipway: error: " + tc.want + "\nslipway: hint: " + tc.hint + "\n"
			if code != tc.code || got != want {
				t.Errorf("exit status %d, want %d; mismatch (-want +got):\n%s", code, tc.code, cmp.Diff(want, got))
			}
			if left := leftovers(t, home); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if err := os.WriteFile(filepath.Join(dir, "big"), []byte("small"), 0o644); err != nil {
				t.Fatal(err)
			}
			small := slipway(t, home, "build", "-f", "-", dir)
			small.Stdin = strings.NewReader("FROM " + addr + "/library/busybox\nCOPY big /\nRUN echo fits >/fits\n")
			small.digest(t)
			if left := leftovers(t, home); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// smallDisk is an empty folder on a file system of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil { // busy: something still uses it
			t.Error(err)
			_ = unix.Unmount(dir, unix.MNT_DETACH) // at least it is out of the way
		}
	})
	return dir
}

// TestMemoryOfLargeContext builds a context of 450 MB, a third of which does not compress, and watches how much memory
// slipway itself takes.
func TestMemoryOfLargeContext(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	if raceEnabled {
		t.Skip("the race detector multiplies what a process takes")
	}
	addr := startRegistry(t)
	pushBases(t, addr)
	dir := write(t, "Dockerfile", "FROM "+addr+"/library/busybox\nCOPY . /data\nRUN cp /data/random /copy\n")
	random := rand.NewChaCha8([32]byte{5})
	writeFile(t, filepath.Join(dir, "random"), io.LimitReader(random, 150<<20))
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, "zeros"+strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "zeros"+strconv.Itoa(i)), 100<<20); err != nil {
			t.Fatal(err)
		}
	}
	c := slipway(t, t.TempDir(), "build", "-t", addr+"/large", "--push", dir).start(t)
	peak := make(chan int64)
	go func() { peak <- peakMemory(c.Process.Pid, c.done) }()
	began := time.Now()
	if code := c.wait(t); code != 0 {
		t.Fatalf("exit status %d\n%s", code, c.stderr.String())
	}
	got := <-peak
	t.Logf("%d MB, %s", got>>20, time.Since(began))
	if got > 300<<20 || got == 0 {
		t.Errorf("slipway took %d MB, want no more than 300", got>>20)
	}
}

// peakMemory watches a process until it is done. (What wait4 tells begins with the memory of the parent.)
func peakMemory(pid int, done <-chan struct{}) (peak int64) {
	for {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err == nil {
			if _, after, ok := bytes.Cut(data, []byte("VmHWM:")); ok {
				var kib int64
				if _, err := fmt.Sscanf(string(after), "%d kB", &kib); err == nil {
					peak = max(peak, kib<<10)
				}
			}
		}
		select {
		case <-done:
			return peak
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func writeFile(t *testing.T, name string, content io.Reader) {
	t.Helper()
	f, err := os.Create(name)
	if err == nil {
		_, err = io.Copy(f, content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTwoAtOnce builds the same twice in one home at the same time, in processes that know nothing of each other.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	dir := write(t, "Dockerfile", stages(addr+"/library/busybox"), "main.txt", strings.Repeat("content\n", 5000))
	build := func(home, tag string) *command {
		return slipway(t, home, "build", "--progress", "plain", "--source-date-epoch", epoch, "-t", addr+"/app:"+tag, "--push", dir)
	}
	want := build(t.TempDir(), "alone").digest(t)
	home := t.TempDir()
	var both [2]*command
	for i := range both {
		both[i] = build(home, "both"+strconv.Itoa(i)).start(t)
	}
	unpacked := 0
	for i, c := range both {
		if code := c.wait(t); code != 0 {
			t.Fatalf("exit status %d\n%s", code, c.stderr.String())
		}
		if got := wantImage(t, addr+"/app:both"+strconv.Itoa(i)).String(); got != want {
			t.Errorf("build %d made %s, alone it is %s", i, got, want)
		}
		unpacked += strings.Count(c.stderr.String(), "unpack ")
	}
	if unpacked != 1 {
		t.Errorf("the base image's layer was unpacked %d times", unpacked)
	}
	wantNothingLeft(t, home)
}

// TestIsolation looks out of a RUN.
func TestIsolation(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	pushBases(t, addr)
	home := t.TempDir()
	c := slipway(t, home, "build", "--network", "none", "-f", "-", t.TempDir())
	c.Env = append(c.Env, "SECRET=x")
	secret := sha256.Sum256([]byte(home))
	if err := os.WriteFile(filepath.Join(home, hex.EncodeToString(secret[:])), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(addr, ":")
	config := ""
	for _, kv := range c.Env {
		if v, ok := strings.CutPrefix(kv, "DOCKER_CONFIG="); ok {
			config = v
		}
	}
	c.Stdin = strings.NewReader(strings.NewReplacer("ADDR", addr, "HOST", host, "PORT", port, "HOME", home, "CONFIG", config).Replace(`FROM ADDR/library/busybox
RUN [ "$(ls /sys/class/net)" = lo ]
RUN ! nc -w 1 HOST PORT </dev/null
RUN [ ! -e HOME ] && [ ! -e CONFIG ]
RUN ! grep -F HOME /proc/self/mountinfo /proc/mounts /proc/self/environ /proc/1/cmdline
RUN ! env | grep -E 'SECRET|SLIPWAY|DOCKER'
RUN ! ls -l /proc/self/fd /proc/1/fd | grep -E 'HOME|CONFIG'
RUN [ "$(ls /proc | grep -c '^[0-9]')" -lt 8 ]
`))
	c.digest(t)
	// The same questions, where there is a network: they can be answered with yes.
	c = slipway(t, home, "build", "-f", "-", t.TempDir())
	c.Stdin = strings.NewReader("FROM " + addr + "/library/busybox\nRUN nc -w 1 " + host + " " + port + " </dev/null\n")
	c.digest(t)
}
