package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/sandbox"
)

// helperName makes the test binary a program that runs one sandbox, to be killed.
const helperName = "sandbox-test-helper"

func helper(args []string) int {
	s := &sandbox.Spec{
		Lower: []string{args[0]}, Upper: args[1], Work: args[2],
		Args: []string{"sh", "-c", "sleep 98765 & echo up; sleep 98765"}, Env: []string{"PATH=/bin"}, Stdout: os.Stdout,
	}
	if _, err := sandbox.Run(context.Background(), s); err != nil {
		fmt.Println(err)
	}
	return 1
}

// startHelper runs a sandbox in a process of its own, which has inherited an open folder, and waits for its command.
func startHelper(t *testing.T) (*exec.Cmd, layers) {
	t.Helper()
	l := busybox(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", l.lower, l.upper, l.work)
	cmd.Args[0] = helperName
	folder, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	cmd.ExtraFiles = []*os.File{folder, folder, folder}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead, and so be the result of Wait
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("helper says %q, %v", line, err)
	}
	return cmd, l
}

func TestNothingOutlivesASlipwayThatIsKilled(t *testing.T) {
	t.Parallel()
	cmd, l := startHelper(t)
	sandboxed := descendants(t, cmd.Process.Pid)
	if len(sandboxed) < 3 {
		t.Fatalf("processes of the sandbox: %v, want init, shell, sleep", sandboxed)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.Now().Add(5 * time.Second)
	for _, pid := range sandboxed {
		for unix.Kill(pid, 0) == nil {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is left", pid)
			}
			time.Sleep(time.Millisecond)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.upper) {
		t.Error("a mount is left")
	}
}

// TestEscapeSandboxHoldsNoFileOfTheMachine looks from outside at what the processes of a sandbox have open.
func TestEscapeSandboxHoldsNoFileOfTheMachine(t *testing.T) {
	t.Parallel()
	cmd, _ := startHelper(t)
	// Go's fork has a pipe of its own in init, which on a busy machine is still closing it when the command speaks.
	deadline := time.Now().Add(5 * time.Second)
	for {
		open := openInSandbox(t, cmd.Process.Pid)
		if len(open) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(strings.Join(open, "\n"))
		}
		time.Sleep(time.Millisecond)
	}
}

// openInSandbox lists what the processes below one have open besides the standard descriptors and init's socket.
func openInSandbox(t *testing.T, root int) (found []string) {
	t.Helper()
	for _, pid := range descendants(t, root) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			to, err := os.Readlink(filepath.Join(dir, e.Name()))
			if errors.Is(err, os.ErrNotExist) {
				continue // closed meanwhile
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Name()) > 1 || e.Name() > "3" || e.Name() == "3" && !strings.HasPrefix(to, "socket:") {
				if !strings.HasPrefix(to, "anon_inode:") { // the runtime's poller
					found = append(found, fmt.Sprintf("process %d has %s open as %s", pid, to, e.Name()))
				}
			}
		}
	}
	return found
}

// descendants are the processes below one.
func descendants(t *testing.T, root int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		var pid, parent int
		var state string
		after := string(stat[bytes.LastIndexByte(stat, ')')+1:])
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(after, &state, &parent); err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], pid)
	}
	var all []int
	for todo := children[root]; len(todo) > 0; {
		all = append(all, todo[0])
		todo = append(todo[1:], children[todo[0]]...)
	}
	return all
}
