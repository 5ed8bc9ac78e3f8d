package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

func newLauncher(t *testing.T) *sandbox.Launcher {
	t.Helper()
	l := &sandbox.Launcher{}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestLauncherRunsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	launcher := newLauncher(t)
	launcher.Warm()
	for i := range 20 {
		s := l.spec("sh", "-c", fmt.Sprintf("echo %d >> /log; [ -d /proc/1 ]", i))
		if i%5 == 4 {
			s.Network = sandbox.NetworkNone
		}
		if res, err := launcher.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
			t.Fatal(res, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(l.upper, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(data), "\n"); got != 20 {
		t.Errorf("the log has %d lines, want 20", got)
	}
}

func TestLauncherRunsManyAtOnce(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t)
	var runs sync.WaitGroup
	for range 12 {
		l := busybox(t)
		runs.Go(func() {
			if res, err := launcher.Run(t.Context(), l.spec("true")); err != nil || res.ExitCode != 0 {
				t.Error(res, err)
			}
		})
	}
	runs.Wait()
}

func TestLauncherThatIsClosed(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	var launcher sandbox.Launcher
	launcher.Warm()
	for range 2 {
		if err := launcher.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := launcher.Run(t.Context(), l.spec("true")); !errors.Is(err, errs.Canceled) {
		t.Errorf("error = %v, want canceled", err)
	}
}

func TestNobodyWritesAfterRun(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	launcher := newLauncher(t)
	s := l.spec("sh", "-c", "while true; do echo x >> /log; done & until [ -s /log ]; do sleep 0.01; done")
	if res, err := launcher.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	before, err := os.Stat(filepath.Join(l.upper, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := launcher.Run(t.Context(), busybox(t).spec("sleep", "0.01")); err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	after, err := os.Stat(filepath.Join(l.upper, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if before.Size() != after.Size() {
		t.Errorf("the log grew from %d to %d bytes", before.Size(), after.Size())
	}
}

func TestManyLayersWithAwkwardNames(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	s, out := l.script("cat /top; ls /files")
	base := t.TempDir()
	const count = 300
	for i := range count {
		dir := filepath.Join(base, fmt.Sprintf("layer %d:with,every=thing\\and %s", i, strings.Repeat("long", 50)))
		if err := os.MkdirAll(filepath.Join(dir, "files"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"top": fmt.Sprintln(i), fmt.Sprintf("files/%03d", i): ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s.Lower = append([]string{dir}, s.Lower...)
	}
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	got := lines(out.String())
	if got[0] != fmt.Sprint(count-1) || len(got) != count+1 {
		t.Errorf("the top layer is %s, %d files are seen", got[0], len(got)-1)
	}
}

func TestTooManyLayers(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	s := l.spec("true")
	for range 500 {
		s.Lower = append(s.Lower, l.lower)
	}
	if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "501 layers are too many") {
		t.Errorf("error = %v, want invalid", err)
	}
}

func TestRootFolder(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	before := tree(t, l.lower)
	s := &sandbox.Spec{
		Root: l.lower, Args: []string{"sh", "-c", "echo a > /new; mount; cat /etc/hosts"}, Env: []string{"PATH=/bin"},
		Files: []sandbox.File{{Target: "/etc/hosts", Data: []byte("hosts\n")}},
	}
	var out strings.Builder
	s.Stdout = &out
	if res, err := sandbox.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	if !strings.HasSuffix(out.String(), "hosts\n") {
		t.Errorf("output:\n%s", out.String())
	}
	want := append(before, "new")
	if diff := cmp.Diff(want, tree(t, l.lower)); diff != "" {
		t.Errorf("root mismatch (-want +got):\n%s", diff)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	source := t.TempDir()
	file := filepath.Join(source, "file")
	if err := os.WriteFile(file, []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := mustRun(t, l, `cat /a/b/file /single; (echo x > /a/ro/x) 2>/dev/null || echo read-only; echo x > /a/b/written; echo y > /tmp/y
		cat /run/secret; ls -l /run/secret | cut -c1-10`, func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{
			{Type: sandbox.MountBind, Source: source, Target: "/a/b"},
			{Type: sandbox.MountBind, Source: source, Target: "/a/ro", ReadOnly: true},
			{Type: sandbox.MountTmpfs, Target: "/a"},
			{Type: sandbox.MountTmpfs, Target: "/tmp", Size: 1 << 20},
			{Type: sandbox.MountBind, Source: file, Target: "/single"},
		}
		s.Files = []sandbox.File{{Target: "/run/secret", Data: []byte("s3cret\n"), Mode: 0o400}}
	})
	want := "from outside\nfrom outside\nread-only\ns3cret\n-r--------\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"file", "written"}, tree(t, source)); diff != "" {
		t.Errorf("source mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), tree(t, l.upper)); diff != "" {
		t.Errorf("upper folder mismatch (-want +got):\n%s", diff)
	}
}

func TestSpecsThatCannotWork(t *testing.T) {
	t.Parallel()
	good := layers{"/l", "/u", "/w"}
	tests := map[string]func(*sandbox.Spec){
		"no command":       func(s *sandbox.Spec) { s.Args = nil },
		"no upper":         func(s *sandbox.Spec) { s.Upper = "" },
		"no lower":         func(s *sandbox.Spec) { s.Lower = nil },
		"both roots":       func(s *sandbox.Spec) { s.Root = "/r" },
		"machine's root":   func(s *sandbox.Spec) { *s = sandbox.Spec{Root: "/", Args: s.Args} },
		"relative layer":   func(s *sandbox.Spec) { s.Lower = []string{"l"} },
		"relative cwd":     func(s *sandbox.Spec) { s.Cwd = "src" },
		"network":          func(s *sandbox.Spec) { s.Network = "bridge" },
		"mount type":       func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "nfs", Target: "/x"}} },
		"relative source":  func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "bind", Source: "x", Target: "/x"}} },
		"mount over root":  func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "tmpfs", Target: "/x/.."}} },
		"mount over proc":  func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "tmpfs", Target: "/proc/sys"}} },
		"file in sys":      func(s *sandbox.Spec) { s.Files = []sandbox.File{{Target: "/sys/kernel/x"}} },
		"zero byte":        func(s *sandbox.Spec) { s.Env = []string{"A=\x00"} },
		"zero byte in arg": func(s *sandbox.Spec) { s.Args = []string{"a\x00"} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := good.spec("true")
			change(s)
			if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, errs.Invalid) {
				t.Errorf("error = %v, want invalid", err)
			}
		})
	}
}

func TestMissingFoldersAndSources(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	tests := map[string]struct {
		change func(*sandbox.Spec)
		text   string
	}{
		"layer":  {func(s *sandbox.Spec) { s.Lower = append(s.Lower, "/no/such/layer") }, "open folder /no/such/layer"},
		"source": {func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Type: "bind", Source: "/no/such", Target: "/x"}} }, "mount /x: open /no/such"},
		"cwd":    {func(s *sandbox.Spec) { s.Cwd = "/no/such" }, "enter working directory /no/such"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := l.spec("true")
			tt.change(s)
			_, err := sandbox.Run(t.Context(), s)
			if !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error = %v, want %q, not found", err, tt.text)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	needRoot(t)
	home := t.TempDir()
	for _, f := range sandbox.Probe(t.Context(), home) {
		t.Logf("%-16s %-5v %s", f.Name, f.OK, f.Detail)
		if f.OK != (f.Hint == "") {
			t.Errorf("%s: OK is %v and the hint %q", f.Name, f.OK, f.Hint)
		}
	}
	if got := tree(t, home); got != nil {
		t.Errorf("left behind: %v", got)
	}
}
