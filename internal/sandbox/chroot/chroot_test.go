package chroot_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/layer"
	"slipway/internal/sandbox"
	"slipway/internal/sandbox/chroot"
	"slipway/internal/snapshot"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// draft is a folder to fill.
type draft struct{ dir string }

func (d draft) ID() snapshot.ID                           { return "" }
func (d draft) Dir() string                               { return filepath.Join(d.dir, "upper") }
func (d draft) Work() string                              { return filepath.Join(d.dir, "work") }
func (d draft) Publish(context.Context, oci.Digest) error { return nil }
func (d draft) Discard() error                            { return os.RemoveAll(d.dir) }

// machine is an engine, a base layer with busybox, and what runs have said.
type machine struct {
	*chroot.Engine
	lower []string // top first
	roots []draft
}

func newDraft(t testing.TB) draft {
	t.Helper()
	d := draft{t.TempDir()}
	for _, dir := range []string{d.Dir(), d.Work()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: changes the root")
	}
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{}
	m.Engine = chroot.New(func(context.Context) (snapshot.Draft, error) {
		d := newDraft(t)
		m.roots = append(m.roots, d)
		return d, nil
	})
	base := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(base, "bin"), 0o755), os.WriteFile(filepath.Join(base, "bin/busybox"), data, 0o755)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if name != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(base, "bin", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.lower = []string{base}
	return m
}

// try runs a script on the layers.
func (m *machine) try(t testing.TB, script string, change ...func(*sandbox.Spec)) (sandbox.Result, string, draft, error) {
	t.Helper()
	d := newDraft(t)
	var out bytes.Buffer
	s := &sandbox.Spec{
		Lower: m.lower, Upper: d.Dir(), Work: d.Work(), Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"},
		Stdout: &out, Stderr: &out,
	}
	for _, f := range change {
		f(s)
	}
	res, err := m.Run(t.Context(), s)
	return res, out.String(), d, err
}

// run is try for what succeeds; the layer goes on top of the others. It returns the output and the layer's files.
func (m *machine) run(t testing.TB, script string, change ...func(*sandbox.Spec)) (string, []string) {
	t.Helper()
	res, out, d, err := m.try(t, script, change...)
	if err != nil || res.ExitCode != 0 {
		t.Fatalf("script %q: exit %d, %v\n%s", script, res.ExitCode, err, out)
	}
	m.lower = append([]string{d.Dir()}, m.lower...)
	var files []string
	for f, err := range layer.Upper(t.Context(), d.Dir()) {
		if err != nil {
			t.Fatal(err)
		}
		name := f.Path
		switch {
		case f.Whiteout:
			name = "-" + name
		case f.Hard:
			name += "=" + f.Link
		}
		files = append(files, name)
	}
	return out, files
}

func TestLayersOfRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, step := range []struct {
		script string
		want   []string
	}{
		{"mkdir -p /a/b; echo 1 > /a/b/c; echo 2 > /a/d; ln /a/d /a/e; ln -s d /a/l", []string{"a", "a/b", "a/b/c", "a/d", "a/e=a/d", "a/l"}},
		{"true", nil},
		{"cat /a/d > /dev/null; ls -R / > /dev/null", nil},
		{"chmod 600 /a/b/c", []string{"a", "a/b", "a/b/c"}},
		{"rm -r /a/b; touch /f", []string{"a", "-a/b", "f"}},
		{"rm /a/d; rm -r /a/l; mkdir /a/l", []string{"a", "-a/d", "a/e", "a/l"}},
		{"mv /f /g; touch /proc/x /dev/x /sys/x", []string{"-f", "g"}},
		{"cp /g /h; touch -d '2001-01-01 00:00:00' /g", []string{"g", "h"}},
	} {
		if _, got := m.run(t, step.script); !cmp.Equal(step.want, got) {
			t.Errorf("%s: mismatch (-want +got):\n%s", step.script, cmp.Diff(step.want, got))
		}
	}
	if len(m.roots) != 1 {
		t.Errorf("%d private roots were made, want one for all runs", len(m.roots))
	}
}

// A layer that comes from elsewhere, as a COPY's does, is laid over the root that the last run left.
func TestLayersOfOthers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run(t, "mkdir /a; echo 1 > /a/1; echo 2 > /a/2; mkdir /b; echo 3 > /b/3; mkdir -m 700 /c")
	other := newDraft(t)
	files := []layer.File{
		{Entry: layer.Entry{Path: "a", Mode: os.ModeDir | 0o711}},
		{Entry: layer.Entry{Path: "a/1", Whiteout: true}},
		{Entry: layer.Entry{Path: "b", Mode: os.ModeDir | 0o755, Opaque: true}},
		{Entry: layer.Entry{Path: "c", Mode: os.ModeSymlink | 0o777, Link: "a"}},
	}
	err := layer.Place(t.Context(), other.Dir(), func(yield func(layer.File, error) bool) {
		for _, f := range files {
			if !yield(f, nil) {
				return
			}
		}
	}, layer.PlaceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.lower = append([]string{other.Dir()}, m.lower...)
	if got, _ := m.run(t, "stat -c %a /a; ls /a /b /c/"); got != "711\n/a:\n2\n\n/b:\n\n/c/:\n2\n" || len(m.roots) != 1 {
		t.Errorf("with %d roots: %q", len(m.roots), got)
	}
}

func TestMountsAndFiles(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run(t, "mkdir -p /etc /real; echo old > /etc/hosts; ln -s /real /link; mkdir /src; echo own > /src/own")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("shown\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	furnish := func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{
			{Type: sandbox.MountOverlay, Lower: []string{dir}, Source: "/", Target: "/src"},
			{Type: sandbox.MountOverlay, Lower: []string{dir}, Source: "/file", Target: "/one", ReadOnly: true},
			{Type: sandbox.MountBind, Source: cache, Target: "/link/cache"},
			{Type: sandbox.MountTmpfs, Target: "/tmp/t"},
		}
		s.Files = []sandbox.File{
			{Target: "/etc/hosts", Data: []byte("new\n")},
			{Target: "/run/secrets/s", Data: []byte("hush\n"), Mode: 0o400},
		}
	}
	out, got := m.run(t, `cat /src/file /one /etc/hosts /run/secrets/s; stat -c %a /tmp/t /run/secrets/s
		echo kept >> /link/cache/f; echo lost > /src/x; echo lost > /tmp/t/x; echo lost >> /etc/hosts; echo r > /real/r`, furnish)
	if want := "shown\nshown\nnew\nhush\n1777\n400\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if want := []string{"real", "real/r"}; !cmp.Equal(want, got) {
		t.Errorf("layer: %v, want %v", got, want)
	}
	if data, err := os.ReadFile(filepath.Join(cache, "f")); string(data) != "kept\n" {
		t.Errorf("cache holds %q, %v", data, err)
	}
	out, got = m.run(t, `cat /etc/hosts /src/own; ls -d /run /one /tmp /real/* 2>/dev/null || true`)
	if want := "old\nown\n/real/r\n"; out != want || got != nil {
		t.Errorf("after it: %q and layer %v, want %q and none", out, got, want)
	}
}

// What the command does to the places themselves is not followed: not by way of links, and not out of the root.
func TestHostilePlaces(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	outside := t.TempDir()
	cache := filepath.Join(outside, "data")
	if err := os.Mkdir(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	_, got := m.run(t, `rm -rf /etc /m; ln -s `+outside+` /etc; ln -s `+outside+` /m`, func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: cache, Target: "/m/cache"}}
		s.Files = []sandbox.File{{Target: "/etc/hosts", Data: []byte("x")}}
	})
	if want := []string{"etc", "m"}; !cmp.Equal(want, got) {
		t.Errorf("layer: %v, want %v", got, want)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 2 || list[0].Name() != "data" || list[1].Name() != "data.moving" {
		t.Errorf("outside there is %v, %v", list, err)
	}
}

func TestEscapes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	got, _ := m.run(t, `mkdir /x; for c in "chroot /x true" "mknod /d b 8 0" "mount -t tmpfs none /x" "unshare -m true" "hostname elsewhere"; do
		$c 2>/dev/null && echo "allowed: $c"; done; ls /proc; true`)
	if got != "" {
		t.Error(got)
	}
}

func TestNothingOutlivesTheCommand(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	_, got := m.run(t, `(setsid sh -c '(while :; do echo x >> /log; sleep 0.01; done) &' &); while ! [ -s /log ]; do sleep 0.01; done`)
	if want := []string{"log"}; !cmp.Equal(want, got) {
		t.Errorf("layer: %v, want %v", got, want)
	}
	size := func() int64 {
		info, err := os.Stat(filepath.Join(m.roots[0].Dir(), "root/log"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	time.Sleep(50 * time.Millisecond) // that something does not happen cannot be waited for
	if after := size(); after != before {
		t.Errorf("somebody still writes: %d bytes, then %d", before, after)
	}
}

func TestCancelKillsEverything(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	d := newDraft(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	failed := make(chan error)
	go func() {
		_, err := m.Run(ctx, &sandbox.Spec{
			Lower: m.lower, Upper: d.Dir(), Work: d.Work(), Env: []string{"PATH=/bin"}, Stdout: write,
			Args: []string{"sh", "-c", "(setsid sleep 1000 &); echo up; sleep 1000"},
		})
		failed <- errors.Join(err, write.Close())
	}()
	if _, err := read.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	cancel(stop)
	if err := <-failed; !errors.Is(err, stop) {
		t.Errorf("Run = %v, want the cause", err)
	}
	if _, err := read.Read(make([]byte, 8)); err == nil { // the newline; then the end, when no process has the pipe
		_, err = read.Read(make([]byte, 8))
		if err == nil {
			t.Error("somebody still has the output open")
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for name, change := range map[string]func(*sandbox.Spec){
		"network":  func(s *sandbox.Spec) { s.Network = sandbox.NetworkNone },
		"insecure": func(s *sandbox.Spec) { s.Insecure = true },
		"device":   func(s *sandbox.Spec) { s.Devices = make([]sandbox.Device, 1) },
		"root":     func(s *sandbox.Spec) { s.Root = "/tmp" },
	} {
		if _, _, _, err := m.try(t, "true", change); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}
