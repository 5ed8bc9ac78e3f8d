package layer

import (
	"context"
	"crypto/sha256"
	"hash"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/oci"
)

const (
	// blockSize is how much of the tar is compressed at a time, on its own. It is part of the output's bytes: it must
	// not depend on the machine.
	blockSize = 1 << 20
	// smallLayer is what a block has room for at first: most layers need no more.
	smallLayer = 64 << 10
	// maxWorkers bounds memory. Beyond it hashing, which is one goroutine, is the limit anyway.
	maxWorkers = 8
)

// pipeline takes blocks of a tar through its stages:
//
//	layout -> worker: read gaps, compress -> hash: diffID -> output: digest, dst
//
// Workers take blocks as they come; hash and output see them in order. A block is used again when output is done.
type pipeline struct {
	codec   codec
	dst     io.Writer
	workers int
	fail    context.CancelCauseFunc // stops all stages

	free  chan *block
	made  int         // blocks that exist
	work  chan *block // to the workers
	order chan *block // to hash
	ready chan *block // from hash to output

	diffID  hash.Hash
	digest  hash.Hash // nil: dst knows it
	crc     uint32
	plain   int64
	written int64
}

// block is a piece of the tar.
type block struct {
	data   []byte // at most blockSize bytes
	gaps   []gap
	out    []byte // data, compressed
	last   bool
	filled chan struct{} // closed when the gaps are read
	packed chan struct{} // closed when out is there
}

// gap is a part of a block that is read from a file.
type gap struct {
	src   *source
	off   int64 // in the file
	start int   // in the block
	size  int
}

// extend adds n bytes to the block, to be overwritten.
func (b *block) extend(n int) []byte {
	start := len(b.data)
	if start+n > cap(b.data) {
		size := blockSize
		if start+n <= smallLayer {
			size = smallLayer
		}
		b.data = append(make([]byte, 0, size), b.data...)
	}
	b.data = b.data[:start+n]
	return b.data[start:]
}

func (b *block) gap(src *source, off int64, n int) {
	b.gaps = append(b.gaps, gap{src: src, off: off, start: len(b.data), size: n})
	b.extend(n)
}

// summer is blob.Summer.
type summer interface{ Sum() oci.Digest }

func newPipeline(c codec, dst io.Writer, fail context.CancelCauseFunc) *pipeline {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	blocks := 2*workers + 2
	p := &pipeline{
		codec: c, dst: dst, workers: workers, fail: fail, diffID: sha256.New(),
		free: make(chan *block, blocks), work: make(chan *block, blocks),
		order: make(chan *block, blocks), ready: make(chan *block, blocks),
	}
	if _, ok := dst.(summer); !ok {
		p.digest = sha256.New()
	}
	return p
}

// start starts the stages. They end after close, with the cause if ctx is canceled.
func (p *pipeline) start(ctx context.Context) *errgroup.Group {
	group := new(errgroup.Group)
	for range p.workers {
		group.Go(func() error { return p.compress(ctx) })
	}
	group.Go(func() error { return p.hash(ctx) })
	group.Go(func() error { return p.output(ctx) })
	return group
}

// next returns an empty block, and waits for one if too many are on their way.
func (p *pipeline) next(ctx context.Context) (*block, error) {
	var b *block
	select {
	case b = <-p.free:
	default:
		if p.made < cap(p.free) {
			p.made++
			b = new(block)
			break
		}
		select {
		case b = <-p.free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	b.data, b.gaps, b.out = b.data[:0], b.gaps[:0], b.out[:0]
	b.filled, b.packed = make(chan struct{}), make(chan struct{})
	return b, nil
}

// submit sends a block on its way. It never blocks: the channels have room for all blocks there are.
func (p *pipeline) submit(b *block) {
	p.work <- b
	p.order <- b
}

// close says that there are no more blocks.
func (p *pipeline) close() {
	close(p.work)
	close(p.order)
}

// compress is a worker. When something failed it still takes the blocks, to close the files that they refer to.
func (p *pipeline) compress(ctx context.Context) error {
	enc := p.codec.encoder()
	for b := range p.work {
		if ctx.Err() != nil {
			b.drop()
			continue
		}
		if err := b.pack(enc); err != nil {
			p.fail(err)
		}
	}
	return nil
}

// pack fills and compresses the block, and tells the later stages.
func (b *block) pack(enc encoder) error {
	if err := b.fill(); err != nil {
		return err
	}
	close(b.filled)
	out, err := enc.encode(b.out, b.data, b.last)
	if err != nil {
		return err
	}
	b.out = out
	close(b.packed)
	return nil
}

// hash computes what is told of the plain tar.
func (p *pipeline) hash(ctx context.Context) error {
	defer close(p.ready)
	for b := range p.order {
		if err := wait(ctx, b.filled); err != nil {
			return err
		}
		p.diffID.Write(b.data)
		p.crc = crc32.Update(p.crc, crc32.IEEETable, b.data)
		p.plain += int64(len(b.data))
		p.ready <- b
	}
	return nil
}

// output writes the compressed blocks to dst.
func (p *pipeline) output(ctx context.Context) error {
	err := p.blocks(ctx)
	if err != nil {
		p.fail(err)
	}
	return err
}

func (p *pipeline) blocks(ctx context.Context) error {
	if err := p.write(p.codec.header()); err != nil {
		return err
	}
	for b := range p.ready {
		if err := wait(ctx, b.packed); err != nil {
			return err
		}
		if err := p.write(b.out); err != nil {
			return err
		}
		p.free <- b
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.write(p.codec.trailer(p.crc, p.plain))
}

func (p *pipeline) write(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if p.digest != nil {
		p.digest.Write(data)
	}
	p.written += int64(len(data))
	_, err := p.dst.Write(data)
	return err
}

// result describes the layer once all stages are done.
func (p *pipeline) result() Result {
	desc := oci.Descriptor{MediaType: p.codec.mediaType(), Size: p.written}
	if s, ok := p.dst.(summer); ok {
		desc.Digest = s.Sum()
	} else {
		desc.Digest = digest.NewDigest(digest.SHA256, p.digest)
	}
	return Result{Descriptor: desc, DiffID: digest.NewDigest(digest.SHA256, p.diffID), Uncompressed: p.plain}
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
