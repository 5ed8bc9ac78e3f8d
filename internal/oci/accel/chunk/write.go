package chunk

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// summer is blob.Summer.
type summer interface{ Sum() oci.Digest }

// Writer writes one output. Its methods are for one goroutine. The stages of its work are
//
//	caller: lay out -> worker: compress, hash chunks -> output: digest, dst, Entry
//	                -> hash: diffID, content in several chunks -^
//
// where hash and output see batches in order.
type Writer struct {
	ctx   context.Context //nolint:containedctx // lives from NewWriter to Close
	fail  context.CancelCauseFunc
	opts  Options
	dst   io.Writer
	group *errgroup.Group

	cur     *batch
	open    bool   // the last piece of cur may still grow
	between []byte // with Options.Raw, what came since the content of the last entry
	ended   bool
	made    int
	batches int
	free    chan *batch
	work    chan *batch
	order   chan *batch
	ready   chan *batch

	diffID hash.Hash
	plain  int64
	digest hash.Hash // nil: dst knows it
	size   int64
}

// NewWriter returns a Writer to dst. If dst can tell the digest of what was written to it (blob.Summer) it must be new.
// The caller closes the Writer, whether it finishes or not.
func NewWriter(ctx context.Context, dst io.Writer, opts Options) *Writer {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	batches := workers + 3
	w := &Writer{
		opts: opts, dst: dst, group: new(errgroup.Group), diffID: sha256.New(), batches: batches,
		free: make(chan *batch, batches), work: make(chan *batch, batches), order: make(chan *batch, batches), ready: make(chan *batch, batches),
	}
	w.ctx, w.fail = context.WithCancelCause(ctx)
	if _, ok := dst.(summer); !ok {
		w.digest = sha256.New()
	}
	for range workers {
		w.group.Go(w.compress)
	}
	w.group.Go(w.hash)
	w.group.Go(w.output)
	return w
}

// Close ends what goes on. It may follow Finish, and be called again.
func (w *Writer) Close() {
	w.fail(context.Canceled)
	w.end()
	_ = w.group.Wait() // whoever failed has told, or nobody wants to know
}

func (w *Writer) end() {
	if !w.ended {
		w.ended = true
		close(w.work)
		close(w.order)
	}
}

// Finish waits until all that was laid out is written. What Append adds comes after it.
func (w *Writer) Finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.end()
	return w.group.Wait()
}

// Append adds bytes of the plain tar in compressed form, or others that are no part of it, after Finish.
func (w *Writer) Append(plain, compressed []byte) error {
	w.diffID.Write(plain)
	w.plain += int64(len(plain))
	return w.write(compressed)
}

// Rest is what the tar has after the content of its last entry, with Options.Raw.
func (w *Writer) Rest() []byte { return w.between }

// Size is the length of the output so far, after Finish.
func (w *Writer) Size() int64 { return w.size }

// Result describes what was written, after Finish.
func (w *Writer) Result() Result {
	res := Result{DiffID: digest.NewDigest(digest.SHA256, w.diffID), Plain: w.plain, Size: w.size}
	if s, ok := w.dst.(summer); ok {
		res.Digest = s.Sum()
	} else {
		res.Digest = digest.NewDigest(digest.SHA256, w.digest)
	}
	return res
}

// Tar adds the entries of a tar for which keep returns true; nil keeps all. The end of the tar is not added. Errors of
// the tar are of kind errs.Corrupt, those of r stay what they are.
func (w *Writer) Tar(r io.Reader, keep func(*tar.Header) bool) error {
	s := &scanner{in: r}
	for {
		e, err := s.next()
		if errors.Is(err, io.EOF) {
			return w.tail(s)
		}
		if err != nil {
			return err
		}
		if keep != nil && !keep(e.hdr) {
			err = s.discard(e)
		} else {
			err = w.entry(s, e)
		}
		if err != nil {
			return err
		}
	}
}

// tail adds what follows the last entry, when that is wanted.
func (w *Writer) tail(s *scanner) error {
	if !w.opts.Whole {
		return nil
	}
	if err := w.raw(s.raw); err != nil {
		return err
	}
	rest, err := io.ReadAll(io.LimitReader(s.in, maxTail+1))
	if err != nil {
		return s.failed(err)
	}
	if len(rest) > maxTail {
		return errs.Mark(fmt.Errorf("more than %d bytes follow the end of the tar", maxTail), errs.Limit)
	}
	return w.raw(rest)
}

// Headers calls see for every entry of a tar.
func Headers(r io.Reader, see func(*tar.Header)) error {
	s := &scanner{in: r}
	for {
		e, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		see(e.hdr)
		if err := s.discard(e); err != nil {
			return err
		}
	}
}

// discard reads over an entry.
func (s *scanner) discard(e *entry) (err error) {
	switch {
	case e.sparse != nil:
		if _, err = io.Copy(io.Discard, e.sparse.file); err == nil {
			return s.skip(e.sparse)
		}
	case e.content != nil:
		_, err = io.CopyN(io.Discard, s.in, e.hdr.Size+padding(e.hdr.Size))
	}
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// File adds a file that no tar has.
func (w *Writer) File(hdr *tar.Header, content []byte) error {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := t.WriteHeader(hdr); err != nil {
		return fmt.Errorf("%s: %w", hdr.Name, err)
	}
	s := &scanner{in: io.MultiReader(&b, bytes.NewReader(content), bytes.NewReader(make([]byte, padding(int64(len(content))))))}
	e, err := s.next()
	if err != nil {
		return err
	}
	return w.entry(s, e)
}

// entry lays out an entry.
func (w *Writer) entry(s *scanner, e *entry) error {
	file := &Entry{Header: e.hdr, Name: clean(e.hdr.Name)}
	switch {
	case e.sparse != nil && w.opts.NoSparse:
		return fmt.Errorf("%s: %w", file.Name, ErrSparse)
	case e.sparse != nil:
		return w.fill(s, e, file)
	}
	if err := w.headers(file, e.raw); err != nil {
		return err
	}
	if e.content == nil {
		return w.done(file)
	}
	if err := w.content(s, e.content, e.hdr.Size, file); err != nil {
		return err
	}
	pad := padding(e.hdr.Size)
	var zeros [tarBlock]byte // what is there may be anything, and belongs to the tar
	if _, err := io.ReadFull(s.in, zeros[:pad]); err != nil {
		return s.failed(err)
	}
	return w.raw(zeros[:pad])
}

// fill writes a sparse file out.
func (w *Writer) fill(s *scanner, e *entry, file *Entry) error {
	hdr := *e.hdr
	hdr.Typeflag, hdr.Format, hdr.PAXRecords = tar.TypeReg, tar.FormatUnknown, nil
	for k, v := range e.hdr.PAXRecords {
		if !strings.HasPrefix(k, "GNU.sparse.") {
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords[k] = v
		}
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&hdr); err != nil {
		return s.corrupt(err)
	}
	file.Header = &hdr
	if err := w.headers(file, b.Bytes()); err != nil {
		return err
	}
	if hdr.Size == 0 {
		if err := w.done(file); err != nil {
			return err
		}
		return s.skip(e.sparse)
	}
	if err := w.content(s, e.sparse.file, hdr.Size, file); err != nil {
		return err
	}
	// The end of the map may say that more was there.
	if n, err := io.Copy(io.Discard, e.sparse.file); err != nil || n > 0 {
		return s.failed(errors.Join(err, tar.ErrHeader))
	}
	if err := w.raw(make([]byte, padding(hdr.Size))); err != nil {
		return err
	}
	return s.skip(e.sparse)
}
