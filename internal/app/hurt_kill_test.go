package app_test

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stages is a Dockerfile that does a bit of everything for about 200 ms. ROUND keeps the cache from answering.
func stages(base string) string {
	return strings.ReplaceAll(`FROM BASE AS build
ARG ROUND
WORKDIR /src
COPY . .
RUN i=0; while [ $i -lt 50 ]; do echo $i >made$i; i=$((i+1)); done; sleep 0.05
RUN mkdir -p /out/deep && cat made* >/out/all && ln /out/all /out/deep/link && rm made1* && sleep 0.05
FROM BASE
ARG ROUND
RUN echo image >/etc/image && rm /etc/os-release
COPY --from=build /out /app
RUN sleep 0.05 && cp -r /app /copy
`, "BASE", base)
}

// TestKilledBuilds kills builds at random moments, all in one home, and then lets one succeed: it must give the digest
// that a home without a past gives, and remove everything that the dead have left.
func TestKilledBuilds(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	dir := write(t, "Dockerfile", stages(registry+"/library/busybox"), "main.txt", strings.Repeat("content\n", 5000), "sub/other.txt", "x")
	build := func(home, tag, round string, flags ...string) *command {
		args := []string{"build", "-t", registry + "/app:" + tag, "--push", "--source-date-epoch", epoch, "--build-arg", "ROUND=" + round, dir}
		return slipway(t, home, append(args, flags...)...)
	}
	want := build(t.TempDir(), "fresh", "last").digest(t)

	const builds = 50
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	home := t.TempDir()
	var pids []int
	finished := 0
	for i := range builds {
		var flags []string
		if i%2 == 0 {
			flags = []string{"--memory", "256m"} // in a cgroup
		}
		c := build(home, "killed", strconv.Itoa(i), flags...).start(t)
		pids = append(pids, c.Process.Pid)
		time.Sleep(time.Duration(random.Int64N(int64(250 * time.Millisecond)))) // the moment is what is tested
		below := c.kill(t)
		switch code := c.wait(t); {
		case code == 0:
			finished++
		case code != -1:
			t.Fatalf("build %d failed after earlier ones were killed: exit status %d\n%s", i, code, c.stderr.String())
		}
		wantGone(t, below)
	}
	if finished > builds/2 {
		t.Logf("%d of %d builds ended before they were killed", finished, builds)
	}
	last := build(home, "last", "last")
	if got := last.digest(t); got != want {
		t.Errorf("digest %s, in a fresh home %s", got, want)
	}
	wantNothingLeft(t, home, append(pids, last.Process.Pid)...)
}

// TestInterruptedBuild asks builds to end, as a terminal and as a service manager do: they undo what they have begun.
func TestInterruptedBuild(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	registry := startRegistry(t)
	pushBases(t, registry)
	dir := write(t, "Dockerfile", "FROM "+registry+"/library/busybox\nRUN mkdir /made && echo be''gun && sleep 60\n")
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		wg.Go(func() {
			t.Run(signal.String(), func(t *testing.T) {
				home := t.TempDir()
				c := slipway(t, home, "build", "--progress", "plain", "-t", registry+"/app:"+strconv.Itoa(int(signal)), "--push", "--memory", "256m", dir)
				out := &watched{want: "begun"}
				c.Stderr = out
				c.start(t)
				out.await(t)
				below := descendants(t, c.Process.Pid)
				if len(below) < 2 {
					t.Errorf("%d processes below, want init and the command at least", len(below))
				}
				sent := time.Now()
				if err := c.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if code := c.wait(t); code != 130 {
					t.Errorf("exit status %d, want 130", code)
				}
				if took := time.Since(sent); took > 3*time.Second {
					t.Errorf("the end took %s", took)
				}
				if want := "slipway: error: interrupted\n"; !strings.HasSuffix(out.String(), want) {
					t.Errorf("stderr %q, want %q at its end", out.String(), want)
				}
				wantGone(t, below)
				wantNothingLeft(t, home, c.Process.Pid)
			})
		})
	}
}

// TestKilledWarm kills the filling of a folder of base images in the middle of a layer. The next one leaves nothing of it.
func TestKilledWarm(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	h := newHostileRegistry(t)
	f, addr := proxyTo(t, h.addr)
	reached := make(chan struct{})
	f.set(fault{"GET", h.layer.String(), 1, func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		defer func() {
			_ = recover() // the proxy gives up on a writer that does
			close(reached)
			<-r.Context().Done()
		}()
		registry.ServeHTTP(&cutWriter{w, 100_000}, r)
	}})
	cacheDir, home := t.TempDir(), t.TempDir()
	args := []string{"warm", "--image", addr + "/library/busybox", "--cache-dir", cacheDir}
	c := slipway(t, home, args...).start(t)
	select {
	case <-reached:
	case <-time.After(20 * time.Second):
		t.Fatal("the layer was not asked for")
	}
	left := func() (found []string) {
		for _, pattern := range []string{"ingest/*", ".tmp-*", "refs/.tmp-*"} {
			files, err := filepath.Glob(filepath.Join(cacheDir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, files...)
		}
		return found
	}
	for deadline := time.Now().Add(10 * time.Second); len(left()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is being written")
		}
	}
	c.kill(t)
	if code := c.wait(t); code != -1 {
		t.Errorf("exit status %d, want a kill", code)
	}
	if err := os.WriteFile(filepath.Join(cacheDir, "refs/.tmp-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := slipway(t, home, args...); again.run(t) != 0 {
		t.Errorf("warming again: %s", again.stderr.String())
	}
	if found := left(); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}
