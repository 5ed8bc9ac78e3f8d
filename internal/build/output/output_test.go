package output_test

import (
	"archive/tar"
	"bytes"
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
	for in, want := range map[string]output.Output{
		"type=oci,dest=a.tar":       {Type: "oci", Dest: "a.tar"},
		"type=docker,dest=-":        {Type: "docker", Dest: "-"},
		"TYPE=tar,dest=a.tar":       {Type: "tar", Dest: "a.tar"},
		`type=local,"dest=a,b"`:     {Type: "local", Dest: "a,b"},
		"type=oci,tar=false,dest=a": {Type: "layout", Dest: "a"},
		"type=oci,tar=true,dest=a":  {Type: "oci", Dest: "a"},
		"out":                       {Type: "local", Dest: "out"},
		"-":                         {Type: "tar", Dest: "-"},
	} {
		got, err := output.Parse(in)
		if err != nil {
			t.Errorf("Parse(%q): %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Parse(%q) mismatch (-want +got):\n%s", in, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for in, hint := range map[string]string{
		"":                                     "",
		"type=oci":                             "dest=PATH",
		"type=docker":                          "docker load",
		"type=zip,dest=a":                      "the types are",
		"type=image,name=a":                    "--tag",
		"type=registry,dest=a":                 "--push",
		"type=layout,dest=-":                   "type=oci",
		"type=local,dest=-":                    "type=tar",
		"type=tar,tar=false,dest=a":            "",
		"type=oci,dest=a,mode=x":               "type and dest",
		"type=oci,dest=a,compression=zstd":     "--compression",
		"type=oci,dest=a,oci-mediatypes=false": "--media-types",
		"type=oci,dest=a,annotation.a=b":       "--annotation",
		`type=oci,"dest=a`:                     "",
	} {
		_, err := output.Parse(in)
		if !errors.Is(err, errs.Invalid) || !strings.Contains(errs.HintOf(err), hint) {
			t.Errorf("Parse(%q) = %v, hint %q, want invalid with hint %q", in, err, errs.HintOf(err), hint)
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
	files := untar(t, f)
	if len(files) != 5 { // oci-layout, index.json, config, manifest, one layer
		t.Errorf("%d files: %v", len(files), files)
	}
	var index oci.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil {
		t.Fatal(err)
	}
	want := im.Manifest
	want.Annotations = map[string]string{oci.AnnotationRefName: "1", "io.containerd.image.name": "docker.io/r/a:1"} // as BuildKit
	if diff := cmp.Diff([]oci.Descriptor{want}, index.Manifests); diff != "" {
		t.Errorf("index mismatch (-want +got):\n%s", diff)
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

// TestWriteDocker holds the archive to what `docker load` reads: manifest.json, whose paths are in the archive.
func TestWriteDocker(t *testing.T) {
	t.Parallel()
	im, open := image()
	var b bytes.Buffer
	o := output.Output{Type: "docker", Dest: "-", Stdout: &b, Names: []string{"docker.io/library/a:1", "r.example/b:2"}}
	if err := o.Write(t.Context(), im, open); err != nil {
		t.Fatal(err)
	}
	files := untar(t, &b)
	var load []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal([]byte(files["manifest.json"]), &load); err != nil {
		t.Fatal(err)
	}
	if len(load) != 1 || len(load[0].Layers) != 2 || files[load[0].Config] != "{}" || files[load[0].Layers[1]] != "layer" {
		t.Errorf("manifest.json = %+v", load)
	}
	if diff := cmp.Diff([]string{"a:1", "r.example/b:2"}, load[0].RepoTags); diff != "" {
		t.Errorf("RepoTags mismatch (-want +got):\n%s", diff)
	}
	if files["oci-layout"] == "" || files["index.json"] == "" {
		t.Error("it is no OCI layout")
	}
}

// untar reads a tar of small files.
func untar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(r); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
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
}
