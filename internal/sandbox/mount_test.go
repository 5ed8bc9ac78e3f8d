package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

// stack makes layer folders, top first, each with files of the same content as their name, or links "name -> target".
func stack(t *testing.T, layers ...[]string) []string {
	t.Helper()
	var dirs []string
	for _, files := range layers {
		dir := t.TempDir()
		for _, f := range files {
			name, target, isLink := strings.Cut(f, " -> ")
			p := filepath.Join(dir, name)
			err := os.MkdirAll(filepath.Dir(p), 0o755)
			if err == nil && isLink {
				err = os.Symlink(target, p)
			} else if err == nil {
				err = os.WriteFile(p, []byte(name+"\n"), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func TestOverlayMounts(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	below := stack(t, []string{"d/top", "abs -> /d", "up -> ../../../bin"}, []string{"d/bottom", "e/f"})
	scratch := emptyLayers(t)
	got := mustRun(t, l, `ls /whole /one /link; cat /file; (echo x > /one/x) 2>/dev/null || echo read-only; echo x > /rw/d/x; ls /rw/d`,
		func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{
				{Type: sandbox.MountOverlay, Lower: below, Source: "/", Target: "/whole", ReadOnly: true},
				{Type: sandbox.MountOverlay, Lower: below[1:], Source: "/d", Target: "/one"},
				{Type: sandbox.MountOverlay, Lower: below, Source: "/abs", Target: "/link", ReadOnly: true},
				{Type: sandbox.MountOverlay, Lower: below, Source: "/e/f", Target: "/file", ReadOnly: true},
				{Type: sandbox.MountOverlay, Lower: below, Source: "/", Target: "/rw", Upper: scratch.upper, Work: scratch.work},
			}
		})
	want := "/link:\nbottom\ntop\n\n/one:\nbottom\n\n/whole:\nabs\nd\ne\nup\ne/f\nread-only\nbottom\ntop\nx\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d/", "d/x"}, tree(t, scratch.upper)); diff != "" {
		t.Errorf("written files mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), tree(t, l.upper)); diff != "" {
		t.Errorf("upper folder mismatch (-want +got):\n%s", diff)
	}
}

// A link in the layers leads where it would lead a process inside them, never to the machine's own files.
func TestOverlayMountStaysInTheLayers(t *testing.T) {
	t.Parallel()
	l := busybox(t)
	below := stack(t, []string{"up -> ../../../etc", "abs -> /etc/passwd"})
	for _, source := range []string{"/up", "/abs", "/none"} {
		s, out := l.script("true")
		s.Mounts = []sandbox.Mount{{Type: sandbox.MountOverlay, Lower: below, Source: source, Target: "/m", ReadOnly: true}}
		if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, errs.NotFound) {
			t.Errorf("mount of %s: %v, want not found; output %q", source, err, out)
		}
	}
}

func TestMountRefusals(t *testing.T) {
	t.Parallel()
	dir := []string{"/layer"}
	for _, m := range []sandbox.Mount{
		{Type: "proc"},
		{Type: sandbox.MountBind},
		{Type: sandbox.MountBind, Source: "relative"},
		{Type: sandbox.MountOverlay, Source: "/"},
		{Type: sandbox.MountOverlay, Source: "/", Lower: []string{"relative"}},
		{Type: sandbox.MountOverlay, Lower: dir},
		{Type: sandbox.MountOverlay, Source: "/", Lower: dir, Upper: "/upper"},
		{Type: sandbox.MountOverlay, Source: "/", Lower: dir, Work: "/work"},
	} {
		m.Target = "/m"
		s := &sandbox.Spec{Root: "/nowhere", Args: []string{"x"}, Mounts: []sandbox.Mount{m}}
		if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, errs.Invalid) {
			t.Errorf("mount %+v: %v, want invalid", m, err)
		}
	}
}

// What an error quotes may be a secret.
func TestErrorsDoNotQuoteVariables(t *testing.T) {
	t.Parallel()
	s := &sandbox.Spec{Root: "/nowhere", Args: []string{"x"}, Env: []string{"S=hush\x00"}}
	if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, errs.Invalid) || strings.Contains(err.Error(), "hush") {
		t.Errorf("Run = %v", err)
	}
}
