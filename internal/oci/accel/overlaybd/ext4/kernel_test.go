package ext4_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/internal/oci/layer"
)

// mount lets the kernel mount what is on a disk, and returns where.
func mount(t testing.TB, d *disk, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "ro,loop", d.flat(t, size), dir).CombinedOutput()
	if err != nil {
		if text := string(out); strings.Contains(text, "loop") || strings.Contains(text, "unknown filesystem") || strings.Contains(text, "permission denied") {
			t.Skipf("needs loop devices and ext4: %s", text)
		}
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestKernel compares what the kernel reads with what this package reads, file by file.
func TestKernel(t *testing.T) {
	t.Parallel()
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	attrs := entry{tar.Header{Typeflag: tar.TypeReg, Name: "attributes", Mode: 0o4711, Uid: 70_000, Gid: 1 << 31, PAXRecords: map[string]string{
		"SCHILY.xattr.user.small": "v", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.system.posix_acl_access": acl, "SCHILY.xattr.trusted.t": strings.Repeat("t", 1000), "SCHILY.xattr.user.none": "",
	}}, []byte("x")}
	entries := []entry{
		dir("d"), file("d/f", strings.Repeat("content ", 2000)), file("empty", ""), symlink("s", "d/f"), symlink("long", strings.Repeat("x", 300)), link("hard", "d/f"),
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 259, Devminor: 300_000}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}},
		attrs,
		{tar.Header{Typeflag: tar.TypeReg, Name: "fragments", Mode: 0o600}, fragmented(31)},
		{tar.Header{Typeflag: tar.TypeReg, Name: "noise", Mode: 0o600}, noise(3 << 20)},
		file("deleted", "x"), file("replaced", "x"),
	}
	for i := range 300 {
		entries = append(entries, file("many/"+strings.Repeat("n", i%200)+string(rune('a'+i%26)), strings.Repeat("y", i*11)))
	}
	d, size := build(t, pack(t, entries...), pack(t, whiteout("deleted"), file("replaced", "other"), file("many/new", "new"), link("d/again", "hard")))
	root := mount(t, d, size)
	count := 0
	for _, f := range files(t, d) {
		compare(t, root, f)
		count++
	}
	for path := range walk(t, root) {
		if path == "lost+found" {
			t.Error("there is a folder lost+found")
		}
		count--
	}
	if count != 0 {
		t.Errorf("%d files more than the kernel sees", count)
	}
}

func walk(t *testing.T, root string) map[string]bool {
	found := map[string]bool{}
	if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		found[strings.TrimPrefix(path, root+"/")] = true
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// compare compares a file with what the kernel says of it.
func compare(t *testing.T, root string, f layer.File) {
	path := filepath.Join(root, f.Path)
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if f.Hard {
		other, err := os.Lstat(filepath.Join(root, f.Link))
		if err != nil || !os.SameFile(info, other) {
			t.Errorf("%s is not the same file as %s: %v", f.Path, f.Link, err)
		}
		return
	}
	if info.Mode() != f.Mode || int(st.Uid) != f.UID || int(st.Gid) != f.GID || !info.ModTime().Equal(f.ModTime) {
		t.Errorf("%s: kernel says %v %d:%d %v, want %v %d:%d %v", f.Path, info.Mode(), st.Uid, st.Gid, info.ModTime(), f.Mode, f.UID, f.GID, f.ModTime)
	}
	if unix.Major(st.Rdev) != f.Major || unix.Minor(st.Rdev) != f.Minor {
		t.Errorf("%s: device %d:%d, want %d:%d", f.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), f.Major, f.Minor)
	}
	switch {
	case f.IsRegular():
		got, err := os.ReadFile(path)
		if want := content(t, f); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%s: content differs: %v", f.Path, err)
		}
	case f.Link != "":
		if got, err := os.Readlink(path); err != nil || got != f.Link {
			t.Errorf("%s: link to %q, %v; want %q", f.Path, got, err, f.Link)
		}
	}
	list := make([]byte, 10_000)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Errorf("%s: %v", f.Path, err)
	}
	if got := bytes.Count(list[:n], []byte{0}); got != len(f.Xattrs) {
		t.Errorf("%s: %d extended attributes %q, want %d", f.Path, got, list[:n], len(f.Xattrs))
	}
	for key, want := range f.Xattrs {
		value := make([]byte, 10_000)
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s: %s is %q, %v; want %q", f.Path, key, value[:max(n, 0)], err, want)
		}
	}
}
