package debian_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/debian"
	"slipway/internal/errs"
)

const status = `Package: base-files
Status: install ok installed
Essential: yes
Architecture: amd64
Version: 12
Description: the folders
 over several
 lines

Package: shell
Essential: yes
Status: install ok installed
Architecture: amd64
Version: 1.0-1
Pre-Depends: libc (>= 2.36), no-such-package

Package: libc
Status: install ok installed
Architecture: amd64
Version: 2.36

Package: libc
Status: install ok installed
Architecture: i386
Version: 2.36

Package: tool
Status: install ok installed
Architecture: all
Version: 3
Depends: awk, missing | helper:any (= 1), virtual

Package: helper
Status: install ok installed
Architecture: amd64
Version: 1
Depends: tool

Package: mawk
Status: install ok installed
Architecture: amd64
Version: 1.3
Provides: awk (= 1), virtual

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 9

Package: other
Status: install ok installed
Architecture: amd64
Version: 5
`

// machine makes a small machine: name ends with / for a folder, "-> target" is a link.
func machine(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	dirs := []string{"usr/bin", "usr/lib/node_modules/npm/new", "usr/lib/node_modules/other", "usr/share/doc/tool", "var/lib/dpkg/info", "var/lib/dpkg/alternatives", "etc/alternatives", "etc/apt/sources.list.d", "etc/ssl/certs", "home/user"}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"var/lib/dpkg/status":                   status,
		"var/lib/dpkg/info/base-files.list":     "/.\n/bin\n/usr\n/usr/bin\n/usr/lib\n",
		"var/lib/dpkg/info/shell.list":          "/.\n/bin\n/bin/sh\n/bin/su\n/etc\n/etc/shell.conf\n/etc/shell.key\n/etc/removed.conf\n",
		"var/lib/dpkg/info/libc:amd64.list":     "/lib\n/lib/libc.so.6\n/lib/libc.so\n",
		"var/lib/dpkg/info/libc:amd64.postinst": "#!/bin/sh\n",
		"var/lib/dpkg/info/tool.list":           "/usr/bin/tool\n/usr/bin/tool-alias\n/usr/share/doc/tool/README\n/usr/lib/node_modules/npm/old.js\n",
		"usr/lib/node_modules/npm/old.js":       "its password: from the package",
		"usr/lib/node_modules/npm/new/index.js": "from an update over it, password and all",
		"usr/lib/node_modules/other/index.js":   "the machine's own",
		"var/lib/dpkg/info/mawk.list":           "/usr/bin/mawk\n",
		"var/lib/dpkg/info/other.list":          "/usr/bin/other\n",
		"var/lib/dpkg/alternatives/awk":         "auto\n/usr/bin/awk\nnawk\n/usr/bin/nawk\n\n/usr/bin/mawk\n5\n/usr/bin/mawk\n\n",
		"var/lib/dpkg/alternatives/editor":      "auto\n/usr/bin/editor\n\n/usr/bin/other\n5\n\n",
		"usr/bin/sh":                            "shell",
		"usr/bin/su":                            "su",
		"usr/bin/tool":                          "tool",
		"usr/bin/mawk":                          "mawk",
		"usr/bin/other":                         "other",
		"usr/lib/libc.so.6":                     "libc",
		"usr/share/doc/tool/README":             "read me",
		"etc/shell.conf":                        "conf",
		"etc/shell.key":                         "key",
		"etc/machine-id":                        "the machine's own",
		"etc/passwd":                            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
		"etc/apt/sources.list":                  "deb http://deb.example.org/debian stable main\n",
		"etc/apt/sources.list.d/own.list":       "deb https://user:secret@deb.example.org/debian stable main\n",
		"etc/ssl/certs/ca.pem":                  "certificate",
		"home/user/.ssh":                        "secret",
	} {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "usr/bin") {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "usr/lib/libc.so": "libc.so.6",
		"usr/bin/awk": "/etc/alternatives/awk", "etc/alternatives/awk": "/usr/bin/mawk",
		"usr/bin/nawk": "/etc/alternatives/nawk", "etc/alternatives/nawk": "/usr/bin/mawk",
		"usr/bin/editor": "/etc/alternatives/editor", "etc/alternatives/editor": "/usr/bin/other",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Chmod(filepath.Join(root, "etc/shell.key"), 0o600),
		os.Chmod(filepath.Join(root, "usr/bin/su"), fs.ModeSetuid|0o755),
		os.Link(filepath.Join(root, "usr/bin/tool"), filepath.Join(root, "usr/bin/tool-alias")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t *testing.T, root string) *debian.Database {
	t.Helper()
	db, err := debian.Read(root)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func names(packages []*debian.Package) []string {
	var all []string
	for _, p := range packages {
		all = append(all, p.Name+":"+p.Architecture)
	}
	return all
}

func TestSelect(t *testing.T) {
	t.Parallel()
	db := read(t, machine(t))
	for _, tt := range []struct {
		name string
		want []string
		got  []string
	}{
		{"the essential ones and what they need", []string{"base-files:amd64", "libc:amd64", "shell:amd64"}, nil},
		{"what is not installed is left out", []string{"base-files:amd64", "libc:amd64", "shell:amd64"}, []string{"gone", "nothing"}},
		{
			"alternatives, virtual packages, circles",
			[]string{"base-files:amd64", "helper:amd64", "libc:amd64", "mawk:amd64", "shell:amd64", "tool:all"},
			[]string{"tool"},
		},
	} {
		if diff := cmp.Diff(tt.want, names(db.Select(tt.got))); diff != "" {
			t.Errorf("%s: mismatch (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	db := read(t, machine(t))
	if debian.Key(db.Select(nil)) != debian.Key(db.Select([]string{"gone"})) {
		t.Error("equal selections have different keys")
	}
	if debian.Key(db.Select(nil)) == debian.Key(db.Select([]string{"mawk"})) {
		t.Error("different selections have one key")
	}
}

// list describes every file below dir: its mode, and a link's target.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if strings.HasPrefix(rel, "var/") && e.IsDir() {
			return err
		}
		line := info.Mode().String() + " " + rel
		if info.Mode().Type() == fs.ModeSymlink {
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line = rel + " -> " + target
		}
		all = append(all, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestCopy(t *testing.T) {
	t.Parallel()
	db, dir := read(t, machine(t)), t.TempDir()
	if err := db.Copy(t.Context(), db.Select([]string{"tool"}), dir); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rw-r--r-- etc/apt/sources.list",
		"-rw-r--r-- etc/group",
		"-rw-r--r-- etc/passwd",
		"-rw-r--r-- etc/shell.conf",
		"-rw-r--r-- etc/ssl/certs/ca.pem",
		"-rw-r--r-- usr/lib/libc.so.6",
		"-rw-r--r-- usr/lib/node_modules/npm/new/index.js",
		"-rw-r--r-- usr/lib/node_modules/npm/old.js",
		"-rw-r--r-- var/lib/dpkg/available",
		"-rw-r--r-- var/lib/dpkg/info/base-files.list",
		"-rw-r--r-- var/lib/dpkg/info/libc:amd64.list",
		"-rw-r--r-- var/lib/dpkg/info/libc:amd64.postinst",
		"-rw-r--r-- var/lib/dpkg/info/mawk.list",
		"-rw-r--r-- var/lib/dpkg/info/shell.list",
		"-rw-r--r-- var/lib/dpkg/info/tool.list",
		"-rw-r--r-- var/lib/dpkg/status",
		"-rwxr-xr-x usr/bin/mawk",
		"-rwxr-xr-x usr/bin/sh",
		"-rwxr-xr-x usr/bin/su",
		"-rwxr-xr-x usr/bin/tool",
		"-rwxr-xr-x usr/bin/tool-alias",
		"bin -> usr/bin",
		"drwx------ root",
		"drwxr-xr-x etc",
		"drwxr-xr-x etc/alternatives",
		"drwxr-xr-x etc/apt",
		"drwxr-xr-x etc/apt/sources.list.d",
		"drwxr-xr-x etc/ssl",
		"drwxr-xr-x etc/ssl/certs",
		"drwxr-xr-x usr",
		"drwxr-xr-x usr/bin",
		"drwxr-xr-x usr/lib",
		"drwxr-xr-x usr/lib/node_modules",
		"drwxr-xr-x usr/lib/node_modules/npm",
		"drwxr-xr-x usr/lib/node_modules/npm/new",
		"drwxr-xr-x var",
		"dtrwxrwxrwx tmp",
		"etc/alternatives/awk -> /usr/bin/mawk",
		"etc/alternatives/nawk -> /usr/bin/mawk",
		"lib -> usr/lib",
		"usr/bin/awk -> /etc/alternatives/awk",
		"usr/bin/nawk -> /etc/alternatives/nawk",
		"usr/lib/libc.so -> libc.so.6",
	}
	got := slices.DeleteFunc(list(t, dir), func(s string) bool { return s == "drwxr-xr-x var" })
	want = slices.DeleteFunc(want, func(s string) bool { return s == "drwxr-xr-x var" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("copy mismatch (-want +got):\n%s", diff)
	}
	a, err := os.Stat(filepath.Join(dir, "usr/bin/tool"))
	b, errB := os.Stat(filepath.Join(dir, "usr/bin/tool-alias"))
	if err != nil || errB != nil || !os.SameFile(a, b) {
		t.Errorf("a file with two names is not one any more: %v, %v", err, errB)
	}
	passwd, err := os.ReadFile(filepath.Join(dir, "etc/passwd"))
	if err != nil || strings.Contains(string(passwd), "user") || !strings.Contains(string(passwd), "_apt") {
		t.Errorf("accounts: %s, %v", passwd, err)
	}
	again := read(t, dir)
	if diff := cmp.Diff(names(db.Select([]string{"tool"})), names(again.Select([]string{"tool", "other"}))); diff != "" {
		t.Errorf("packages of the copy mismatch (-want +got):\n%s", diff)
	}
}

// A link of the machine that leads out of it is copied as a link, and nothing is written through it.
func TestCopyStaysInside(t *testing.T) {
	t.Parallel()
	root, outside, dir := machine(t), t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "usr/out")); err != nil {
		t.Fatal(err)
	}
	lists := "/usr/out/escaped\n/../../escaped\n"
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/info/other.list"), []byte(lists), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "escaped"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := read(t, root)
	if err := db.Copy(t.Context(), db.Select([]string{"other"}), dir); err != nil {
		t.Fatal(err)
	}
	for _, line := range list(t, dir) {
		if strings.Contains(line, "escaped") {
			t.Errorf("copied %s", line)
		}
	}
}

func TestNoDebian(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if _, err := debian.Read(root); !errors.Is(err, errs.NotFound) {
		t.Errorf("Read: %v, want errs.NotFound", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte("\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := debian.Read(root); !errors.Is(err, errs.NotFound) {
		t.Errorf("Read of nothing: %v, want errs.NotFound", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(status)
	f.Add("Package: a\nStatus: install ok installed\nDepends: |,(,a:|b ((\n Provides\n\n\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := debian.Read(root); err == nil {
			debian.Key(db.Select([]string{"a"}))
		}
	})
}
