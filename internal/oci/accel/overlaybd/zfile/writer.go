package zfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"

	"slipway/internal/errs"
)

const (
	// batchSize is how much a worker compresses at a time. It does not show in the output.
	batchSize = 512 << 10
	// maxWorkers bounds memory, with a batch of input and one of output for each of them twice.
	maxWorkers = 8
)

// Options say how a file is compressed. The zero value is good.
type Options struct {
	// Algorithm is "lz4" or "zstd". Default: lz4.
	Algorithm string
	// BlockSize is the number of plain bytes that are compressed together, a power of two from 4 to 32 KiB. Default: 4
	// KiB with lz4, which is fast to read anywhere; 32 KiB with zstd, which is small.
	BlockSize int
	// Workers is the number of goroutines that compress. It does not change the output. Default: one a processor.
	Workers int
}

// settings returns what the options ask for.
func (o Options) settings() (number uint8, alg algorithm, block int, err error) {
	if number, err = numberOf(o.Algorithm); err != nil {
		return 0, alg, 0, err
	}
	if alg, err = algorithmOf(number); err != nil {
		return 0, alg, 0, err
	}
	if block = o.BlockSize; block == 0 {
		block = alg.block
	}
	if block < 0 || block > math.MaxInt32 || !validBlock(uint32(block)) {
		return 0, alg, 0, fmt.Errorf("block size %d is not a power of two from %d to %d: %w", block, minBlock, maxBlock, errs.Invalid)
	}
	return number, alg, block, nil
}

// Validate returns an error of kind errs.Invalid if no file can be made with the options.
func (o Options) Validate() error {
	_, _, _, err := o.settings()
	return err
}

// Writer makes a ZFile of the bytes that are written to it. Its methods belong to one goroutine. Memory is bounded, and
// the same bytes and options give the same file, however they are cut into writes and on however many processors.
type Writer struct {
	dst   io.WriterAt
	head  header
	alg   algorithm
	block int

	cur     *batch
	made    int           // batches that exist
	free    chan *batch   // to be filled
	work    chan *batch   // to the workers
	order   chan *batch   // to output
	failed  chan struct{} // closed when err is set
	err     error
	once    sync.Once
	running sync.WaitGroup
	started bool
	ended   bool

	index []byte // lengths of the blocks that were written
	pos   int64  // in dst
	plain int64
}

// batch is some blocks on their way.
type batch struct {
	data   []byte
	out    []byte
	sizes  []uint32
	packed chan struct{} // closed when out and sizes are there
}

// NewWriter returns a writer of a file at dst, which must be empty. The caller closes it, whether it finishes or not.
func NewWriter(dst io.WriterAt, opts Options) (*Writer, error) {
	number, alg, block, err := opts.settings()
	if err != nil {
		return nil, err
	}
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	n := 2*min(workers, maxWorkers) + 1
	return &Writer{
		dst: dst, alg: alg, block: block, pos: headerSize,
		head: header{blockSize: uint32(block), algorithm: number, checksums: true},
		free: make(chan *batch, n), work: make(chan *batch, n), order: make(chan *batch, n), failed: make(chan struct{}),
	}, nil
}

// errClosed says that a writer was used after Finish or Close.
var errClosed = errors.New("[bug] ZFile writer is closed")

// Write appends plain bytes. An error may be that of an earlier write.
func (w *Writer) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errClosed
	}
	n := 0
	for n < len(p) {
		if w.cur == nil && !w.next() {
			return n, w.err
		}
		b := w.cur
		took := copy(b.data[len(b.data):cap(b.data)], p[n:])
		b.data = b.data[:len(b.data)+took]
		n += took
		if len(b.data) == cap(b.data) {
			w.submit()
		}
	}
	w.plain += int64(n)
	return n, nil
}

// next takes an empty batch. It returns false when something failed.
func (w *Writer) next() bool {
	w.start()
	select {
	case <-w.failed:
		return false
	default:
	}
	var b *batch
	select {
	case b = <-w.free:
	default:
		if w.made < cap(w.free) {
			w.made++
			b = &batch{data: make([]byte, 0, batchSize)}
			break
		}
		b = <-w.free // output returns batches whatever happens
	}
	b.data, b.out, b.sizes, b.packed = b.data[:0], b.out[:0], b.sizes[:0], make(chan struct{})
	w.cur = b
	return true
}

// submit sends the current batch on its way. The channels have room for all batches there are.
func (w *Writer) submit() {
	w.work <- w.cur
	w.order <- w.cur
	w.cur = nil
}

// start starts the workers and the output, once there is something for them.
func (w *Writer) start() {
	if w.started {
		return
	}
	w.started = true
	for range (cap(w.free) - 1) / 2 {
		w.running.Go(w.compress)
	}
	w.running.Go(w.output)
}

// stop waits for all goroutines.
func (w *Writer) stop() {
	if w.ended {
		return
	}
	w.ended = true
	close(w.work)
	close(w.order)
	w.running.Wait()
}

// fail remembers the first error.
func (w *Writer) fail(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.failed)
	})
}

// compress is a worker.
func (w *Writer) compress() {
	pack, err := w.alg.compressor()
	for b := range w.work {
		if err == nil {
			err = b.pack(pack, w.block, w.alg.bound(w.block)+sumSize)
		}
		if err != nil {
			w.fail(err)
		}
		close(b.packed)
	}
}

// pack compresses the blocks of the batch.
func (b *batch) pack(compress compressor, block, bound int) error {
	if b.out == nil {
		b.out = make([]byte, 0, batchSize/block*bound)
	}
	for data := b.data; len(data) > 0; {
		n := min(block, len(data))
		start := len(b.out)
		out, err := compress(b.out, data[:n])
		if err != nil {
			return fmt.Errorf("compress: %w", err)
		}
		b.out = binary.LittleEndian.AppendUint32(out, checksum(blockSeed, out[start:]))
		b.sizes = append(b.sizes, uint32(len(b.out)-start))
		data = data[n:]
	}
	return nil
}

// output writes batches in order. After a failure it only passes them on.
func (w *Writer) output() {
	for b := range w.order {
		<-b.packed
		select {
		case <-w.failed:
		default:
			if err := w.emit(b); err != nil {
				w.fail(err)
			}
		}
		w.free <- b
	}
}

func (w *Writer) emit(b *batch) error {
	if err := w.put(b.out); err != nil {
		return err
	}
	for _, n := range b.sizes {
		w.index = binary.LittleEndian.AppendUint32(w.index, n)
	}
	return nil
}

// put writes at the end of dst.
func (w *Writer) put(data []byte) error {
	n, err := w.dst.WriteAt(data, w.pos)
	w.pos += int64(n)
	return err
}

// Finish writes what is left, the index, the trailer and the header, and returns the length of the file. Nothing can be
// written after it. A file without a single byte is an error of kind errs.Invalid, as readers do not take one.
func (w *Writer) Finish() (int64, error) {
	if w.ended {
		return 0, errClosed
	}
	if w.cur != nil {
		w.submit()
	}
	w.stop()
	if w.err != nil {
		return 0, w.err
	}
	if w.plain == 0 {
		return 0, fmt.Errorf("ZFile of nothing: %w", errs.Invalid)
	}
	w.head.indexOffset = uint64(w.pos)
	w.head.indexCount = uint64(len(w.index) / entrySize)
	w.head.plainSize = uint64(w.plain)
	w.head.indexSum = checksum(defaultSeed, w.index)
	if err := w.put(w.index); err != nil {
		return 0, err
	}
	w.head.flags = flagData | flagSealed
	if err := w.put(w.head.encode()); err != nil {
		return 0, err
	}
	// The header comes last: a file that has a complete one is complete, and its reader need not look for the trailer.
	w.head.flags = flagHeader | flagData | flagFilled
	if _, err := w.dst.WriteAt(w.head.encode(), 0); err != nil {
		return 0, err
	}
	return w.pos, nil
}

// Close ends the writer and waits for its goroutines. Without Finish before it what was written is no ZFile. Calling it
// again does nothing.
func (w *Writer) Close() error {
	w.fail(errClosed)
	w.stop()
	return nil
}
