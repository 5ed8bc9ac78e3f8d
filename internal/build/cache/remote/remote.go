// Package remote keeps what operations of builds came to outside this machine, for other machines: in a registry, in a
// folder that a CI system carries from run to run, or inside an image.
//
// A remote cache is one OCI manifest. Its config holds [Records], key by key; its layers are the blobs that the records
// name, so that a registry keeps them and tools for images can copy the cache. A record says nothing of the machine
// that made it: layers and the file systems below them are named by diffIDs alone.
//
// A [Place] is where a cache lies: [Registry] or [Folder]. It is read whole, once ([Place.Load]); blobs are read when
// their files are needed. It grows by [Place.Put], layer by layer while a build runs, and [Place.Save], which makes the
// records visible and loses nothing that other writers have saved meanwhile.
//
// Whoever can write a cache decides what the builds that read it contain: it is as trusted as a base image.
package remote

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"slipway/internal/build"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// Entry is what a cache knows of one key. Its record names no folder.
type Entry struct {
	build.Record
	// Used is when a build last had this result, to the precision of Update.
	Used time.Time `json:"used"`
}

// Records are the entries of a cache by the key of the operation. Only entries from one build are sure to fit each
// other.
type Records map[oci.Digest]Entry

// Layers returns the blobs of all entries, each once, in the order of their digests.
func (r Records) Layers() []oci.Descriptor {
	byDigest := map[oci.Digest]oci.Descriptor{}
	for _, e := range r {
		if e.Layer != nil {
			byDigest[e.Layer.Digest] = *e.Layer
		}
	}
	layers := make([]oci.Descriptor, 0, len(byDigest))
	for _, d := range slices.Sorted(maps.Keys(byDigest)) {
		layers = append(layers, byDigest[d])
	}
	return layers
}

// Update is what a build adds to a cache.
type Update struct {
	// Records are results that the build had, whether it made them or found them.
	Records map[oci.Digest]build.Record
	// Now is the time of the build, and of the entries' last use.
	Now time.Time
	// TTL drops entries that no build has had for so long. Default: entries are kept.
	TTL time.Duration
}

const (
	// maxEntries keeps the manifest, which lists every layer, well below what registries accept (4 MiB).
	maxEntries = 10_000
	// useStep is how old the time of an entry's last use may get before it is written anew. A rebuild that changes
	// nothing then writes nothing.
	useStep = 24 * time.Hour
)

// apply returns the entries of a cache with an update, and whether they are others than before. The update's win: all
// of one build together describe a path that a build can go from its first step to its last.
func (u Update) apply(old Records) (Records, bool) {
	merged := maps.Clone(old)
	if merged == nil {
		merged = Records{}
	}
	step := useStep
	if u.TTL > 0 {
		step = min(step, u.TTL/4)
	}
	changed := false
	for key, r := range u.Records {
		have, ok := merged[key]
		if ok && same(have.Record, r) && u.Now.Sub(have.Used) < step {
			continue
		}
		merged[key] = Entry{Record: r, Used: u.Now.UTC()}
		changed = true
	}
	if u.TTL > 0 {
		maps.DeleteFunc(merged, func(_ oci.Digest, e Entry) bool {
			expired := u.Now.Sub(e.Used) > u.TTL
			changed = changed || expired
			return expired
		})
	}
	return merged.newest(maxEntries), changed
}

func same(a, b build.Record) bool {
	if a.Below != b.Below || a.DiffID != b.DiffID || !a.Created.Equal(b.Created) || (a.Layer == nil) != (b.Layer == nil) {
		return false
	}
	return a.Layer == nil || a.Layer.Digest == b.Layer.Digest
}

// newest leaves the n entries that were used last.
func (r Records) newest(n int) Records {
	if len(r) <= n {
		return r
	}
	keys := slices.SortedFunc(maps.Keys(r), func(a, b oci.Digest) int { return r[b].Used.Compare(r[a].Used) })
	for _, k := range keys[n:] {
		delete(r, k)
	}
	return r
}

// without drops the entries whose layers are gone.
func (r Records) without(gone map[oci.Digest]bool) {
	maps.DeleteFunc(r, func(_ oci.Digest, e Entry) bool { return e.Layer != nil && gone[e.Layer.Digest] })
}

// Place is where a cache lies. Its methods may be called by several goroutines, and by several processes for the same
// place, at once.
type Place interface {
	// String names the place for people.
	String() string
	// Ref is the repository whose blobs a registry can mount elsewhere; the zero Ref when there is none.
	Ref() ref.Ref
	// Load reads the records. There is no cache yet: errs.NotFound. They are the caller's to change.
	Load(ctx context.Context) (Records, error)
	// Has asks whether a blob is there.
	Has(ctx context.Context, d oci.Digest) (bool, error)
	// Open reads a blob. Its bytes are verified when the reader has returned io.EOF.
	Open(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error)
	// Put brings a blob there, by the cheapest way, also while it is still growing. No record may name it before.
	Put(ctx context.Context, src registry.Source) (registry.Pushed, error)
	// Save adds records whose blobs are there. What others saved meanwhile stays.
	Save(ctx context.Context, u Update) error
}
