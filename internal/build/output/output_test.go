package output_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/build/output"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := output.Parse("type=oci,dest=a.tar")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(output.Output{Type: "oci", Dest: "a.tar"}, got); diff != "" {
		t.Errorf("Parse mismatch (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "oci", "type=oci", "type=zip,dest=a", "type=oci,dest=a,mode=x", "type=layout,dest=-"} {
		if _, err := output.Parse(bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("Parse(%q) = %v, want invalid", bad, err)
		}
	}
}

// image is one with two equal layers, and what opens them.
func image() (*build.Image, output.Open) {
	layer := []byte("layer")
	im := &build.Image{RawConfig: []byte("{}"), Raw: []byte(`{"layers":[]}`)}
	im.Config = oci.Describe(oci.MediaTypeConfig, im.RawConfig)
	im.Manifest = oci.Describe(oci.MediaTypeManifest, im.Raw)
	im.Layers = []oci.Descriptor{oci.Describe(oci.MediaTypeLayer, layer), oci.Describe(oci.MediaTypeLayer, layer)}
	return im, func(context.Context, oci.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(layer))), nil
	}
}

func TestWriteTar(t *testing.T) {
	t.Parallel()
	im, open := image()
	dest := filepath.Join(t.TempDir(), "a.tar")
	if err := (output.Output{Type: "oci", Dest: dest, Names: []string{"r/a:1"}}).Write(t.Context(), im, open); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
	if len(files) != 5 { // oci-layout, index.json, config, manifest, one layer
		t.Errorf("%d files: %v", len(files), files)
	}
	var index oci.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != im.Manifest.Digest || index.Manifests[0].Annotations[oci.AnnotationRefName] != "r/a:1" {
		t.Errorf("index = %+v", index.Manifests)
	}
}

func TestWriteLayoutKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	im, open := image()
	dest := t.TempDir()
	for _, name := range []string{"r/a:1", "r/a:2", "r/a:1"} {
		if err := (output.Output{Type: "layout", Dest: dest, Names: []string{name}}).Write(t.Context(), im, open); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dest, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index oci.Index
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 {
		t.Errorf("the index has %d entries, want one for each name", len(index.Manifests))
	}
	left, err := filepath.Glob(filepath.Join(dest, "blobs", "sha256", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

func TestWriteLeavesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	im, open := image()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan int64)
	go func() {
		f, err := os.Open(pipe)
		if err != nil {
			read <- -1
			return
		}
		defer f.Close()
		n, _ := io.Copy(io.Discard, f)
		read <- n
	}()
	if err := (output.Output{Type: "oci", Dest: pipe}).Write(t.Context(), im, open); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n <= 0 {
		t.Errorf("%d bytes came through the pipe", n)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe was replaced: %v, %v", info, err)
	}
}

func TestWriteFailsWhole(t *testing.T) {
	t.Parallel()
	im, _ := image()
	dest := filepath.Join(t.TempDir(), "a.tar")
	broken := errors.New("broken")
	err := (output.Output{Type: "oci", Dest: dest}).Write(t.Context(), im, func(context.Context, oci.Descriptor) (io.ReadCloser, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("Write = %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(dest)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
