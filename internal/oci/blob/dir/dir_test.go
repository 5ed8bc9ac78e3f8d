package dir_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/blob/blobtest"
	"slipway/internal/oci/blob/dir"
)

// TestMain lets the test binary run as the processes that TestRecover kills.
func TestMain(m *testing.M) {
	if root := os.Getenv("BLOB_TEST_WRITER"); root != "" {
		writeAndWait(root)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, root string, opts dir.Options) *dir.Store {
	t.Helper()
	s, err := dir.Open(root, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]dir.Options{"marked": {}, "synced": {Sync: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blobtest.Test(t, func(t *testing.T) blob.Store { return open(t, t.TempDir(), opts) })
		})
	}
}

// TestRestart checks what happens to blobs of another boot of the machine: the good ones are served, the damaged ones
// removed, and each is read only once.
func TestRestart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	before := open(t, root, dir.Options{Boot: "before"})
	good, err := before.Put(t.Context(), []byte("good"))
	if err != nil {
		t.Fatal(err)
	}
	torn, err := before.Put(t.Context(), []byte("torn"))
	if err != nil {
		t.Fatal(err)
	}
	damage(t, before, torn)
	if _, err := before.Stat(t.Context(), torn); err != nil {
		t.Errorf("in the same boot the kernel answers for a blob, but Stat: %v", err)
	}

	var log bytes.Buffer
	after := open(t, root, dir.Options{Boot: "after", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := after.Open(t.Context(), torn); !errors.Is(err, errs.NotFound) {
		t.Errorf("Open of a damaged blob: %v, want not found", err)
	}
	if !strings.Contains(log.String(), torn.String()) {
		t.Errorf("the log does not tell of %s: %q", torn, log.String())
	}
	if path, _ := after.Path(torn); exists(path) {
		t.Error("the damaged blob is still there")
	}
	if size, err := after.Stat(t.Context(), good); err != nil || size != 4 {
		t.Errorf("Stat of a good blob = %d, %v", size, err)
	}
	// It was read back from the disk: no boot has to read it again.
	damage(t, after, good)
	if _, err := open(t, root, dir.Options{Boot: "later"}).Open(t.Context(), good); err != nil {
		t.Errorf("a blob is verified more than once: %v", err)
	}
}

// TestForeignBlob checks that blobs which another program put there are verified too.
func TestForeignBlob(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), dir.Options{})
	d := digest.FromString("content")
	path, err := s.Path(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("other content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), d); !errors.Is(err, errs.NotFound) {
		t.Errorf("Open of a blob with other content: %v, want not found", err)
	}
}

func damage(t *testing.T, s *dir.Store, d oci.Digest) {
	t.Helper()
	path, err := s.Path(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestRecover kills a process that is writing a blob, while this one writes another.
func TestRecover(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root, dir.Options{})
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "BLOB_TEST_WRITER="+root)
	if _, err := cmd.StdinPipe(); err != nil { // stays open while the process is to live
		t.Fatal(err)
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	recover := func() { //nolint:predeclared // what it does
		t.Helper()
		if err := s.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if recover(); ingesting(t, root) != 2 {
		t.Errorf("%d files are being written, want 2: Recover removed what living processes write", ingesting(t, root))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if recover(); ingesting(t, root) != 1 {
		t.Errorf("%d files are being written, want 1", ingesting(t, root))
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := w.Commit(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if recover(); ingesting(t, root) != 0 {
		t.Error("a committed blob left something behind")
	}
}

func ingesting(t *testing.T, root string) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(root, "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// writeAndWait is the process that is killed.
func writeAndWait(root string) {
	s, err := dir.Open(root, dir.Options{})
	if err != nil {
		panic(err)
	}
	w, err := s.Create(context.Background())
	if err != nil {
		panic(err)
	}
	if _, err := io.WriteString(w, "half"); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("!")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(w)
}

// TestFullDisk checks that a blob that does not fit says so and leaves nothing behind.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounts a small file system: needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, root, dir.Options{})
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	follower := w.Follow(0)
	defer follower.Close()
	_, err = w.Write(make([]byte, 1<<20))
	if !errors.Is(err, errs.Limit) || err.Error() != "write blob: no space left on device" {
		t.Errorf("Write: %v, want one of kind limit", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(follower); err == nil {
		t.Error("a follower saw a proper end")
	}
	if n := ingesting(t, root); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if _, err := s.Put(t.Context(), make([]byte, 1<<20)); !errors.Is(err, errs.Limit) {
		t.Errorf("Put: %v, want one of kind limit", err)
	}
	if n := ingesting(t, root); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := dir.Open(b.TempDir(), dir.Options{})
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 2000)
	for i := 0; b.Loop(); i++ {
		data[0], data[1], data[2] = byte(i), byte(i>>8), byte(i>>16)
		if _, err := s.Put(b.Context(), data); err != nil {
			b.Fatal(err)
		}
	}
}
