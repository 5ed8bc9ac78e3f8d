package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Registry is a cache under a tag of a registry. An image with an inline cache can be read as one.
type Registry struct {
	client *registry.Client
	ref    ref.Ref

	mu   sync.Mutex
	last state
}

var _ Place = (*Registry)(nil)

// state is a cache as it was seen last.
type state struct {
	digest  oci.Digest // of the manifest; "" when there is none
	records Records    // nil when the manifest holds none
	image   bool       // it is an image, with an inline cache or without
}

// NewRegistry returns the cache under r's tag.
func NewRegistry(client *registry.Client, r ref.Ref) *Registry {
	return &Registry{client: client, ref: r}
}

// String implements Place.
func (c *Registry) String() string { return c.ref.Familiar() }

// Ref implements Place.
func (c *Registry) Ref() ref.Ref { return c.ref }

// Load implements Place.
func (c *Registry) Load(ctx context.Context) (Records, error) {
	s, err := c.load(ctx)
	if err == nil && s.records == nil {
		err = errs.NotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read cache %s: %w", c, err)
	}
	return maps.Clone(s.records), nil
}

// load reads what the tag names, and its records unless they are known from the last time. No manifest, or one that
// holds no cache, is a state without records.
func (c *Registry) load(ctx context.Context) (state, error) {
	desc, data, err := c.client.Resolve(ctx, c.ref)
	if errors.Is(err, errs.NotFound) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.digest == desc.Digest {
		return c.last, nil
	}
	s, err := c.read(ctx, desc, data)
	if err != nil {
		return state{}, err
	}
	c.last = s
	return s, nil
}

// maxImages bounds the images of an index that are looked into.
const maxImages = 32

// read returns the records that a manifest or an index of images leads to.
func (c *Registry) read(ctx context.Context, desc oci.Descriptor, data []byte) (state, error) {
	if !oci.IsIndex(desc.MediaType) {
		return c.readOne(ctx, desc.Digest, data)
	}
	var index oci.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return state{}, errs.Mark(fmt.Errorf("index: %w", err), errs.Corrupt)
	}
	all := state{digest: desc.Digest, image: true}
	for _, m := range index.Manifests[:min(len(index.Manifests), maxImages)] {
		_, data, err := c.client.Resolve(ctx, c.ref.WithDigest(m.Digest))
		if err != nil {
			return state{}, err
		}
		one, err := c.readOne(ctx, m.Digest, data)
		if err != nil {
			return state{}, err
		}
		if all.records == nil {
			all.records = one.records
		}
		maps.Copy(all.records, one.records) // keys of different platforms are different
	}
	return all, nil
}

func (c *Registry) readOne(ctx context.Context, d oci.Digest, data []byte) (state, error) {
	m, err := decodeManifest(data)
	if err != nil {
		return state{}, err
	}
	s := state{digest: d, image: !isCache(m)}
	inline, ok := m.Annotations[InlineAnnotation]
	if s.image && !ok {
		return s, nil
	}
	config, err := c.client.Blob(ctx, c.ref, m.Config)
	if err != nil {
		return state{}, err
	}
	if !s.image {
		s.records, err = readRecords(config, m.Config.Size)
		return s, err
	}
	image, err := readConfig(config)
	if err == nil {
		s.records, err = decodeInline(inline, m.Layers, image.RootFS.DiffIDs)
	}
	return s, err
}

func readConfig(r io.ReadCloser) (image oci.Image, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, oci.MaxManifestBytes))
	if err == nil {
		err = errs.Mark(json.Unmarshal(data, &image), errs.Corrupt)
	}
	if err != nil {
		err = fmt.Errorf("config: %w", err)
	}
	return image, err
}

// Has implements Place.
func (c *Registry) Has(ctx context.Context, d oci.Digest) (bool, error) {
	return c.client.HasBlob(ctx, c.ref, d)
}

// Open implements Place.
func (c *Registry) Open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := c.client.Blob(ctx, c.ref, desc)
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", c, err)
	}
	return r, nil
}

// Put implements Place.
func (c *Registry) Put(ctx context.Context, src registry.Source) (registry.Pushed, error) {
	return c.client.PushBlob(ctx, c.ref, src)
}

// saveTries bounds how often writers may overtake each other.
const saveTries = 20

// Save implements Place: it reads, merges and replaces, again and again until nobody has come in between. See
// registry.Client.ReplaceManifest for what registries make of that; on those that know no conditions the look after
// the write finds all but the rarest loss, and what is lost then is work, never correctness.
func (c *Registry) Save(ctx context.Context, u Update) error {
	if err := c.save(ctx, u); err != nil {
		return fmt.Errorf("write cache %s: %w", c, err)
	}
	return nil
}

func (c *Registry) save(ctx context.Context, u Update) error {
	var gone map[oci.Digest]bool
	for try := range saveTries {
		if err := pause(ctx, try); err != nil {
			return err
		}
		s, err := c.load(ctx)
		if err != nil && !errors.Is(err, errs.Corrupt) {
			return err
		}
		if err != nil { // what lies there is damaged: this build's records take its place
			if s.digest, err = c.digest(ctx); err != nil {
				return err
			}
		}
		if s.image {
			return errs.Hint(fmt.Errorf("the tag names an image: %w", errs.Conflict), "give the cache a tag of its own, as in ref="+c.ref.WithTag("cache").Familiar())
		}
		records, changed := u.apply(s.records)
		if !changed && gone == nil {
			return nil
		}
		records.without(gone)
		gone = nil
		err = c.replace(ctx, records, s.digest)
		switch {
		case err == nil, errors.Is(err, errs.Conflict): // look whether it is still there
		case errors.Is(err, errs.Denied), errors.Is(err, errs.Unavailable), ctx.Err() != nil:
			return err
		default: // the registry may have lost layers of older entries, and wants them before the manifest
			var lookErr error
			if gone, lookErr = c.gone(ctx, records.Layers()); lookErr != nil || len(gone) == 0 {
				return err
			}
		}
	}
	return fmt.Errorf("others write it all the time: %w", errs.Conflict)
}

// digest returns what the tag names.
func (c *Registry) digest(ctx context.Context) (oci.Digest, error) {
	desc, err := c.client.Head(ctx, c.ref)
	return desc.Digest, err
}

// pause waits before another try, longer each time and never as long as another writer.
func pause(ctx context.Context, try int) error {
	if try < 2 { // the second look is the check that the first try lasted
		return nil
	}
	t := time.NewTimer(time.Duration(rand.Int64N(int64(20*time.Millisecond) << min(try, 6)))) //nolint:gosec // a pause is no secret
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// replace writes the cache if old is still there.
func (c *Registry) replace(ctx context.Context, records Records, old oci.Digest) error {
	manifest, config, err := records.encode()
	if err != nil {
		return err
	}
	desc := oci.Describe(RecordsType, config)
	_, err = c.client.PushBlob(ctx, c.ref, registry.Source{
		Descriptor: func(context.Context) (oci.Descriptor, error) { return desc, nil },
		Open: func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(config[offset:])), nil
		},
	})
	if err != nil {
		return err
	}
	written, err := c.client.ReplaceManifest(ctx, c.ref, oci.MediaTypeManifest, manifest, old)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = state{digest: written.Digest, records: records}
	return nil
}

// askAtOnce is how many blobs are looked up side by side.
const askAtOnce = 8

// gone returns the layers that the registry does not have.
func (c *Registry) gone(ctx context.Context, layers []oci.Descriptor) (map[oci.Digest]bool, error) {
	var mu sync.Mutex
	gone := map[oci.Digest]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askAtOnce)
	for _, l := range layers {
		g.Go(func() error {
			ok, err := c.Has(ctx, l.Digest)
			if err == nil && !ok {
				mu.Lock()
				defer mu.Unlock()
				gone[l.Digest] = true
			}
			return err
		})
	}
	return gone, g.Wait()
}
