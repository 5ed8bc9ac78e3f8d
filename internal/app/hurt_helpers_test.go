package app_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The hurt suite does to builds what machines, registries and strangers do: kills them, fills their disk, lies to them.
// After each blow it looks for what was left behind, and builds again.

// programName makes the test binary run as slipway's command line.
const programName = "slipway"

// epoch makes digests of builds the same in every home.
const epoch = "1700000000"

// command is a slipway process to be hurt.
type command struct {
	*exec.Cmd
	home           string
	stdout, stderr bytes.Buffer
	done           chan struct{} // closed when the process has been waited for
}

// slipway prepares a command line that works on home.
func slipway(t *testing.T, home string, args ...string) *command {
	t.Helper()
	c := &command{Cmd: exec.Command("/proc/self/exe", args...), home: home, done: make(chan struct{})}
	c.Args[0] = programName
	c.Env = []string{"SLIPWAY_HOME=" + home, "DOCKER_CONFIG=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SLIPWAY_GC=minFree=off"}
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	// Should the test die, nothing of its children is to survive it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// start starts the process, and kills it at the end of the test if nobody waited for it.
func (c *command) start(t *testing.T) *command {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-c.done:
		default:
			_ = c.Process.Kill()
			c.wait(t)
		}
	})
	return c
}

// wait returns the exit status of a started process, -1 when a signal ended it.
func (c *command) wait(t *testing.T) int {
	t.Helper()
	defer close(c.done)
	if err := c.Wait(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return c.ProcessState.ExitCode()
}

// run starts the process and waits for it.
func (c *command) run(t *testing.T) int {
	t.Helper()
	return c.start(t).wait(t)
}

// digest runs a build that must succeed, and returns the digest it prints.
func (c *command) digest(t *testing.T) string {
	t.Helper()
	if code := c.run(t); code != 0 {
		t.Fatalf("%s: exit status %d\n%s", strings.Join(c.Args, " "), code, c.stderr.String())
	}
	_, digest, ok := strings.Cut(strings.TrimSpace(c.stdout.String()), "@")
	if !ok {
		digest = strings.TrimSpace(c.stdout.String())
	}
	return digest
}

// errorLines are what the command line says to people: the lines that begin with "slipway: ".
func (c *command) errorLines() string {
	var b strings.Builder
	for line := range strings.Lines(c.stderr.String()) {
		if strings.HasPrefix(line, "slipway: ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// kill kills the process and returns its descendants at that moment: it is stopped first, so that it makes no more.
func (c *command) kill(t *testing.T) []process {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		t.Fatal(err)
	}
	below := descendants(t, c.Process.Pid)
	if err := c.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return below
}

// process names a process beyond the reuse of its number.
type process struct {
	pid, parent int
	start       string
}

// readProcess is false when there is no such process any more, or nothing of it but its exit status.
func readProcess(pid int) (process, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')'):]), " ")
	f := strings.Fields(rest)
	parent, err := strconv.Atoi(f[1])
	return process{pid: pid, parent: parent, start: f[19]}, err == nil && f[0] != "Z" && f[0] != "X"
}

func descendants(t *testing.T, of int) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProcess(pid); ok {
				all = append(all, p)
			}
		}
	}
	below := map[int]bool{of: true}
	var found []process
	for more := true; more; {
		more = false
		for _, p := range all {
			if below[p.parent] && !below[p.pid] {
				below[p.pid], more = true, true
				found = append(found, p)
			}
		}
	}
	return found
}

// wantGone waits until the kernel has dismantled processes.
func wantGone(t *testing.T, processes []process) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, p := range processes {
		for {
			now, ok := readProcess(p.pid)
			if !ok || now.start != p.start {
				break
			}
			if time.Now().After(deadline) {
				line, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cmdline") // only to tell
				t.Errorf("process %d is left: %q", p.pid, line)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// wantNothingLeft looks for what a finished build must not leave behind: half written files, folders that no key names,
// mounts, and cgroups of the processes that pids names.
func wantNothingLeft(t *testing.T, home string, pids ...int) {
	t.Helper()
	if diff := cmp.Diff([]string{}, leftovers(t, home), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("files left behind (-want +got):\n%s", diff)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, home+"/") {
			t.Errorf("a mount is left: %s", line)
		}
	}
	for _, pid := range pids {
		if left := cgroupsOf(t, pid); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
	}
}

func leftovers(t *testing.T, home string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{
		"content/ingest/*", "snapshots/trash/*", "cache/.*", "sums/.*", "runs/run-*", "running/*",
	} {
		found, err := filepath.Glob(filepath.Join(home, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	named := map[string]bool{}
	keys, err := filepath.Glob(filepath.Join(home, "snapshots/keys/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		target, err := os.Readlink(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(home, "snapshots", filepath.Base(target))); err != nil {
			left = append(left, key)
		}
		named[filepath.Base(target)] = true
	}
	folders, err := os.ReadDir(filepath.Join(home, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range folders {
		if f.Name() != "keys" && f.Name() != "trash" && !named[f.Name()] {
			left = append(left, filepath.Join(home, "snapshots", f.Name()))
		}
	}
	slices.Sort(left)
	return left
}

// cgroupsOf lists the cgroups that a slipway process made.
func cgroupsOf(t *testing.T, pid int) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // other tests make and remove groups meanwhile
			}
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), "slipway-"+strconv.Itoa(pid)+"-") {
			found = append(found, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// within is a context that ends a test's build that hangs.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errors.New("the test's patience ended"))
	t.Cleanup(cancel)
	return ctx
}

// watched collects what a process prints until a word appears.
type watched struct {
	want string

	mu   sync.Mutex
	buf  bytes.Buffer
	seen chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buf.Write(p)
	if w.seen != nil && strings.Contains(w.buf.String(), w.want) {
		close(w.seen)
		w.seen = nil
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *watched) await(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	if strings.Contains(w.buf.String(), w.want) {
		w.mu.Unlock()
		return
	}
	seen := make(chan struct{})
	w.seen = seen
	w.mu.Unlock()
	select {
	case <-seen:
	case <-time.After(20 * time.Second):
		t.Fatalf("%q was not printed:\n%s", w.want, w.String())
	}
}
