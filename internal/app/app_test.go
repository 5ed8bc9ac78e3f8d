package app_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"slipway/internal/cli"
	"slipway/internal/isolation/isolationtest"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
	"slipway/internal/oci/registry/serve"
	"slipway/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	here = isolationtest.Main()
	if os.Args[0] == programName {
		os.Exit(cli.Main())
	}
	os.Exit(m.Run())
}

// needSandbox skips a test that runs RUN where that cannot be.
func needSandbox(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts overlays")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox for a base image (apt-get install busybox-static)")
	}
}

// startRegistry serves a registry on loopback for the time of a test, and returns its address.
func startRegistry(t *testing.T) string {
	t.Helper()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r.Addr()
}

// file is one file of a base image.
type file struct {
	name, link, content string
	mode                fs.FileMode
}

// busyboxFiles are those of a small image: busybox under all its names, a few users, and the helpers that Dockerfiles
// for Alpine expect.
func busyboxFiles(t *testing.T) []file {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.CommandContext(t.Context(), "/bin/busybox", "--list-full").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []file{
		{name: "bin/busybox", content: string(program), mode: 0o755},
		{name: "etc/passwd", content: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n", mode: 0o644},
		{name: "etc/group", content: "root:x:0:\ndaemon:x:1:\nnobody:x:65534:\n", mode: 0o644},
		{name: "etc/os-release", content: "ID=busybox\n", mode: 0o644},
		{name: "usr/sbin/adduser", content: "#!/bin/sh\nfor a; do u=$a; done; echo \"$u:x:1000:1000::/home/$u:/bin/sh\" >>/etc/passwd; echo \"$u:x:1000:\" >>/etc/group\n", mode: 0o755},
		{name: "usr/sbin/addgroup", content: "#!/bin/sh\nfor a; do g=$a; done; echo \"$g:x:1000:\" >>/etc/group\n", mode: 0o755},
		{name: "usr/sbin/printenv", content: "#!/bin/sh\n[ $# = 0 ] && exec env; eval \"echo \\\"\\$$1\\\"\"\n", mode: 0o755},
	}
	for _, d := range []string{"bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "root", "home", "var", "var/spool", "var/spool/mail", "proc", "sys", "dev"} {
		files = append(files, file{name: d, mode: fs.ModeDir | 0o755})
	}
	files = append(files, file{name: "tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777})
	for a := range strings.FieldsSeq(string(applets)) {
		if !slices.ContainsFunc(files, func(f file) bool { return f.name == a }) {
			files = append(files, file{name: a, link: "/bin/busybox", mode: fs.ModeSymlink | 0o777})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files
}

// layerOf is the tar of files.
func layerOf(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: int64(f.mode.Perm()), Size: int64(len(f.content)), Linkname: f.link}
		switch {
		case f.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, f.name+"/"
		case f.link != "":
			h.Typeflag = tar.TypeSymlink
		}
		if f.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pushImage pushes an image of one layer, given as a plain tar.
func pushImage(t *testing.T, name string, layer []byte, c oci.Config) {
	t.Helper()
	r, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	image := oci.Image{Config: c}
	image.OS, image.Architecture = "linux", "amd64"
	image.RootFS.Type, image.RootFS.DiffIDs = "layers", []oci.Digest{digest.FromBytes(layer)}
	config, err := json.Marshal(image)
	if err != nil {
		t.Fatal(err)
	}
	layers := []oci.Descriptor{oci.Describe(oci.MediaTypeLayer, layer)}
	for _, b := range []struct {
		desc oci.Descriptor
		data []byte
	}{{layers[0], layer}, {oci.Describe(oci.MediaTypeConfig, config), config}} {
		if _, err := client.PushBlob(t.Context(), r, bytesSource(b.desc, b.data)); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), layers, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PushManifest(t.Context(), r, oci.MediaTypeManifest, manifest); err != nil {
		t.Fatal(err)
	}
}

// pushBases pushes what Dockerfiles of tests stand on, and returns the files that all of them have, as describe puts
// them.
func pushBases(t *testing.T, addr string) map[string]string {
	t.Helper()
	files := busyboxFiles(t)
	c := oci.Config{}
	c.Cmd = []string{"sh"}
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	base := layerOf(t, files)
	pushImage(t, addr+"/library/busybox:latest", base, c)
	pushImage(t, addr+"/library/alpine:latest", layerOf(t, append(files, file{name: "etc/alpine-release", content: "3.20.0\n", mode: 0o644})), c)
	tree := map[string]string{}
	applyLayer(t, tree, bytes.NewReader(base))
	return tree
}

// write makes files below a new folder, each "name" and content in turn.
func write(t *testing.T, nameAndContent ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(nameAndContent); i += 2 {
		p := filepath.Join(dir, nameAndContent[i])
		if err := os.MkdirAll(path.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(nameAndContent[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bytesSource is a blob in memory.
func bytesSource(desc oci.Descriptor, data []byte) registry.Source {
	return registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	}
}
