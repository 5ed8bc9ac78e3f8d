package isolation_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/isolation"
)

// actVariable has this binary enter a user namespace, as a user, and do something there: see act.
const actVariable = "ISOLATION_TEST_ACT"

const testUser = 54322

func TestMain(m *testing.M) {
	isolation.Init()
	if what := os.Getenv(actVariable); what != "" {
		os.Exit(act(what))
	}
	os.Exit(m.Run())
}

// act enters and does what it is told: exits with a status, or prints its process's number and waits for a request to end.
func act(what string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	place, err := isolation.Enter(ctx, isolation.Options{
		Mode: isolation.Namespaces, Home: os.Getenv("SLIPWAY_HOME"), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if done, ok := errors.AsType[*isolation.Exited](err); ok {
		return done.Code
	}
	if err != nil {
		fmt.Println(err)
		return 99
	}
	switch what {
	case "wait":
		fmt.Println(os.Getpid())
		<-ctx.Done()
		return 130
	case "where":
		fmt.Println(place.Kind, os.Getuid(), os.Getenv("SLIPWAY_HOME"), strings.Join(os.Args[1:], " "))
		return 0
	}
	code, err := strconv.Atoi(what)
	if err != nil {
		return 98
	}
	return code
}

// asUser is this binary, as a user.
func asUser(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it becomes another user")
	}
	dir, err := os.MkdirTemp("", "slipway-test-") //nolint:usetesting // the parents of t.TempDir are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "program"), data, 0o755)
	}
	if err = errors.Join(err, os.Chown(dir, testUser, testUser)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "program"), "some", "arguments")
	cmd.Env = append(os.Environ(), actVariable+"="+what, "SLIPWAY_HOME="+filepath.Join(dir, "home"))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUser, Gid: testUser}}
	return cmd
}

func TestEnter(t *testing.T) {
	t.Parallel()
	cmd := asUser(t, "where")
	out, err := cmd.Output()
	want := fmt.Sprintf("%s 0 %s/home some arguments\n", isolation.SingleID, cmd.Dir)
	if err != nil || string(out) != want {
		t.Errorf("in the namespace: %q, %v; want %q", out, err, want)
	}
}

func TestExitStatusPasses(t *testing.T) {
	t.Parallel()
	cmd := asUser(t, "5")
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exit status: %v, want 5", err)
	}
}

// waiting starts a process that waits in a namespace, and returns its number there: outside and inside it is the same.
func waiting(t *testing.T) (*exec.Cmd, int) {
	t.Helper()
	cmd := asUser(t, "wait")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return cmd, pid
}

func TestRequestToEndPasses(t *testing.T) {
	t.Parallel()
	cmd, _ := waiting(t)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit status: %v, want 130", err)
	}
}

func TestNamespaceEndsWithTheProcessOutside(t *testing.T) {
	t.Parallel()
	cmd, pid := waiting(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for range 1000 {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d goes on", pid)
}
