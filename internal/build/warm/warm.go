// Package warm keeps base images in a folder, often one that several machines share over NFS, so that builds neither
// download nor copy them.
//
//	blobs/sha256/<hex>     manifests, configs and layers, shared between images: an OCI image layout
//	sha256:<hex>.json      the manifest of an image that is here whole, by its digest
//	refs/<hash>            what a reference named for a platform when it was last looked up
//	index.json, oci-layout for other tools
//
// What kaniko's warmer left in the folder is used where it stands, see kaniko.go.
//
// Every file is written under a temporary name and renamed, and a manifest appears under its own name only after all
// its blobs: a reader finds an image whole or not at all, however many write at once, and a writer that is killed
// leaves nothing that a reader could mistake for an image.
//
// A reference is held against the registry each time, since tags move; the digest that it names there decides whether
// the folder's copy is current. There is no age at which an image expires. When the registry cannot be reached, what
// the reference named last is used.
package warm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/blob"
	"slipway/internal/oci/blob/dir"
	"slipway/internal/oci/ref"
	"slipway/internal/tempfile"
)

// puller is what filling the folder needs of a registry client.
type puller interface {
	Resolve(ctx context.Context, r ref.Ref) (oci.Descriptor, []byte, error)
	Blob(ctx context.Context, r ref.Ref, d oci.Descriptor) (io.ReadCloser, error)
}

// Dir is a folder of base images. Its methods may be called at once, also by other processes and machines.
type Dir struct {
	path  string
	blobs *dir.Store
	from  puller
	found func(manifest string)

	archives archives
}

// Options say how a Dir works.
type Options struct {
	// From fetches images.
	From puller
	// Found hears the path of a manifest that answered for a base image. Default: nobody does.
	Found func(manifest string)
	// Logger hears of damaged blobs. Default: nobody does.
	Logger *slog.Logger
}

// Open returns the folder at path, which is made when it is missing.
func Open(path string, opts Options) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(path, "refs"), 0o755); err != nil {
		return nil, fmt.Errorf("open cache folder: %w", err)
	}
	// Other machines read the folder, and this one's boot says nothing about theirs: blobs are synced.
	blobs, err := dir.Open(path, dir.Options{Sync: true, Logger: opts.Logger})
	if err != nil {
		return nil, fmt.Errorf("open cache folder: %w", err)
	}
	if opts.Found == nil {
		opts.Found = func(string) {}
	}
	return &Dir{path: path, blobs: blobs, from: opts.From, found: opts.Found, archives: archives{
		open: map[oci.Digest]*archive{}, of: map[oci.Digest]*archive{},
	}}, nil
}

// Manifest is where the manifest of a whole image is: the name that kaniko's cache gives it.
func (d *Dir) Manifest(digest oci.Digest) string {
	return filepath.Join(d.path, digest.String()+".json")
}

// Open reads a blob of an image that is here.
func (d *Dir) Open(ctx context.Context, digest oci.Digest) (blob.Reader, error) {
	r, err := d.blobs.Open(ctx, digest)
	if errors.Is(err, errs.NotFound) {
		if in, err := d.openArchived(ctx, digest); !errors.Is(err, errs.NotFound) {
			return in, err
		}
	}
	return r, err
}

// Base returns the manifest of an image that is here whole and current, or errs.NotFound.
func (d *Dir) Base(ctx context.Context, r ref.Ref, p oci.Platform) (oci.Descriptor, []byte, error) {
	digest, err := d.current(ctx, r, p)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	raw, err := d.whole(ctx, digest)
	if err == nil {
		d.found(d.Manifest(digest))
		return oci.DescribeManifest(raw), raw, nil
	}
	if !errors.Is(err, errs.NotFound) {
		return oci.Descriptor{}, nil, err
	}
	a, err := d.fromArchive(digest)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	d.found(a.path)
	return oci.Descriptor{MediaType: a.media, Digest: digest, Size: int64(len(a.manifest))}, a.manifest, nil
}

// current is the digest that a reference names now, or named last when its registry cannot be reached.
func (d *Dir) current(ctx context.Context, r ref.Ref, p oci.Platform) (oci.Digest, error) {
	if r.Digest() != "" {
		for _, name := range []string{d.Manifest(r.Digest()), filepath.Join(d.path, r.Digest().String())} {
			if _, err := os.Lstat(name); err == nil {
				return r.Digest(), nil
			}
		}
		if digest, err := d.recall(r, p); err == nil { // a digest of an index: it never names another image
			return digest, nil
		}
	}
	desc, _, err := d.resolve(ctx, r, p)
	if err == nil {
		return desc.Digest, nil
	}
	if errors.Is(err, errs.Unavailable) {
		if digest, lost := d.recall(r, p); lost == nil {
			return digest, nil
		}
	}
	return "", err
}

// resolve asks the registry for a platform's manifest and remembers the answer.
func (d *Dir) resolve(ctx context.Context, r ref.Ref, p oci.Platform) (oci.Descriptor, []byte, error) {
	desc, raw, err := d.from.Resolve(ctx, r)
	if err != nil {
		return desc, nil, err
	}
	if oci.IsIndex(desc.MediaType) {
		if desc, err = oci.Choose(raw, p); err != nil {
			return desc, nil, fmt.Errorf("%s: %w", r.Familiar(), err)
		}
		if raw, err = d.manifest(ctx, r.WithDigest(desc.Digest)); err != nil {
			return desc, nil, err
		}
	}
	return desc, raw, d.learn(r, p, desc.Digest)
}

// manifest gets a manifest by digest, without the registry when it is here.
func (d *Dir) manifest(ctx context.Context, r ref.Ref) ([]byte, error) {
	if raw, err := d.whole(ctx, r.Digest()); err == nil {
		return raw, nil
	}
	_, raw, err := d.from.Resolve(ctx, r)
	return raw, err
}

// whole returns the manifest of an image all of whose blobs are here, or errs.NotFound.
func (d *Dir) whole(ctx context.Context, digest oci.Digest) ([]byte, error) {
	raw, err := os.ReadFile(d.Manifest(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound
	}
	if err != nil {
		return nil, err
	}
	if digest.Algorithm().FromBytes(raw) != digest {
		return nil, errs.NotFound // damaged: filling the folder again mends it
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, errs.NotFound
	}
	for _, b := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		size, err := d.blobs.Stat(ctx, b.Digest)
		if err != nil || size != b.Size {
			return nil, errs.NotFound
		}
	}
	return raw, nil
}

// refFile is where it is remembered what a reference named.
func (d *Dir) refFile(r ref.Ref, p oci.Platform) string {
	sum := sha256.Sum256([]byte(r.String() + " " + oci.FormatPlatform(p)))
	return filepath.Join(d.path, "refs", hex.EncodeToString(sum[:]))
}

func (d *Dir) recall(r ref.Ref, p oci.Platform) (oci.Digest, error) {
	data, err := os.ReadFile(d.refFile(r, p))
	if err != nil {
		return "", err
	}
	word, _, _ := strings.Cut(string(data), " ")
	digest := oci.Digest(word)
	return digest, digest.Validate()
}

func (d *Dir) learn(r ref.Ref, p oci.Platform, digest oci.Digest) error {
	line := digest.String() + " " + r.String() + "\n"
	if old, err := os.ReadFile(d.refFile(r, p)); err == nil && string(old) == line {
		return nil
	}
	return replace(d.refFile(r, p), []byte(line))
}

// Fill brings an image into the folder, and says whether it was here already. Blobs that are here are not fetched. What
// writers that were killed left behind is removed on the way.
func (d *Dir) Fill(ctx context.Context, r ref.Ref, p oci.Platform) (digest oci.Digest, hit bool, err error) {
	if err := d.recover(ctx); err != nil {
		return "", false, err
	}
	desc, raw, err := d.resolve(ctx, r, p)
	if err != nil {
		return "", false, err
	}
	if _, err := d.whole(ctx, desc.Digest); err == nil {
		return desc.Digest, true, nil
	}
	if _, err := d.fromArchive(desc.Digest); err == nil {
		return desc.Digest, true, nil
	}
	var m oci.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", false, fmt.Errorf("%s: manifest: %w", r.Familiar(), errs.Mark(err, errs.Corrupt))
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, b := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		g.Go(func() error { return d.fetch(gctx, r, b) })
	}
	if err := g.Wait(); err != nil {
		return "", false, fmt.Errorf("warm %s: %w", r.Familiar(), err)
	}
	if _, err := d.blobs.Put(ctx, raw); err != nil {
		return "", false, err
	}
	if err := replace(d.Manifest(desc.Digest), raw); err != nil {
		return "", false, err
	}
	return desc.Digest, false, d.describe(ctx)
}

func (d *Dir) fetch(ctx context.Context, r ref.Ref, b oci.Descriptor) (err error) {
	if size, err := d.blobs.Stat(ctx, b.Digest); err == nil && size == b.Size {
		return nil
	}
	src, err := d.from.Blob(ctx, r, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	w, err := d.blobs.Create(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := io.Copy(w, src); err != nil {
		return err
	}
	_, err = w.Commit(ctx, b.Digest)
	return err
}

// describe writes the files that make the folder an OCI image layout. What slipway reads is the manifests themselves,
// so that two writers who do this at once lose nothing but an entry for other tools, until the next one.
func (d *Dir) describe(_ context.Context) error {
	names, err := filepath.Glob(filepath.Join(d.path, "sha256:*.json"))
	if err != nil {
		return err
	}
	refs, err := d.names()
	if err != nil {
		return err
	}
	index := oci.NewIndex([]oci.Descriptor{}, nil)
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		desc := oci.DescribeManifest(raw)
		if r := refs[desc.Digest]; r != "" {
			desc.Annotations = map[string]string{oci.AnnotationRefName: r}
		}
		index.Manifests = append(index.Manifests, desc)
	}
	data, err := oci.Marshal(index)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(d.path, oci.ImageIndexFile), data); err != nil {
		return err
	}
	return replace(filepath.Join(d.path, oci.ImageLayoutFile), []byte(`{"imageLayoutVersion":"`+oci.ImageLayoutVersion+`"}`))
}

// names are the references that digests were last found under.
func (d *Dir) names() (map[oci.Digest]string, error) {
	files, err := os.ReadDir(filepath.Join(d.path, "refs"))
	if err != nil {
		return nil, err
	}
	names := map[oci.Digest]string{}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(d.path, "refs", f.Name()))
		if err != nil {
			return nil, err
		}
		if digest, r, ok := strings.Cut(strings.TrimSpace(string(data)), " "); ok {
			names[oci.Digest(digest)] = r
		}
	}
	return names, nil
}

// tempPrefix begins the name of a small file that is being written.
const tempPrefix = ".tmp-"

// replace writes a small file whole, readable by every user of a shared folder.
func replace(file string, data []byte) (err error) {
	tmp, err := tempfile.Create(filepath.Dir(file), tempPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: what is closed is taken for abandoned
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// recover removes what writers that were killed left. Locks tell them from living ones, over NFS, too.
func (d *Dir) recover(ctx context.Context) error {
	_, inPath := tempfile.Recover(d.path, tempPrefix)
	_, inRefs := tempfile.Recover(filepath.Join(d.path, "refs"), tempPrefix)
	return errors.Join(inPath, inRefs, d.blobs.Recover(ctx))
}
