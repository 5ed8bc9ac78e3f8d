package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/isolation/isolationtest"
	"slipway/internal/sandbox"
)

// Devices work where they are put, in /dev and outside, also for others than root, and leave nothing in the layer.
func TestMountDevices(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	nodes := []sandbox.Device{
		{Path: "/dev/deep/hole", Source: "/dev/null", Major: 1, Minor: 3},
		{Path: "/srv/zero", Source: "/dev/zero", Major: 1, Minor: 5},
		{Path: "/dev/full", Source: "/dev/null", Major: 1, Minor: 3}, // in place of one that is there
	}
	script := `echo x > /dev/deep/hole && head -c 2 /srv/zero | od -An -tx1; echo y > /dev/full && echo written`
	got := mustRun(t, l, script, func(s *sandbox.Spec) { s.Devices = nodes })
	if want := " 00 00\nwritten\n"; got != want {
		t.Errorf("script prints %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string(nil), tree(t, l.upper)); diff != "" {
		t.Errorf("left in the layer (-want +got):\n%s", diff)
	}
}

// A node that was granted is no licence to make another one like it.
func TestEscapeCopiedDeviceDoesNotWork(t *testing.T) {
	t.Parallel()
	if isolationtest.Way() != "" {
		t.Skip("a user namespace makes no nodes")
	}
	got := mustRun(t, busybox(t), `mknod /copy c 1 5 && head -c 1 /copy 2>&1; head -c 1 /srv/zero | od -An -tx1`, func(s *sandbox.Spec) {
		s.Devices = []sandbox.Device{{Path: "/srv/zero", Source: "/dev/zero", Major: 1, Minor: 5}}
	})
	if want := "head: /copy: Permission denied\n 00\n"; got != want {
		t.Errorf("script prints %q, want %q", got, want)
	}
}

func TestDeviceOwner(t *testing.T) {
	t.Parallel()
	got := mustRun(t, busybox(t), `stat -c '%F %t,%T %a %u:%g' /dev/d /dev/b`, func(s *sandbox.Spec) {
		s.Devices = []sandbox.Device{
			{Path: "/dev/d", Source: "/dev/null", Major: 1, Minor: 3, Mode: 0o640, UID: 7, GID: 8},
			{Path: "/dev/b", Source: "/dev/loop0", Block: true, Major: 7, Minor: 0},
		}
	})
	if want := "character special file 1,3 640 7:8\nblock special file 7,0 666 0:0\n"; got != want {
		t.Errorf("stat prints %q, want %q", got, want)
	}
}

func TestMountNoExec(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("#!/bin/sh\necho runs\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := mustRun(t, busybox(t), `/a/x; /b/x 2>/dev/null || echo refused; grep -c ' /b .*nosuid.*noexec' /proc/self/mountinfo`, func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{
			{Type: sandbox.MountBind, Source: dir, Target: "/a"},
			{Type: sandbox.MountBind, Source: dir, Target: "/b", NoSUID: true, NoExec: true},
		}
	})
	if want := "runs\nrefused\n1\n"; got != want {
		t.Errorf("script prints %q, want %q", got, want)
	}
}

func TestDeviceErrors(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]sandbox.Device{
		`device /dev/d: "null" is not an absolute path`:          {Path: "/dev/d", Source: "null"},
		`mount target "/proc/d": /proc belongs to the sandbox`:   {Path: "/proc/d", Source: "/dev/null"},
		"mount point /bin: one is a folder and the other is not": {Path: "/bin", Source: "/dev/null", Major: 1, Minor: 3},
	} {
		s, _ := busybox(t).script("echo reached")
		s.Devices = []sandbox.Device{d}
		_, err := sandbox.Run(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errs.Invalid) {
			t.Errorf("device %+v: %v, want an errs.Invalid with %s", d, err, want)
		}
	}
}
