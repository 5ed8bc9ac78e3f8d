package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/fuse"
)

func reg(content []byte) *fuse.Node {
	return &fuse.Node{
		Mode: unix.S_IFREG | 0o644, Size: int64(len(content)), ModTime: time.Unix(1_700_000_000, 5), UID: 3, GID: 4,
		Read: func(_ context.Context, p []byte, off int64) (int, error) {
			return bytes.NewReader(content).ReadAt(p, off)
		},
	}
}

func dir(children map[string]*fuse.Node) *fuse.Node {
	return &fuse.Node{Mode: unix.S_IFDIR | 0o755, Children: children}
}

// mount shows a tree, or skips the test where that cannot be.
func mount(t *testing.T, root *fuse.Node, opts fuse.Options) (string, *fuse.Server) {
	t.Helper()
	at := t.TempDir()
	s, err := fuse.Mount(t.Context(), at, root, opts)
	if errors.Is(err, errs.Unavailable) {
		t.Skipf("needs root and /dev/fuse: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return at, s
}

func TestFiles(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	many := map[string]*fuse.Node{}
	for i := range 3000 {
		many[fmt.Sprintf("file-with-a-long-name-%04d", i)] = reg(fmt.Appendf(nil, "%d", i))
	}
	opened := atomic.Int64{}
	watched := reg([]byte("watched"))
	watched.Opened = func() { opened.Add(1) }
	linked := reg([]byte("two names"))
	linked.Links = 2
	root := dir(map[string]*fuse.Node{
		"big": reg(big), "empty": reg(nil), "many": dir(many), "watched": watched, "a": linked, "sub": dir(map[string]*fuse.Node{"b": linked}),
		"link": {Mode: unix.S_IFLNK | 0o777, Target: "sub/b", Size: 5}, "gone": {Mode: unix.S_IFCHR, Major: 0, Minor: 0},
		"dev": {Mode: unix.S_IFBLK | 0o600, Major: 259, Minor: 70_000}, "fifo": {Mode: unix.S_IFIFO | 0o600},
		"suid": {Mode: unix.S_IFREG | 0o4711, UID: 100_000},
	})
	root.Xattrs = map[string]string{"trusted.overlay.opaque": "y", "user.empty": "", "user.long": strings.Repeat("x", 3000)}
	at, _ := mount(t, root, fuse.Options{})

	if got, err := os.ReadFile(at + "/big"); err != nil || !bytes.Equal(got, big) {
		t.Errorf("big: %d bytes, %v", len(got), err)
	}
	f, err := os.Open(at + "/big")
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(io.NewSectionReader(f, 1000, 5000), big[1000:6000]); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	names, err := os.ReadDir(at + "/many")
	if err != nil || len(names) != len(many) || names[2999].Name() != "file-with-a-long-name-2999" {
		t.Errorf("many: %d names, %v", len(names), err)
	}
	if got, err := os.ReadFile(at + "/link"); string(got) != "two names" || err != nil {
		t.Errorf("link: %q, %v", got, err)
	}
	for range 2 {
		if _, err := os.ReadFile(at + "/watched"); err != nil {
			t.Error(err)
		}
	}
	if opened.Load() != 2 {
		t.Errorf("watched: opened %d times, want 2", opened.Load())
	}
	checkStat(t, at)
	checkXattrs(t, at)
	if _, err := os.Stat(at + "/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if err := os.WriteFile(at+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
}

func checkStat(t *testing.T, at string) {
	t.Helper()
	type stat struct {
		Mode, UID, GID uint32
		Links          uint64
		Size, Blocks   int64
		Mtime          unix.Timespec
		Rdev           uint64
	}
	get := func(name string) (stat, uint64) {
		var st unix.Stat_t
		if err := unix.Lstat(at+"/"+name, &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return stat{st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Blocks, st.Mtim, st.Rdev}, st.Ino
	}
	for name, want := range map[string]stat{
		"a":    {unix.S_IFREG | 0o644, 3, 4, 2, 9, 1, unix.Timespec{Sec: 1_700_000_000, Nsec: 5}, 0},
		"gone": {unix.S_IFCHR, 0, 0, 1, 0, 0, unix.Timespec{}, 0},
		"dev":  {unix.S_IFBLK | 0o600, 0, 0, 1, 0, 0, unix.Timespec{}, unix.Mkdev(259, 70_000)},
		"suid": {unix.S_IFREG | 0o4711, 100_000, 0, 1, 0, 0, unix.Timespec{}, 0},
		".":    {unix.S_IFDIR | 0o755, 0, 0, 4, 0, 0, unix.Timespec{}, 0},
	} {
		if got, _ := get(name); !cmp.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	_, a := get("a")
	_, b := get("sub/b")
	if a != b {
		t.Errorf("two names of a file have the inodes %d and %d", a, b)
	}
}

func checkXattrs(t *testing.T, at string) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Listxattr(at, buf)
	if err != nil || string(buf[:n]) != "trusted.overlay.opaque\x00user.empty\x00user.long\x00" {
		t.Errorf("attributes %q, %v", buf[:max(n, 0)], err)
	}
	for name, want := range map[string]int{"trusted.overlay.opaque": 1, "user.empty": 0, "user.long": 3000} {
		if n, err := unix.Getxattr(at, name, buf); n != want || err != nil {
			t.Errorf("%s: %d bytes, %v, want %d", name, n, err, want)
		}
	}
	if _, err := unix.Getxattr(at, "user.long", buf[:100]); !errors.Is(err, unix.ERANGE) {
		t.Errorf("into a small buffer: %v, want ERANGE", err)
	}
	if _, err := unix.Getxattr(at, "user.none", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("one that is not there: %v, want ENODATA", err)
	}
}

// TestOverlay stacks a kernel's overlay on two trees.
func TestOverlay(t *testing.T) {
	t.Parallel()
	lower, _ := mount(t, dir(map[string]*fuse.Node{
		"keep": reg([]byte("kept")), "gone": reg([]byte("gone")), "etc": dir(map[string]*fuse.Node{"old": reg(nil)}),
	}), fuse.Options{})
	opaque := dir(map[string]*fuse.Node{"new": reg([]byte("new"))})
	opaque.Xattrs = map[string]string{"trusted.overlay.opaque": "y"}
	upper, _ := mount(t, dir(map[string]*fuse.Node{"gone": {Mode: unix.S_IFCHR}, "etc": opaque}), fuse.Options{})
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+upper+":"+lower); err != nil {
		t.Skipf("needs overlays: %v", err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	var names []string
	err := filepath.WalkDir(at, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, at))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"", "/etc", "/etc/new", "/keep"}, names); diff != "" {
		t.Errorf("names mismatch (-want +got):\n%s", diff)
	}
	if got, err := exec.CommandContext(t.Context(), "cat", at+"/keep", at+"/etc/new").Output(); string(got) != "keptnew" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestReadFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	bad := reg(nil)
	bad.Size = 10
	bad.Read = func(context.Context, []byte, int64) (int, error) { return 0, broken }
	var mu sync.Mutex
	var failed []error
	at, _ := mount(t, dir(map[string]*fuse.Node{"bad": bad}), fuse.Options{Failed: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	}})
	if _, err := os.ReadFile(at + "/bad"); !errors.Is(err, unix.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(failed) == 0 || !errors.Is(failed[0], broken) {
		t.Errorf("told %v", failed)
	}
}

// TestCloseEndsReads closes a mount that somebody reads from.
func TestCloseEndsReads(t *testing.T) {
	t.Parallel()
	slow := reg(nil)
	slow.Size = 10
	reading := make(chan struct{})
	began := sync.OnceFunc(func() { close(reading) })
	slow.Read = func(ctx context.Context, _ []byte, _ int64) (int, error) {
		began()
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}
	at, s := mount(t, dir(map[string]*fuse.Node{"slow": slow}), fuse.Options{})
	read := make(chan error)
	go func() {
		_, err := os.ReadFile(at + "/slow")
		read <- err
	}()
	<-reading
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("the read succeeded")
	}
	if names, err := os.ReadDir(at); len(names) > 0 || err != nil {
		t.Errorf("still mounted: %v, %v", names, err)
	}
}

func TestBadNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", strings.Repeat("x", 256)} {
		_, err := fuse.Mount(t.Context(), t.TempDir(), dir(map[string]*fuse.Node{name: reg(nil)}), fuse.Options{})
		if !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v, want Invalid", name, err)
		}
	}
}
