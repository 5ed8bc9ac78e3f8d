package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

// script is a sandbox that runs a shell script and keeps its output.
func (l layers) script(text string) (*sandbox.Spec, *bytes.Buffer) {
	var out bytes.Buffer
	s := l.spec("sh", "-c", text)
	s.Stdout, s.Stderr = &out, &out
	return s, &out
}

// mustRun runs a script that is to exit with 0 and returns its output.
func mustRun(t *testing.T, l layers, text string, change ...func(*sandbox.Spec)) string {
	t.Helper()
	s, out := l.script(text)
	for _, c := range change {
		c(s)
	}
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || res.ExitCode != 0 {
		t.Fatalf("script %q: exit %d, %v, output:\n%s", text, res.ExitCode, err, out)
	}
	return out.String()
}

// tree lists everything below dir, sorted, directories with a slash.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if d.IsDir() {
			rel += "/"
		}
		all = append(all, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestRunReportsHowTheCommandEnded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		want         sandbox.Result
	}{
		{"success", "true", sandbox.Result{}},
		{"failure", "exit 3", sandbox.Result{ExitCode: 3}},
		{"killed", "kill -9 $$", sandbox.Result{ExitCode: 137, Signal: 9}},
		{"init cannot be ended from inside", "for s in 9 15 1 2 3 6 11 14 30; do kill -$s 1; done; sleep 0.01; exit 4", sandbox.Result{ExitCode: 4}},
		{"terminated", "kill -15 $$", sandbox.Result{ExitCode: 143, Signal: 15}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := busybox(t).script(tt.script)
			got, err := sandbox.Run(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if got.MaxRSS == 0 {
				t.Error("MaxRSS is not reported")
			}
			got.User, got.System, got.MaxRSS = 0, 0, 0
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Run(%q) mismatch (-want +got):\n%s", tt.script, diff)
			}
		})
	}
}

func TestRunReportsProcessorTime(t *testing.T) {
	t.Parallel()
	s, _ := busybox(t).script("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	res, err := sandbox.Run(t.Context(), s)
	if err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	if res.CPU() < 10*time.Millisecond {
		t.Errorf("a busy loop used %v", res.CPU())
	}
}

func TestOnlyWhatTheCommandWroteIsInTheUpperFolder(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	before, err := os.Stat(l.upper)
	if err != nil {
		t.Fatal(err)
	}
	got := mustRun(t, l, "cat /etc/hosts /etc/resolv.conf; echo mine >> /etc/hosts; ls /cache", func(s *sandbox.Spec) {
		s.Files = []sandbox.File{
			{Target: "/etc/hosts", Data: []byte("127.0.0.1 localhost\n")},
			{Target: "/etc/resolv.conf", Data: []byte("nameserver 192.0.2.1\n")},
		}
		s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: t.TempDir(), Target: "/cache"}}
	})
	if diff := cmp.Diff("127.0.0.1 localhost\nnameserver 192.0.2.1\n", got); diff != "" {
		t.Errorf("output mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), tree(t, l.upper)); diff != "" {
		t.Errorf("upper folder mismatch (-want +got):\n%s", diff)
	}
	after, err := os.Stat(l.upper)
	if err != nil {
		t.Fatal(err)
	}
	if !before.ModTime().Equal(after.ModTime()) {
		t.Error("the root's time changed")
	}
	mustRun(t, l, "echo a > /a; mkdir -p /etc/d")
	if diff := cmp.Diff([]string{"a", "etc/", "etc/d/"}, tree(t, l.upper)); diff != "" {
		t.Errorf("upper folder mismatch (-want +got):\n%s", diff)
	}
}

func TestCommandThatIsNotThere(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	for name, mode := range map[string]fs.FileMode{"bin/script": 0o755, "bin/data": 0o644} {
		if err := os.WriteFile(filepath.Join(l.lower, name), []byte("#!/no/such/interpreter\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(l.lower, "bin/foreign"), []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, command string
		code          int
		kind          error
		text          string
	}{
		{"by name", "foo", 127, errs.NotFound, `run ["foo"]: exec "foo": not found in $PATH`},
		{"by path", "/bin/foo", 127, errs.NotFound, `exec "/bin/foo": no such file in the image`},
		{"interpreter", "script", 127, errs.NotFound, `exec "script": its interpreter or loader is not in the image`},
		{"not executable", "data", 126, errs.Denied, `exec "data": found in $PATH but not executable`},
		{"not executable by path", "/bin/data", 126, errs.Denied, `exec "/bin/data": permission denied`},
		{"folder", "/bin", 126, errs.Denied, `exec "/bin": permission denied`},
		{"not a program", "foreign", 126, errs.Invalid, `exec "foreign": exec format error`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := l.spec(tt.command)
			res, err := sandbox.Run(t.Context(), s)
			if err == nil || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error = %v, want %q of kind %v", err, tt.text, tt.kind)
			}
			if res.ExitCode != tt.code {
				t.Errorf("exit code = %d, want %d", res.ExitCode, tt.code)
			}
		})
	}
}

func TestStandardStreams(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	var out, errOut bytes.Buffer
	s := l.spec("sh", "-c", "cat; echo problem >&2")
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader("hello\n"), &out, &errOut
	if res, err := sandbox.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
	if diff := cmp.Diff([]string{"hello\n", "problem\n"}, []string{out.String(), errOut.String()}); diff != "" {
		t.Errorf("streams mismatch (-want +got):\n%s", diff)
	}
}

func TestInputThatIsNotRead(t *testing.T) {
	t.Parallel()
	s := busybox(t).spec("true")
	s.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if res, err := sandbox.Run(t.Context(), s); err != nil || res.ExitCode != 0 {
		t.Fatal(res, err)
	}
}

func TestCancelKillsEverythingAndReturnsTheCause(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	cause := errors.New("the user went home")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := l.spec("sh", "-c", "sleep 1000 & echo up; sleep 1000")
	s.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel(cause)
		return len(p), nil
	})
	if _, err := sandbox.Run(ctx, s); !errors.Is(err, cause) {
		t.Errorf("error = %v, want the cause", err)
	}
}

func TestGraceLetsTheCommandCleanUp(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := l.spec("sh", "-c", "trap 'touch /cleaned; exit 0' TERM; echo up; while true; do sleep 0.01; done")
	s.Grace = 10 * time.Second
	s.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel(cause)
		return len(p), nil
	})
	if _, err := sandbox.Run(ctx, s); !errors.Is(err, cause) {
		t.Errorf("error = %v, want the cause", err)
	}
	if diff := cmp.Diff([]string{"cleaned"}, tree(t, l.upper)); diff != "" {
		t.Errorf("upper folder mismatch (-want +got):\n%s", diff)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
