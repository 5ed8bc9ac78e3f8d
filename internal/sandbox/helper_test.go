package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"slipway/internal/isolation/isolationtest"
	"slipway/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	isolationtest.Main()
	switch os.Args[0] {
	case helperName:
		os.Exit(helper(os.Args[1:]))
	case probePath:
		os.Exit(probeMain(os.Args[1:]))
	case "/proc/self/exe":
		os.Exit(scriptInterpreter())
	}
	os.Exit(m.Run())
}

// needRoot skips tests that make namespaces and mounts.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes namespaces and mounts")
	}
}

// needUsers skips tests that run as somebody else where there is nobody else.
func needUsers(t *testing.T) {
	t.Helper()
	if isolationtest.Way() == isolationtest.OneID {
		t.Skip("needs users besides root")
	}
}

// layers are the folders of one overlay.
type layers struct{ lower, upper, work string }

// busybox makes a root file system with busybox and nothing else: no /proc, no /etc.
func busybox(t testing.TB) layers {
	t.Helper()
	needRoot(t)
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	l := emptyLayers(t)
	copyFile(t, path, filepath.Join(l.lower, "bin/busybox"))
	for _, name := range []string{"sh", "true", "cat", "ls", "id", "sleep", "mount", "mknod", "kill", "touch", "mkdir", "rm", "env"} {
		if err := os.Symlink("busybox", filepath.Join(l.lower, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func emptyLayers(t testing.TB) layers {
	t.Helper()
	dir := t.TempDir()
	l := layers{filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")}
	for _, d := range []string{l.lower, l.upper, l.work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// spec is a sandbox on l.
func (l layers) spec(args ...string) *sandbox.Spec {
	return &sandbox.Spec{Lower: []string{l.lower}, Upper: l.upper, Work: l.work, Args: args, Env: []string{"PATH=/bin"}}
}
