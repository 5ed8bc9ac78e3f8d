package mount_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/lazy"
	"slipway/internal/oci/accel/overlaybd"
	"slipway/internal/oci/accel/overlaybd/mount"
	"slipway/internal/oci/layer"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
)

// with mounts a device, or skips the test where that cannot be.
func with(t *testing.T, dev mount.Device, opts mount.Options, do func(root string) error) error {
	t.Helper()
	dir := t.TempDir()
	m, err := mount.At(t.Context(), dir, dev, opts)
	if errors.Is(err, errs.Unavailable) {
		t.Skipf("needs root, FUSE and loop devices: %v", err)
	}
	if err == nil {
		err = do(m.Root())
		if cerr := m.Close(); cerr != nil {
			t.Errorf("close: %v", cerr)
		}
	}
	if entries, rerr := os.ReadDir(dir); rerr != nil || len(entries) > 0 {
		t.Errorf("%s is left with %v, %v", dir, entries, rerr)
	}
	return err
}

// image pushes the layers of an image to a registry, and returns the device that is read from there.
func image(t *testing.T, algorithm string, tars [][]byte) (mount.Device, []*lazy.Blob, int64) {
	t.Helper()
	f, err := overlaybd.New(overlaybd.Options{Algorithm: algorithm, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	layers, blobs := acceltest.Convert(t, f, tars)
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	at, err := ref.Parse(strings.TrimPrefix(server.URL, "http://") + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	t.Cleanup(client.Close)
	var far []*lazy.Blob
	var sources []overlaybd.Source
	stored := int64(0)
	for i, l := range layers {
		push(t, client, at, l, blobs[i])
		b, err := lazy.Open(t.Context(), func(ctx context.Context, p []byte, off int64) error {
			return client.ReadBlobAt(ctx, at, l.Descriptor, p, off)
		}, l.Descriptor.Size, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		far, sources, stored = append(far, b), append(sources, b), stored+l.Descriptor.Size
	}
	dev, err := overlaybd.Device(sources...)
	if err != nil {
		t.Fatal(err)
	}
	return dev, far, stored
}

func push(t *testing.T, c *registry.Client, at ref.Ref, l accel.Layer, blob []byte) {
	t.Helper()
	if _, err := c.PushBlob(t.Context(), at, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return l.Descriptor, nil },
		Open:       func(off int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob[off:])), nil },
	}); err != nil {
		t.Fatal(err)
	}
}

// TestKernelSeesTheImage reads an image from a registry, part by part, through the kernel's own ext4, and compares every
// file with what the kernel's overlay makes of the same layers.
func TestKernelSeesTheImage(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to unpack layers and to mount")
	}
	for _, algorithm := range []string{"lz4", "zstd"} {
		for n := 1; n <= 2; n++ {
			tars := acceltest.Layers(t)[:n]
			names := n == 1 // an overlay counts names wrong when one of several is replaced
			dev, _, _ := image(t, algorithm, tars)
			var got map[string]string
			if err := with(t, dev, mount.Options{}, func(root string) error {
				got = describe(t, root, names)
				return nil
			}); err != nil {
				t.Fatalf("%s, %d layers: %v", algorithm, n, err)
			}
			if diff := cmp.Diff(overlay(t, tars, names), got); diff != "" {
				t.Errorf("%s, %d layers: files differ (-overlay +image):\n%s", algorithm, n, diff)
			}
		}
	}
}

// overlay describes what the kernel's overlay makes of layers.
func overlay(t *testing.T, tars [][]byte, names bool) map[string]string {
	t.Helper()
	dirs := []string{t.TempDir()} // an overlay has two at least
	below := func(path string) (layer.Entry, io.ReadCloser, error) {
		n, err := layer.ReadNode(dirs[0], path)
		return n.Entry, nil, errs.Mark(err, errs.NotFound)
	}
	for _, data := range tars {
		dir := t.TempDir()
		if _, err := layer.Apply(t.Context(), dir, bytes.NewReader(data), layer.ApplyOptions{Below: below}); err != nil {
			t.Fatal(err)
		}
		dirs = append([]string{dir}, dirs...)
	}
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Skipf("needs overlay mounts: %v", err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	return describe(t, at, names)
}

// describe says everything of every file below root.
func describe(t *testing.T, root string, names bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." { // the tars do not list it
			return err
		}
		all[name], err = file(path, names)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func file(path string, names bool) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	s := fmt.Sprintf("%v %d:%d %d %d", info.Mode(), st.Uid, st.Gid, st.Rdev, info.ModTime().UnixNano())
	switch info.Mode().Type() {
	case 0:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))
		if names {
			s += fmt.Sprintf(" %d names", st.Nlink)
		}
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		s += " -> " + target
	}
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", err
	}
	var attrs []string
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if key == "" || strings.HasPrefix(key, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil {
			return "", err
		}
		attrs = append(attrs, fmt.Sprintf(" %s=%q", key, value[:n]))
	}
	slices.Sort(attrs)
	return s + strings.Join(attrs, ""), nil
}

// TestFetchesWhatIsRead: a program that reads one file of a large image fetches that, and what the kernel needs to find it.
func TestFetchesWhatIsRead(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range 20 {
		files[fmt.Sprintf("data/%d", i)] = string(acceltest.Random(1<<20 + i))
	}
	dev, far, stored := image(t, "lz4", [][]byte{acceltest.Files(t, files)})
	if err := with(t, dev, mount.Options{}, func(root string) error {
		out, err := exec.CommandContext(t.Context(), "cat", root+"/data/7").Output()
		if err == nil && string(out) != files["data/7"] {
			err = errors.New("content differs")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	fetched, requests := far[0].Fetched()
	t.Logf("fetched %d of %d bytes in %d requests", fetched, stored, requests)
	if fetched < 1<<20 || fetched > 4<<20 {
		t.Errorf("fetched %d of %d bytes in %d requests, for one file of 1 MiB", fetched, stored, requests)
	}
}

// TestLeavesNothing: no mount and no loop device is left, also when the file system is in use.
func TestLeavesNothing(t *testing.T) {
	t.Parallel()
	dev, _, _ := image(t, "lz4", acceltest.Layers(t)[:1])
	var at string
	if err := with(t, dev, mount.Options{}, func(root string) error {
		at = root
		f, err := os.Open(filepath.Join(root, "bin/tool"))
		if err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	nothingAt(t, at)
}

// nothingAt makes sure that nothing of a mount is left.
func nothingAt(t *testing.T, root string) {
	t.Helper()
	dir := filepath.Dir(root)
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(data), dir) {
		t.Errorf("mounts are left in %s: %v", dir, err)
	}
}

const dieAt = "SLIPWAY_TEST_MOUNT_AND_DIE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dieAt); dir != "" {
		mountAndDie(dir)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// mountAndDie is a process that is killed while it has a device mounted.
func mountAndDie(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "../blob"))
	if err != nil {
		return
	}
	dev, err := overlaybd.Device(bytes.NewReader(data))
	if err != nil {
		return
	}
	if _, err := mount.At(context.Background(), dir, dev, mount.Options{}); err != nil {
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// TestRecover takes off what a killed process left, and nothing that lives.
func TestRecover(t *testing.T) {
	t.Parallel()
	f, err := overlaybd.New(overlaybd.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, blobs := acceltest.Convert(t, f, acceltest.Layers(t)[:1])
	if err := with(t, first(overlaybd.Device(bytes.NewReader(blobs[0]))), mount.Options{}, func(root string) error {
		if err := mount.Recover(filepath.Dir(root)); err != nil {
			return err
		}
		_, err := os.ReadFile(filepath.Join(root, "etc/motd"))
		return err
	}); err != nil {
		t.Errorf("one that lives: %v", err)
	}
	base := t.TempDir()
	dir := filepath.Join(base, "dir")
	if err := errors.Join(os.WriteFile(filepath.Join(base, "blob"), blobs[0], 0o600), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dieAt+"="+dir)
	var died *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &died) || died.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("the process ended with %v", err)
	}
	for range 2 {
		if err := mount.Recover(dir); err != nil {
			t.Fatal(err)
		}
	}
	nothingAt(t, filepath.Join(dir, "root"))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func first[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// broken is a device that cannot be read from some point on.
type broken struct {
	mount.Device
	mu   sync.Mutex
	dead bool
}

func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return 0, errs.Unavailable
	}
	return b.Device.ReadAt(p, off)
}

// TestRegistryGoesAway: whoever reads gets an error, and nothing hangs.
func TestRegistryGoesAway(t *testing.T) {
	t.Parallel()
	dev, _, _ := image(t, "lz4", acceltest.Layers(t)[:1])
	b := &broken{Device: dev}
	var told []error
	var mu sync.Mutex
	err := with(t, b, mount.Options{Failed: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}}, func(root string) error {
		b.mu.Lock()
		b.dead = true
		b.mu.Unlock()
		_, err := os.ReadFile(filepath.Join(root, "data/big"))
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	if !errors.Is(err, unix.EIO) || len(told) == 0 || !errors.Is(told[0], errs.Unavailable) {
		t.Errorf("reading says %v, and we were told %v", err, told)
	}
}

func TestWhatIsNoFileSystem(t *testing.T) {
	t.Parallel()
	err := with(t, bytes.NewReader(make([]byte, 1<<20)), mount.Options{}, func(string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "mount ext4") {
		t.Errorf("error %v", err)
	}
}
