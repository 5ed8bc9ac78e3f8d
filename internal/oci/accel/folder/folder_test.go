package folder_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/fuse"
	"slipway/internal/oci/accel"
	"slipway/internal/oci/accel/acceltest"
	"slipway/internal/oci/accel/estargz"
	"slipway/internal/oci/accel/folder"
	"slipway/internal/oci/layer"
)

// memory is a blob that counts what is read of it.
type memory struct {
	data []byte

	mu    sync.Mutex
	read  int
	reads int
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read, m.reads = m.read+len(p), m.reads+1
	copy(p, m.data[off:])
	return nil
}

// counts are the bytes and the reads so far.
func (m *memory) counts() (bytes, reads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read, m.reads
}

// stargz is a layer's tar as an eStargz layer.
func stargz(t *testing.T, data []byte) (*estargz.Reader, *memory) {
	t.Helper()
	f, err := estargz.New(estargz.Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	layers, blobs := acceltest.Convert(t, f, [][]byte{data})
	src := &memory{data: blobs[0]}
	r, err := estargz.Open(t.Context(), src, digest.Digest(layers[0].Descriptor.Annotations[estargz.AnnotationTOC]))
	if err != nil {
		t.Fatal(err)
	}
	return r, src
}

// list is what a folder holds, a line for each file. Folders that an overlay is stacked of look the same however they came
// about.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		line := fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %s links %d", st.Size, digest.FromBytes(data), st.Nlink)
			if st.Nlink > 1 && inodes[st.Ino] != "" {
				line += " as " + inodes[st.Ino]
			}
			inodes[st.Ino] = name
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d", st.Rdev)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR {
			line += fmt.Sprintf(" at %d", st.Mtim.Sec)
		}
		for _, attr := range []string{"trusted.overlay.opaque", "user.mime", "security.capability"} {
			value := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, attr, value); err == nil {
				line += fmt.Sprintf(" %s=%q", attr, value[:n])
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// mount shows a layer, or skips the test where that cannot be.
func mount(t *testing.T, n *fuse.Node, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := fuse.Mount(t.Context(), dir, n, fuse.Options{Failed: func(err error) { t.Error(err) }})
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
	return dir
}

// unpack unpacks a layer as builds do.
func unpack(t *testing.T, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := layer.Apply(t.Context(), dir, bytes.NewReader(data), layer.ApplyOptions{}); err != nil {
		t.Skipf("needs root: %v", err)
	}
	return dir
}

// TestLooksUnpacked compares what is shown of a layer with what it is unpacked into.
func TestLooksUnpacked(t *testing.T) {
	t.Parallel()
	for i, data := range acceltest.Layers(t) {
		plain := unpack(t, data)
		want := list(t, plain)
		r, _ := stargz(t, data)
		n, err := folder.Stargz(r, folder.Options{})
		if diff := cmp.Diff(want, list(t, mount(t, n, err))); diff != "" {
			t.Errorf("layer %d as eStargz (-unpacked +shown):\n%s", i, diff)
		}
		n, err = folder.Unpacked(t.Context(), plain, folder.Options{})
		if diff := cmp.Diff(want, list(t, mount(t, n, err))); diff != "" {
			t.Errorf("layer %d as a folder (-unpacked +shown):\n%s", i, diff)
		}
	}
}

// TestFetchesWhatIsRead reads one file of many.
func TestFetchesWhatIsRead(t *testing.T) {
	t.Parallel()
	r, src := stargz(t, acceltest.Layers(t)[0])
	var mu sync.Mutex
	var opened []string
	n, err := folder.Stargz(r, folder.Options{Opened: func(path string) {
		mu.Lock()
		defer mu.Unlock()
		opened = append(opened, path)
	}})
	dir := mount(t, n, err)
	before, _ := src.counts()
	for range 3 {
		if _, err := os.ReadFile(dir + "/many/123"); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := src.counts()
	if got -= before; got == 0 || got > 10_000 {
		t.Errorf("%d bytes of %d were fetched", got, len(src.data))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(opened) != 3 || opened[0] != "many/123" {
		t.Errorf("opened %q", opened)
	}
}

// TestCache reads a file that has more content than is kept.
func TestCache(t *testing.T) {
	t.Parallel()
	contents := map[string]string{}
	for i := range 8 {
		contents[fmt.Sprint(i)] = strings.Repeat(fmt.Sprint(i), 100_000)
	}
	r, src := stargz(t, acceltest.Files(t, contents))
	n, err := folder.Stargz(r, folder.Options{CacheBytes: 350_000})
	if err != nil {
		t.Fatal(err)
	}
	_, before := src.counts()
	fetches := func() int {
		_, n := src.counts()
		return n - before
	}
	p := make([]byte, 1000)
	read := func(name string, off int64) {
		got, err := n.Children[name].Read(t.Context(), p, off)
		if err != nil || got != len(p) || string(p) != strings.Repeat(name, len(p)) {
			t.Errorf("%s at %d: %d bytes, %v", name, off, got, err)
		}
	}
	for off := range int64(50) {
		read("0", off*1000)
	}
	if got := fetches(); got != 1 {
		t.Errorf("one chunk was fetched %d times", got)
	}
	for _, name := range []string{"1", "2", "3", "0"} {
		read(name, 0)
	}
	if got := fetches(); got != 5 {
		t.Errorf("%d fetches, want 5: the first chunk had to make room", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			buf := make([]byte, 1000)
			if _, err := n.Children["7"].Read(t.Context(), buf, 500); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := fetches(); got != 6 {
		t.Errorf("%d fetches, want 6: what four ask for at once is fetched once", got)
	}
	if _, err := n.Children["5"].Read(t.Context(), p, 100_000-10); err != nil {
		t.Errorf("the end: %v", err)
	}
}

// TestHostileLayers shows layers whose names clash.
func TestHostileLayers(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"a file as a folder":     {{Typeflag: tar.TypeReg, Name: "a"}, {Typeflag: tar.TypeReg, Name: "a/b"}},
		"a file as the root":     {{Typeflag: tar.TypeReg, Name: "."}},
		"a link to a folder":     {{Typeflag: tar.TypeDir, Name: "d/"}, {Typeflag: tar.TypeLink, Name: "l", Linkname: "d"}},
		"a device for an opaque": {{Typeflag: tar.TypeChar, Name: "d"}, {Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := estargz.New(estargz.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var blob bytes.Buffer
		l, err := f.Convert(t.Context(), &blob, accel.Stack{Tars: []accel.Tar{acceltest.FromBytes(b.Bytes())}})
		if err != nil {
			continue // the writer has its own mind about it
		}
		r, err := estargz.Open(t.Context(), &memory{data: blob.Bytes()}, digest.Digest(l.Descriptor.Annotations[estargz.AnnotationTOC]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := folder.Stargz(r, folder.Options{}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v, want Corrupt", name, err)
		}
	}
}
