package blob

import (
	"context"
	"errors"
	"sync"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// Keeper is a [Store] that holds every blob which passes through it, from the first time that it is asked for or
// written, until it is closed. A build works through one: what the build has found to be there stays there.
type Keeper struct {
	Holder

	mu   sync.Mutex
	held map[oci.Digest]Reader
}

var _ Store = (*Keeper)(nil)

// NewKeeper returns a keeper over a store. Whoever made it closes it.
func NewKeeper(s Holder) *Keeper { return &Keeper{Holder: s, held: map[oci.Digest]Reader{}} }

// Close lets go of all blobs.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []error
	for _, r := range k.held {
		all = append(all, r.Close())
	}
	clear(k.held)
	return errors.Join(all...)
}

// keep holds a blob and returns its size.
func (k *Keeper) keep(ctx context.Context, d oci.Digest) (int64, error) {
	k.mu.Lock()
	r, ok := k.held[d]
	k.mu.Unlock()
	if ok {
		return r.Size(), nil
	}
	r, err := k.Hold(ctx, d)
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if other, ok := k.held[d]; ok { // two asked at once
		return other.Size(), r.Close()
	}
	k.held[d] = r
	return r.Size(), nil
}

// Stat implements [Store].
func (k *Keeper) Stat(ctx context.Context, d oci.Digest) (int64, error) { return k.keep(ctx, d) }

// Open implements [Store].
func (k *Keeper) Open(ctx context.Context, d oci.Digest) (Reader, error) {
	if _, err := k.keep(ctx, d); err != nil {
		return nil, err
	}
	return k.Holder.Open(ctx, d)
}

// Put implements [Store].
func (k *Keeper) Put(ctx context.Context, data []byte) (oci.Digest, error) {
	for {
		d, err := k.Holder.Put(ctx, data)
		if err != nil {
			return "", err
		}
		if _, err = k.keep(ctx, d); err == nil || !errors.Is(err, errs.NotFound) {
			return d, err
		}
	}
}

// Create implements [Store].
func (k *Keeper) Create(ctx context.Context) (Writer, error) {
	w, err := k.Holder.Create(ctx)
	if err != nil {
		return nil, err
	}
	kept := keptWriter{Writer: w, keeper: k}
	if sum, ok := w.(Summer); ok {
		return struct {
			keptWriter
			Summer
		}{kept, sum}, nil
	}
	return kept, nil
}

// keptWriter holds what it commits.
type keptWriter struct {
	Writer
	keeper *Keeper
}

func (w keptWriter) Commit(ctx context.Context, want oci.Digest) (oci.Descriptor, error) {
	desc, err := w.Writer.Commit(ctx, want)
	if err != nil {
		return desc, err
	}
	_, err = w.keeper.keep(ctx, desc.Digest) // the writer holds it until it is closed
	return desc, err
}
