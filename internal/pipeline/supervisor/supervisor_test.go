package supervisor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/pipeline"
	"slipway/internal/pipeline/logfile"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/supervisor"
)

// script is what a worker of these tests does.
type script struct {
	Lines  []string         // it says
	Big    int              // lines of a kilobyte
	File   string           // it waits for
	Made   string           // it makes, to show that it has come so far
	Deaf   bool             // it does not end when it is asked to
	Result *supervisor.Exit // it says last
	Stderr string
	Code   int // it ends with
	Die    bool
}

// TestMain is also the supervisor, the worker, and a server that launches a supervisor and ends.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	var err error
	switch os.Args[1] {
	case "supervise":
		err = supervisor.Supervise(supervisor.Options{
			Dir: os.Args[2], Order: os.Stdin, Worker: []string{os.Args[0], "work"}, Now: time.Now,
			Beat: 20 * time.Millisecond, Grace: 300 * time.Millisecond,
			Mask: func(values []string) func(string) string {
				return func(text string) string {
					for _, v := range values {
						text = strings.ReplaceAll(text, v, "***")
					}
					return text
				}
			},
		})
	case "work":
		err = work()
	case "launch":
		err = launcher().Launch(os.Args[2], order(script{Lines: []string{"one"}, Made: os.Args[2] + ".made", File: os.Args[2] + ".go", Result: ok()}))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work() error {
	var s script
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(background(), syscall.SIGTERM)
	defer stop()
	r := supervisor.NewReporter(os.Stdout)
	for _, text := range s.Lines {
		r.Send(supervisor.Frame{Line: &logfile.Line{Text: text}})
	}
	for i := range s.Big {
		r.Send(supervisor.Frame{Line: &logfile.Line{Text: fmt.Sprintf("%d %s", i, strings.Repeat("x", 1024))}})
	}
	r.Send(supervisor.Frame{Build: json.RawMessage(`{"kind":"note"}`)})
	fmt.Fprint(os.Stderr, s.Stderr)
	if s.Made != "" {
		if err := os.WriteFile(s.Made, nil, 0o600); err != nil {
			return err
		}
	}
	for s.File != "" && !exists(s.File) {
		if ctx.Err() != nil && !s.Deaf {
			r.Send(supervisor.Frame{Exit: &supervisor.Exit{Status: pipeline.Canceled, Class: pipeline.ClassCanceled}})
			return r.Err()
		}
		time.Sleep(time.Millisecond)
	}
	if s.Result != nil {
		r.Send(supervisor.Frame{Exit: s.Result})
	}
	if s.Die {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if s.Code != 0 {
		os.Exit(s.Code)
	}
	return r.Err()
}

func ok() *supervisor.Exit {
	return &supervisor.Exit{Status: pipeline.Succeeded, Output: pipeline.Output{Image: "i", Digest: "d"}}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

func launcher() *supervisor.Launcher {
	return &supervisor.Launcher{Command: []string{os.Args[0], "supervise"}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func order(s script) supervisor.Order {
	work, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return supervisor.Order{Work: work, Mask: []string{"hunter2"}}
}

// launch starts an attempt, and returns its folder.
func launch(t *testing.T, o supervisor.Order) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "attempts", "1")
	l := launcher()
	if err := l.Launch(dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := supervisor.Kill(dir); err != nil {
			t.Error(err)
		}
		l.Reap()
	})
	return dir
}

// await looks until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func look(t *testing.T, dir string) supervisor.State {
	t.Helper()
	s, err := supervisor.Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ended waits for the end, and returns the exit record, nil when there is none.
func ended(t *testing.T, dir string) *supervisor.Exit {
	t.Helper()
	var s supervisor.State
	await(t, "it ends", func() bool { s = look(t, dir); return !s.Alive })
	return s.Exit
}

func lines(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile(supervisor.LogFile(dir, store.LogStream))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for record := range strings.Lines(string(data)) {
		l, err := logfile.Decode([]byte(record))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Text)
	}
	return out
}

func TestEnds(t *testing.T) {
	t.Parallel()
	failure := &supervisor.Exit{Status: pipeline.Failed, Class: pipeline.ClassUser, Error: "RUN false", Hint: "do not", ExitCode: 1}
	for _, tt := range []struct {
		name   string
		script script
		limit  time.Duration
		status pipeline.Status
		class  pipeline.Class
		err    string
	}{
		{"success", script{Result: ok()}, 0, pipeline.Succeeded, "", ""},
		{"failure", script{Result: failure, Code: 3}, 0, pipeline.Failed, pipeline.ClassUser, "RUN false"},
		{"says nothing", script{}, 0, pipeline.Failed, pipeline.ClassInfrastructure, "without saying how"},
		{"says success and ends badly", script{Result: ok(), Code: 1}, 0, pipeline.Failed, pipeline.ClassInfrastructure, "exit status 1"},
		{"says success and is killed", script{Result: ok(), Die: true}, 0, pipeline.Failed, pipeline.ClassInfrastructure, "killed"},
		{"panics", script{Stderr: "panic: hunter2 is out", Code: 2}, 0, pipeline.Failed, pipeline.ClassInfrastructure, "it said last: panic: *** is out"},
		{"hangs", script{File: "/none", Deaf: true}, 50 * time.Millisecond, pipeline.Failed, pipeline.ClassTimeout, "its time was over"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.script.Lines = []string{"one", "two"}
			o := order(tt.script)
			o.Limit = tt.limit
			dir := launch(t, o)
			exit := ended(t, dir)
			if exit == nil {
				t.Fatal("there is no exit record")
			}
			if exit.Status != tt.status || exit.Class != tt.class || !strings.Contains(exit.Error, tt.err) || exit.FinishedAt.IsZero() {
				t.Errorf("it ended as %+v", exit)
			}
			if got := lines(t, dir); !slices.Equal(got, tt.script.Lines) {
				t.Errorf("the log has %q", got)
			}
			build, err := os.ReadFile(supervisor.LogFile(dir, store.BuildStream))
			if err != nil || string(build) != "{\"kind\":\"note\"}\n" {
				t.Errorf("the events are %q, %v", build, err)
			}
			if err := supervisor.Clean(dir); err != nil {
				t.Fatal(err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 2 {
				t.Errorf("Clean left %v, %v", left, err)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf %v", deaf), func(t *testing.T) {
			t.Parallel()
			made := filepath.Join(t.TempDir(), "made")
			dir := launch(t, order(script{Made: made, File: "/none", Deaf: deaf}))
			await(t, "it works", func() bool { return exists(made) })
			for range 2 {
				if err := supervisor.Cancel(dir, supervisor.CancelOrder{Class: pipeline.ClassSuperseded, Reason: "superseded by run 7"}); err != nil {
					t.Fatal(err)
				}
			}
			exit := ended(t, dir)
			if exit == nil || exit.Status != pipeline.Canceled || exit.Class != pipeline.ClassSuperseded || exit.Error != "superseded by run 7" {
				t.Errorf("it ended as %+v", exit)
			}
			if err := supervisor.Cancel(dir, supervisor.CancelOrder{}); err != nil {
				t.Errorf("Cancel after the end: %v", err)
			}
		})
	}
}

// TestForeignSignal shows that ending a supervisor's worker behind the service's back is no cancel of the user's.
func TestForeignSignal(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	dir := launch(t, order(script{Made: made, File: "/none"}))
	await(t, "it works", func() bool { return exists(made) })
	if err := syscall.Kill(pids(t, dir).PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := ended(t, dir); exit == nil || exit.Status != pipeline.Failed || exit.Class != pipeline.ClassInfrastructure {
		t.Errorf("it ended as %+v", exit)
	}
}

type processes struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func pids(t *testing.T, dir string) processes {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "supervisor.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p processes
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// child is the number of a process's one child.
func child(t *testing.T, pid int) string {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range threads {
		children, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if pid := strings.TrimSpace(string(children)); pid != "" {
			return pid
		}
	}
	t.Fatalf("process %d has no child", pid)
	return ""
}

func TestKilledSupervisor(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	dir := launch(t, order(script{Made: made, File: "/none", Deaf: true}))
	await(t, "it works", func() bool { return exists(made) })
	worker := child(t, pids(t, dir).PID)
	if s := look(t, dir); !s.Alive || s.Exit != nil {
		t.Errorf("while it works it is %+v", s)
	}
	if err := supervisor.Kill(dir); err != nil {
		t.Fatal(err)
	}
	if exit := ended(t, dir); exit != nil {
		t.Errorf("a killed supervisor left the record %+v", exit)
	}
	await(t, "the worker dies with it", func() bool {
		stat, err := os.ReadFile("/proc/" + worker + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if err := supervisor.Kill(dir); err != nil {
		t.Errorf("Kill of what is gone: %v", err)
	}
}

// TestOutlives has a server that starts an attempt and is gone before it ends.
func TestOutlives(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "attempt")
	if out, err := exec.CommandContext(t.Context(), os.Args[0], "launch", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if s := look(t, dir); !s.Alive {
		t.Fatalf("after its server has ended it is %+v", s)
	}
	await(t, "it works", func() bool { return exists(dir + ".made") })
	if err := os.WriteFile(dir+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := ended(t, dir); exit == nil || exit.Status != pipeline.Succeeded || exit.Output.Digest != "d" {
		t.Errorf("it ended as %+v", exit)
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	dir := launch(t, order(script{Made: made, File: "/none"}))
	await(t, "it works", func() bool { return exists(made) })
	if err := syscall.Kill(pids(t, dir).PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "it is silent", func() bool { s := look(t, dir); return s.Alive && s.Silent > 200*time.Millisecond })
	if err := supervisor.Kill(dir); err != nil { // that works on what is stopped, too
		t.Fatal(err)
	}
	ended(t, dir)
}

// TestNumbersAreUsedAgain shows that a process which got the number of a supervisor is left alone.
func TestNumbersAreUsedAgain(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	dir := launch(t, order(script{Made: made, File: "/none"}))
	await(t, "it works", func() bool { return exists(made) })
	real := pids(t, dir)
	bystander := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	other := real
	other.PID = bystander.Process.Pid
	data, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "supervisor.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Kill(dir); err != nil {
		t.Error(err)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander: %v", err)
	}
	_ = bystander.Process.Kill()
	_ = bystander.Wait()
	if err := syscall.Kill(real.PID, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	ended(t, dir)
}

func TestLaunchTwice(t *testing.T) {
	t.Parallel()
	dir := launch(t, order(script{Result: ok()}))
	if err := launcher().Launch(dir, order(script{})); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Launch: %v, want errs.Unavailable", err)
	}
	if s := look(t, filepath.Join(dir, "none")); s.Alive || s.Exit != nil {
		t.Errorf("an attempt that never began is %+v", s)
	}
}

// TestFullDisk runs an attempt on a small file system that it fills with its log.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "attempts", "1")
	if err := launcher().Launch(dir, order(script{Lines: []string{"first"}, Big: 2000, Result: ok()})); err != nil {
		t.Fatal(err)
	}
	exit := ended(t, dir)
	if exit == nil || exit.Status != pipeline.Succeeded {
		t.Fatalf("it ended as %+v", exit)
	}
	got := lines(t, dir) // whole records, from the first on, and at the end what is missing
	last := got[len(got)-1]
	if len(got) < 100 || got[0] != "first" || len(got) > 1000 || !strings.Contains(last, "are missing here: the disk was full") {
		t.Errorf("the log has %d lines, from %.20q to %q", len(got), got[0], last)
	}
}
