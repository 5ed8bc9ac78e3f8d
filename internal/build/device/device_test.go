package device_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build/device"
	"slipway/internal/errs"
	"slipway/internal/sandbox"
)

const gpus = `
cdiVersion: "0.7.0"
kind: vendor.com/gpu
annotations:
  org.mobyproject.buildkit.device.autoallow: "true"
containerEdits:
  env: [DRIVER=1]
  mounts:
  - {hostPath: /lib/driver, containerPath: /usr/lib/driver, options: [ro, nosuid, noexec, rbind]}
  - {hostPath: none, containerPath: /run/driver, type: tmpfs}
devices:
- name: "1"
  containerEdits:
    deviceNodes: [{path: /dev/gpu1, hostPath: /dev/null, permissions: rw}]
- name: "0"
  annotations:
    org.mobyproject.buildkit.device.autoallow: "false"
  containerEdits:
    additionalGids: [44]
    env: [GPU=0]
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/zero, uid: 5, gid: 6, fileMode: 416}
    - {path: /dev/disk, type: b, major: 8, minor: 1}
`

const others = `{
  "cdiVersion": "0.6.0", "kind": "other.org/card",
  "devices": [
    {"name": "a", "annotations": {"org.mobyproject.buildkit.device.class": "sound"}, "containerEdits": {"env": ["A=1"]}},
    {"name": "b", "annotations": {"org.mobyproject.buildkit.device.class": "sound"}, "containerEdits": {"env": ["B=1"]}},
    {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
    {"name": "reader", "containerEdits": {"deviceNodes": [{"path": "/dev/r", "hostPath": "/dev/null", "permissions": "r"}]}},
    {"name": "nothing", "containerEdits": {"deviceNodes": [{"path": "/dev/n", "hostPath": "/dev/null", "permissions": "none"}]}},
    {"name": "pipe", "containerEdits": {"deviceNodes": [{"path": "/dev/p", "type": "p"}]}},
    {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/gone", "hostPath": "/nowhere/gone"}]}},
    {"name": "odd", "containerEdits": {"mounts": [{"hostPath": "/x", "containerPath": "/x", "options": ["idmap"]}]}},
    {"name": "nfs", "containerEdits": {"mounts": [{"hostPath": "x:/", "containerPath": "/x", "type": "nfs"}]}},
    {"name": "unsure", "annotations": {"org.mobyproject.buildkit.device.autoallow": "perhaps"}, "containerEdits": {"env": ["U=1"]}}
  ]
}`

func store(t *testing.T) *device.Store {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"gpus.yaml": gpus, "others.json": others, "README": "no spec"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return device.Open([]string{dir})
}

func TestFind(t *testing.T) {
	t.Parallel()
	s := store(t)
	for name, want := range map[string]string{
		"vendor.com/gpu=0":   "vendor.com/gpu=0",
		"vendor.com/gpu":     "vendor.com/gpu=0",
		"vendor.com/gpu=*":   "vendor.com/gpu=0 vendor.com/gpu=1",
		"vendor.com/gpu=2":   "",
		"vendor.com/gp":      "",
		"other.org/card=a":   "other.org/card=a",
		"sound":              "other.org/card=a other.org/card=b",
		"":                   "",
		"silence":            "",
		"vendor.com/gpu=0=0": "",
	} {
		got, err := s.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("Find(%q) = %v, want %s", name, got, want)
		}
	}
}

func TestAutoAllowed(t *testing.T) {
	t.Parallel()
	s := store(t)
	for name, want := range map[string]bool{"vendor.com/gpu=0": false, "vendor.com/gpu=1": true, "other.org/card=a": false, "x.y/z=0": false} {
		if got, err := s.AutoAllowed(name); err != nil || got != want {
			t.Errorf("AutoAllowed(%q) = %t, %v, want %t", name, got, err, want)
		}
	}
	if _, err := s.AutoAllowed("other.org/card=unsure"); !errors.Is(err, errs.Invalid) {
		t.Errorf("AutoAllowed of a spec that says perhaps = %v, want an errs.Invalid", err)
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	got, err := store(t).Edits([]string{"vendor.com/gpu=1", "vendor.com/gpu=0"}, 1000, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := device.Edits{
		Env: []string{"DRIVER=1", "GPU=0"},
		Mounts: []sandbox.Mount{
			{Type: sandbox.MountTmpfs, Target: "/run/driver"},
			{Type: sandbox.MountBind, Source: "/lib/driver", Target: "/usr/lib/driver", ReadOnly: true, NoSUID: true, NoExec: true},
		},
		Nodes: []sandbox.Device{
			{Path: "/dev/gpu1", Source: "/dev/null", Major: 1, Minor: 3, Mode: 0o666, UID: 1000, GID: 100},
			{Path: "/dev/gpu0", Source: "/dev/zero", Major: 1, Minor: 5, Mode: 0o640, UID: 5, GID: 6},
			{Path: "/dev/disk", Source: "/dev/disk", Block: true, Major: 8, Minor: 1, UID: 1000, GID: 100},
		},
		Groups: []uint32{44},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Edits mismatch (-want +got):\n%s", diff)
	}
}

func TestEditsThatNoSandboxCanDo(t *testing.T) {
	t.Parallel()
	s := store(t)
	for name, want := range map[string]string{
		"hooked":  "its CDI spec asks for hooks to be run, which slipway does not do",
		"reader":  `node /dev/r: permissions "r": slipway cannot give less than rw`,
		"nothing": `node /dev/n: permissions "": slipway cannot give less than rw`,
		"pipe":    `node /dev/p: type "p" is no device's`,
		"odd":     `mount /x: option "idmap" is not supported`,
		"nfs":     `mount /x: type "nfs" is not supported`,
		"gone":    `/nowhere/gone`,
	} {
		_, err := s.Edits([]string{"other.org/card=" + name}, 0, 0)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "devices other.org/card="+name+": ") {
			t.Errorf("Edits(%s) = %v, want %s", name, err, want)
		}
	}
}

// A name that is not there, and why that may be.
func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte("kind: nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := device.Open([]string{dir, "/nowhere"}).Missing("a.b/c=d")
	want := `device "a.b/c=d" is described by no CDI spec in ` + dir + " or /nowhere: not found; " + dir + "/bad.yaml cannot be read: "
	if !errors.Is(err, errs.NotFound) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Missing = %v, want %s", err, want)
	}
}
