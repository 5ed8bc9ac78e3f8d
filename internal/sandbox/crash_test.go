package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"slipway/internal/sandbox"
)

// helperName makes the test binary a program that runs one sandbox, to be killed.
const helperName = "sandbox-test-helper"

func helper(args []string) int {
	s := &sandbox.Spec{
		Lower: []string{args[0]}, Upper: args[1], Work: args[2],
		Args: []string{"sh", "-c", "echo up; sleep 98765 & sleep 98765"}, Env: []string{"PATH=/bin"}, Stdout: os.Stdout,
	}
	if _, err := sandbox.Run(context.Background(), s); err != nil {
		fmt.Println(err)
	}
	return 1
}

func TestNothingOutlivesASlipwayThatIsKilled(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", l.lower, l.upper, l.work)
	cmd.Args[0] = helperName
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("helper says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.Now().Add(5 * time.Second)
	for len(using(t, l.upper)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("processes left: %v", using(t, l.upper))
		}
		time.Sleep(time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.upper) {
		t.Error("a mount is left")
	}
}

// using finds processes in whose mount namespace something is mounted on dir.
func using(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && strings.Contains(string(line), "98765") && strings.HasPrefix(string(line), "sleep") {
			found = append(found, e.Name())
		}
	}
	return found
}
