package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
)

// busybox is where Debian's busybox-static package puts a program that needs no other file.
const busybox = "/bin/busybox"

// pushBusybox pushes a small image of busybox and its applets to repository name of the registry at addr.
func pushBusybox(addr, name string) error {
	layer, err := busyboxLayer()
	if err != nil {
		return fmt.Errorf("make a base image: %w", err)
	}
	image := oci.Image{}
	image.Architecture, image.OS = "amd64", "linux"
	image.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	image.Config.Cmd = []string{"sh"}
	image.RootFS.Type, image.RootFS.DiffIDs = "layers", []oci.Digest{digest.FromBytes(layer)}
	config, err := oci.Marshal(image)
	if err != nil {
		return err
	}
	manifest, err := oci.Marshal(oci.NewManifest(
		oci.Describe(oci.MediaTypeConfig, config), []oci.Descriptor{oci.Describe(oci.MediaTypeLayer, layer)}, nil,
	))
	if err != nil {
		return err
	}
	repository := "http://" + addr + "/v2/" + name
	for _, blob := range [][]byte{layer, config} {
		if err := pushBlob(repository, blob); err != nil {
			return err
		}
	}
	_, err = send(http.MethodPut, repository+"/manifests/latest", oci.MediaTypeManifest, manifest)
	return err
}

// pushBlob is distribution-spec's "POST then PUT".
func pushBlob(repository string, data []byte) error {
	resp, err := send(http.MethodPost, repository+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	location, err := resp.Location()
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", string(digest.FromBytes(data)))
	location.RawQuery = query.Encode()
	_, err = send(http.MethodPut, location.String(), "application/octet-stream", data)
	return err
}

func send(method, to, mediaType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, &url.Error{Op: method, URL: to, Err: fmt.Errorf("%s: %s", resp.Status, text)}
	}
	return resp, nil
}

// busyboxLayer is a root file system: busybox, a link for each of its applets, and the files a shell expects.
func busyboxLayer() ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	entries := []tar.Header{
		{Name: "bin/", Mode: 0o755},
		{Name: "etc/", Mode: 0o755},
		{Name: "proc/", Mode: 0o555},
		{Name: "root/", Mode: 0o700},
		{Name: "sbin/", Mode: 0o755},
		{Name: "sys/", Mode: 0o555},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "usr/bin/", Mode: 0o755},
		{Name: "usr/sbin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program)), Linkname: string(program)},
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		file("etc/group", "root:x:0:\nnobody:x:65534:\n"),
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "bin/busybox" {
			entries = append(entries, tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "/bin/busybox", Mode: 0o777})
		}
	}
	for _, h := range entries {
		content := ""
		if h.Typeflag != tar.TypeSymlink {
			content, h.Linkname = h.Linkname, ""
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// file is a regular file whose content travels in the header's link name until it is written.
func file(name, content string) tar.Header {
	return tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Linkname: content}
}
