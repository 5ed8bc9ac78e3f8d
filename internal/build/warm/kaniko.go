package warm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
)

// This file reads what kaniko's warmer leaves in a cache folder, so that one that was filled by it goes on being of use:
//
//	sha256:<hex>       the image with that digest as docker-archive tar: manifest.json, sha256:<config>, <layer>.tar.gz
//	sha256:<hex>.json  its manifest as the registry has it; older warmers wrote none
//
// Nothing is copied: blobs are read where they stand in the tar.

const (
	maxArchiveEntries  = 10_000
	maxArchiveManifest = 4 << 20
)

// archives are the tars that were looked into.
type archives struct {
	mu   sync.Mutex
	open map[oci.Digest]*archive // by the image's digest
	of   map[oci.Digest]*archive // by a blob's
}

// archive is a tar with an image's blobs.
type archive struct {
	path     string
	manifest []byte
	media    string
	blobs    map[oci.Digest]section

	mu       sync.Mutex
	verified map[oci.Digest]bool
}

// section is where something stands in a tar.
type section struct{ offset, size int64 }

// fromArchive returns the image that a tar of the folder holds whole, or errs.NotFound.
func (d *Dir) fromArchive(digest oci.Digest) (*archive, error) {
	d.archives.mu.Lock()
	defer d.archives.mu.Unlock()
	if a, ok := d.archives.open[digest]; ok {
		return a, nil
	}
	a, err := readArchive(filepath.Join(d.path, digest.String()), d.Manifest(digest), digest)
	if err != nil {
		return nil, err
	}
	d.archives.open[digest] = a
	for b := range a.blobs {
		d.archives.of[b] = a
	}
	return a, nil
}

// openArchived reads a blob of an image that fromArchive has returned, or says errs.NotFound.
func (d *Dir) openArchived(ctx context.Context, digest oci.Digest) (blob.Reader, error) {
	d.archives.mu.Lock()
	a := d.archives.of[digest]
	d.archives.mu.Unlock()
	if a == nil {
		return nil, errs.NotFound
	}
	return a.blob(ctx, digest)
}

// readArchive looks for an image's blobs in a tar. A tar without some of them is as good as none: kaniko's own writer
// may still be at it, or have been killed.
func readArchive(path, manifestPath string, digest oci.Digest) (*archive, error) {
	entries, saved, err := entriesOf(path)
	if err != nil {
		return nil, err
	}
	a := &archive{path: path, verified: map[oci.Digest]bool{}}
	var m oci.Manifest
	raw, err := os.ReadFile(manifestPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if m, err = describeArchive(path, entries, saved); err != nil {
			return nil, err
		}
		if raw, err = oci.Marshal(m); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case digest.Algorithm().FromBytes(raw) != digest || json.Unmarshal(raw, &m) != nil:
		return nil, errs.NotFound // damaged: filling the folder again mends it
	}
	a.manifest, a.media = raw, oci.DescribeManifest(raw).MediaType
	a.blobs = map[oci.Digest]section{}
	for i, b := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		s, ok := entries[b.Digest.Encoded()+".tar.gz"]
		if i == 0 {
			s, ok = entries[saved.Config]
		}
		if !ok || s.size != b.Size {
			return nil, errs.NotFound
		}
		a.blobs[b.Digest] = s
	}
	return a, nil
}

// savedImage is an image as manifest.json of a docker-archive describes it.
type savedImage struct {
	Config string
	Layers []string
}

// entriesOf lists the files of a tar and reads its manifest.json.
func entriesOf(path string) (_ map[string]section, saved savedImage, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, saved, errs.NotFound
	}
	if err != nil {
		return nil, saved, err
	}
	defer f.Close() // only read
	entries := map[string]section{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(entries) > maxArchiveEntries {
			return nil, saved, errs.NotFound
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := f.Seek(0, io.SeekCurrent) // the reader takes headers alone, block by block
		if err != nil {
			return nil, saved, err
		}
		entries[h.Name] = section{offset, h.Size}
		if h.Name == "manifest.json" {
			var images []savedImage
			err := json.NewDecoder(io.LimitReader(r, maxArchiveManifest)).Decode(&images)
			if err != nil || len(images) != 1 {
				return nil, saved, errs.NotFound
			}
			saved = images[0]
		}
	}
	if saved.Config == "" {
		return nil, saved, errs.NotFound
	}
	return entries, saved, nil
}

// describeArchive makes the manifest that a tar has none of. What its layers are compressed with their bytes say.
func describeArchive(path string, entries map[string]section, saved savedImage) (m oci.Manifest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close() // only read
	at, ok := entries[saved.Config]
	if !ok || at.size > oci.MaxManifestBytes {
		return m, errs.NotFound
	}
	config := make([]byte, at.size)
	if _, err := f.ReadAt(config, at.offset); err != nil {
		return m, err
	}
	layers := []oci.Descriptor{}
	for _, name := range saved.Layers {
		at, ok := entries[name]
		hex, named := strings.CutSuffix(name, ".tar.gz")
		digest := oci.Digest("sha256:" + hex)
		if !ok || !named || digest.Validate() != nil {
			return m, errs.NotFound
		}
		magic := make([]byte, 4)
		if n, err := f.ReadAt(magic, at.offset); err != nil && !errors.Is(err, io.EOF) {
			return m, err
		} else if n < len(magic) || at.size < int64(len(magic)) {
			return m, errs.NotFound
		}
		layers = append(layers, oci.Descriptor{MediaType: layerType(magic), Digest: digest, Size: at.size})
	}
	return oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), layers, nil), nil
}

func layerType(magic []byte) string {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return oci.MediaTypeLayerGzip
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return oci.MediaTypeLayerZstd
	default:
		return oci.MediaTypeLayer
	}
}

// blob opens a blob, whose bytes are held against its digest the first time.
func (a *archive) blob(ctx context.Context, digest oci.Digest) (_ blob.Reader, err error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // only read
		}
	}()
	at := a.blobs[digest]
	r := &inTar{io.NewSectionReader(f, at.offset, at.size), f}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.verified[digest] {
		return r, nil
	}
	verifier := digest.Verifier()
	for src := io.NewSectionReader(f, at.offset, at.size); err == nil; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		_, err = io.CopyN(verifier, src, 8<<20)
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !verifier.Verified() {
		return nil, fmt.Errorf("blob %s in %s is damaged: %w", digest, a.path, errs.Corrupt)
	}
	a.verified[digest] = true
	return r, nil
}

// inTar is a blob.Reader over a part of a tar.
type inTar struct {
	*io.SectionReader
	f *os.File
}

func (r *inTar) Close() error { return r.f.Close() }
