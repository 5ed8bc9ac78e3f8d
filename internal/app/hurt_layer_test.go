package app_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/app"
	"slipway/internal/build"
	"slipway/internal/config"
	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/registry"
)

// tarOf makes a tar of headers; what is a regular file has its name as content.
func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = h.Name
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func regular(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// sparse is a tar with one file of size bytes, of which only the first 512 are there: GNU's old format, which
// archive/tar reads and does not write.
func sparse(name string, size int64) []byte {
	var h [512]byte
	copy(h[0:], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], "00000001000\x00") // 512 bytes in the tar
	copy(h[136:], "00000000000\x00")
	h[156] = tar.TypeGNUSparse
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "00000000000\x0000000001000\x00") // at 0, 512 bytes
	binary.BigEndian.PutUint64(h[483+4:], uint64(size))
	h[483] |= 0x80
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(append(h[:], bytes.Repeat([]byte("x"), 512)...), make([]byte, 1024)...)
}

// hostileImage is an image as a stranger might make it: layers over busybox's, and whatever edit does to the manifest
// and the config.
type hostileImage struct {
	layers [][]byte
	edit   func(m *oci.Manifest, c *oci.Image)
}

// push pushes the image over the given layers.
func (h hostileImage) push(t *testing.T, name string, under ...[]byte) {
	t.Helper()
	r := mustParse(t, name)
	client := registry.New(registry.Options{})
	defer client.Close()
	send := func(mediaType string, data []byte) oci.Descriptor {
		desc := oci.Describe(mediaType, data)
		if _, err := client.PushBlob(t.Context(), r, bytesSource(desc, data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	image := oci.Image{}
	image.OS, image.Architecture, image.RootFS.Type = "linux", "amd64", "layers"
	image.Config.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	m := oci.NewManifest(oci.Descriptor{}, nil, nil)
	for _, l := range append(under, h.layers...) {
		m.Layers = append(m.Layers, send(oci.MediaTypeLayer, l))
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromBytes(l))
	}
	if h.edit != nil {
		h.edit(&m, &image)
	}
	c, err := json.Marshal(image)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = send(oci.MediaTypeConfig, c)
	data, err := oci.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PushManifest(t.Context(), r, oci.MediaTypeManifest, data); err != nil {
		t.Fatal(err)
	}
}

// TestHostileBase builds on base images of strangers. What is wrong with them is said with the layer's digest and the
// file's name, nothing is ever made or changed outside the home folder, and no size that an image claims is believed.
func TestHostileBase(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	busybox := layerOf(t, busyboxFiles(t))
	outside := t.TempDir() // where escapes would show
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	for _, tc := range []struct {
		name  string
		image hostileImage
		run   string // a RUN on the image; "" is one that only starts
		want  string // the error, with LAYER for the digest of the topmost layer, OUTSIDE for the folder outside, and so on
		kind  error
	}{
		{
			name: "name leads out", image: hostileImage{layers: [][]byte{tarOf(t, regular(up+outside+"/made"))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "UPOUTSIDE/made": "UPOUTSIDE/made" leads out of the layer`, kind: errs.Corrupt,
		},
		{name: "absolute name", image: hostileImage{layers: [][]byte{tarOf(t, regular(outside+"/made"))}}, run: "[ -f " + outside + "/made ]"},
		{
			name:  "through an absolute link",
			image: hostileImage{layers: [][]byte{tarOf(t, symlink("evil", outside), regular("evil/made"), hardlink("evil/link", "evil/made"))}},
			run:   "[ -f " + outside + "/made ] && [ -f /evil/link ]",
		},
		{
			name:  "through a relative link",
			image: hostileImage{layers: [][]byte{tarOf(t, symlink("evil", up+outside), regular("evil/made"))}},
			run:   "[ -f " + outside + "/made ]",
		},
		{
			name:  "through a link of the layer below",
			image: hostileImage{layers: [][]byte{tarOf(t, symlink("evil", outside)), tarOf(t, regular("evil/made"))}},
			run:   "[ -f /evil/made ] && [ ! -L /evil ]",
		},
		{
			name:  "link that is replaced",
			image: hostileImage{layers: [][]byte{tarOf(t, symlink("evil", victim), regular("evil"))}},
			run:   "[ ! -L /evil ] && grep -q evil /evil",
		},
		{
			name: "hard link that leads out", image: hostileImage{layers: [][]byte{tarOf(t, hardlink("stolen", up+victim))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "stolen": hard link: "UPOUTSIDE/victim" leads out of the layer`, kind: errs.Corrupt,
		},
		{
			name: "hard link to the host", image: hostileImage{layers: [][]byte{tarOf(t, hardlink("stolen", victim))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "stolen": hard link to INSIDE/victim: lstat INSIDE/victim: not found`, kind: errs.NotFound,
		},
		{
			name: "hard link through a link", image: hostileImage{layers: [][]byte{tarOf(t, symlink("root", "/"), hardlink("stolen", "root"+victim))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "stolen": hard link to rootOUTSIDE/victim: lstat rootOUTSIDE/victim: not found`, kind: errs.NotFound,
		},
		{
			name:  "hard link to the layer below",
			image: hostileImage{layers: [][]byte{tarOf(t, hardlink("passwd", "etc/passwd"))}},
			run:   "cmp /passwd /etc/passwd",
		},
		{
			name: "whiteout of the folder above", image: hostileImage{layers: [][]byte{tarOf(t, regular("a/.wh..."))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "a/.wh...": whiteout of no name`, kind: errs.Corrupt,
		},
		{
			name: "whiteout of nothing", image: hostileImage{layers: [][]byte{tarOf(t, regular("a/.wh."))}},
			want: `unpack layer LAYER of IMAGE: apply layer: "a/.wh.": whiteout of no name`, kind: errs.Corrupt,
		},
		{
			name: "whiteout through a link", image: hostileImage{layers: [][]byte{tarOf(t, symlink("evil", outside), regular("evil/.wh.victim"))}},
		},
		{
			name: "devices",
			image: hostileImage{layers: [][]byte{tarOf(t,
				tar.Header{Typeflag: tar.TypeChar, Name: "kmsg", Devmajor: 1, Devminor: 11, Mode: 0o666},
				tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 254, Devminor: 0, Mode: 0o666},
				tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o666},
			)}},
			run: "[ -c /kmsg ] && [ -b /disk ] && [ -p /fifo ] && ! head -c 1 /kmsg && ! head -c 1 /disk",
		},
		{
			name: "hole of ten gigabytes", image: hostileImage{layers: [][]byte{sparse("hole", 10<<30)}},
			run: "[ $(stat -c %s /hole) = 10737418240 ] && [ $(stat -c %b /hole) -lt 1000 ]",
		},
		{
			name: "hole of four exabytes", image: hostileImage{layers: [][]byte{sparse("hole", 1<<62)}},
			want: `unpack layer LAYER of IMAGE: apply layer: "hole": content is more than 1099511627776 bytes`, kind: errs.Limit,
		},
		{
			name: "more digests than layers",
			image: hostileImage{edit: func(_ *oci.Manifest, c *oci.Image) {
				c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("x"))
			}},
			want: "config of IMAGE: 2 diff_ids for 1 layers: corrupt", kind: errs.Corrupt,
		},
		{
			name:  "more layers than digests",
			image: hostileImage{edit: func(m *oci.Manifest, _ *oci.Image) { m.Layers = append(m.Layers, m.Layers[0]) }},
			want:  "config of IMAGE: 1 diff_ids for 2 layers: corrupt", kind: errs.Corrupt,
		},
		{
			name:  "no layers",
			image: hostileImage{edit: func(m *oci.Manifest, c *oci.Image) { m.Layers, c.RootFS.DiffIDs = []oci.Descriptor{}, nil }},
			want:  `DOCKERFILE:2:1: RUN true: run ["/bin/sh" "-c" "true"]: exec "/bin/sh": no such file in the image`, kind: errs.NotFound,
		},
		{
			name:  "layer with another diff id",
			image: hostileImage{edit: func(_ *oci.Manifest, c *oci.Image) { c.RootFS.DiffIDs[0] = digest.FromString("x") }},
			want:  "unpack layer LAYER of IMAGE: the content is LAYER, the config says OTHER: corrupt", kind: errs.Corrupt,
		},
		{
			name:  "layer that is no tar",
			image: hostileImage{layers: [][]byte{bytes.Repeat([]byte("no tar "), 1000)}},
			want:  "unpack layer LAYER of IMAGE: apply layer: archive/tar: invalid tar header", kind: errs.Corrupt,
		},
		{
			name:  "layer that ends early",
			image: hostileImage{layers: [][]byte{tarOf(t, regular(strings.Repeat("long", 20)))[:550]}},
			want:  `unpack layer LAYER of IMAGE: apply layer: "longlonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglong": content ends after 38 of 80 bytes: unexpected EOF`, kind: errs.Corrupt,
		},
		{
			name:  "config that is no digest",
			image: hostileImage{edit: func(_ *oci.Manifest, c *oci.Image) { c.RootFS.DiffIDs[0] = "sha256:../../../../etc/passwd" }},
			want:  `config of IMAGE: diff_id "sha256:../../../../etc/passwd": invalid checksum digest length`, kind: errs.Corrupt,
		},
		{
			name: "too many layers",
			image: hostileImage{edit: func(m *oci.Manifest, c *oci.Image) {
				for range 500 {
					m.Layers, c.RootFS.DiffIDs = append(m.Layers, m.Layers[0]), append(c.RootFS.DiffIDs, c.RootFS.DiffIDs[0])
				}
			}},
			want: `DOCKERFILE:2:1: RUN true: run ["/bin/sh" "-c" "true"]: 502 layers are too many to mount: invalid`, kind: errs.Invalid,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			name := addr + "/hostile/" + strings.ReplaceAll(tc.name, " ", "-")
			tc.image.push(t, name, busybox)
			top := append([][]byte{busybox}, tc.image.layers...)[len(tc.image.layers)]
			dir := write(t, "Dockerfile", "FROM "+name+"\nRUN "+cmp.Or(tc.run, "true")+"\n")
			home := t.TempDir()
			_, err := openApp(t, home, config.Config{}).Build(within(t, 30*time.Second), app.Build{Context: dir})
			text := masked(err, up+outside, "UPOUTSIDE", outside, "OUTSIDE", outside[1:], "INSIDE", name+":latest", "IMAGE",
				dir+"/Dockerfile", "DOCKERFILE", digest.FromBytes(top).String(), "LAYER")
			if failed, ok := errors.AsType[*build.StepError](err); ok {
				text += "\n" + strings.Join(failed.Tail, "\n")
			}
			if text != tc.want {
				t.Errorf("error %q\nwant  %q", text, tc.want)
			}
			if tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Errorf("error is not of kind %q", tc.kind)
			}
			wantNothingLeft(t, home)
			if used := usedBy(t, home); used > 30<<20 {
				t.Errorf("the home folder holds %d bytes", used)
			}
		})
	}
	t.Cleanup(func() {
		files, err := os.ReadDir(outside)
		if err != nil || len(files) != 1 {
			t.Errorf("files were made outside: %v, %v", files, err)
		}
		content, err := os.ReadFile(victim)
		if string(content) != "untouched" || err != nil {
			t.Errorf("the file outside was touched: %q, %v", content, err)
		}
	})
}

// usedBy is what the files below a folder take on the disk.
func usedBy(t *testing.T, dir string) (used int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(p, &st)
			used += st.Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// TestBaseOfManyFiles unpacks a layer of 100,000 files, within a few seconds and without a look at each for every step.
func TestBaseOfManyFiles(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	addr := startRegistry(t)
	headers := []tar.Header{{Typeflag: tar.TypeDir, Name: "many/"}}
	for d := range 100 {
		headers = append(headers, tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("many/%d/", d)})
		for f := range 1000 {
			headers = append(headers, regular(fmt.Sprintf("many/%d/%d", d, f)))
		}
	}
	hostileImage{layers: [][]byte{tarOf(t, headers...)}}.push(t, addr+"/many", layerOf(t, busyboxFiles(t)))
	dir := write(t, "Dockerfile", "FROM "+addr+"/many\nRUN [ $(ls /many/42 | wc -l) = 1000 ] && rm -r /many/42\n")
	home := t.TempDir()
	began := time.Now()
	im, err := openApp(t, home, config.Config{}).Build(within(t, 30*time.Second), app.Build{Context: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %s", time.Since(began))
	if size := im.Layers[2].Size; size > 1000 {
		t.Errorf("the layer of a step that deletes a folder has %d bytes", size)
	}
	wantNothingLeft(t, home)
}
