package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// busybox is where Debian's busybox-static package puts a program that needs no other file.
const busybox = "/bin/busybox"

// pushBusybox pushes a small image of busybox and its applets to repository name of the registry at addr.
func pushBusybox(ctx context.Context, addr, name string) error {
	to, err := ref.Parse(addr + "/" + name + ":latest")
	if err != nil {
		return err
	}
	layer, err := busyboxLayer(ctx)
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
	client := registry.New(registry.Options{})
	defer client.Close()
	layerDesc, configDesc := oci.Describe(oci.MediaTypeLayer, layer), oci.Describe(oci.MediaTypeConfig, config)
	if err := errors.Join(pushBytes(ctx, client, to, layerDesc, layer), pushBytes(ctx, client, to, configDesc, config)); err != nil {
		return err
	}
	manifest, err := oci.Marshal(oci.NewManifest(configDesc, []oci.Descriptor{layerDesc}, nil))
	if err != nil {
		return err
	}
	_, err = client.PushManifest(ctx, to, oci.MediaTypeManifest, manifest)
	return err
}

func pushBytes(ctx context.Context, client *registry.Client, to ref.Ref, desc oci.Descriptor, data []byte) error {
	_, err := client.PushBlob(ctx, to, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	})
	return err
}

// busyboxLayer is a root file system: busybox, a link for each of its applets, and the files a shell expects.
func busyboxLayer(ctx context.Context) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list-full").Output()
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
