package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"slipway/internal/errs"
)

// Write writes files as a compressed tar to dst and says what came of it.
//
// Parents come before what is in them, and the first name of a file before its others; that is the order of Upper. A
// path that is not clean and relative, or that begins with .wh., is an error of kind errs.Invalid; a file whose length
// is not that of its entry is one of kind errs.Conflict that names the file.
//
// The caller's goroutine ranges over files; others read, hash, compress and write to dst, which is never called by two
// of them at once. Memory is bounded, by about 50 MiB, whatever the number and size of the files. If dst can tell the
// digest of what was written to it (blob.Summer) it must be new, and its bytes are not hashed again.
func Write(ctx context.Context, dst io.Writer, files iter.Seq2[File, error], opts Options) (Result, error) {
	res, err := write(ctx, dst, files, opts)
	if err != nil {
		return Result{}, fmt.Errorf("write layer: %w", err)
	}
	return res, nil
}

func write(ctx context.Context, dst io.Writer, files iter.Seq2[File, error], opts Options) (Result, error) {
	return writeBlocks(ctx, dst, opts, func(l *layout) error { return l.files(files) })
}

// writeBlocks compresses what fill lays out.
func writeBlocks(ctx context.Context, dst io.Writer, opts Options, fill func(*layout) error) (Result, error) {
	codec, err := newCodec(opts.Compression)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := &layout{ctx: ctx, pipeline: newPipeline(codec, dst, cancel), epoch: opts.Epoch, collect: opts.Index}
	group := l.pipeline.start(ctx)
	if err := fill(l); err != nil {
		cancel(err) // of several failures the first is the cause, and what all goroutines return
		l.cur.drop()
	}
	l.pipeline.close()
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	res := l.pipeline.result()
	res.Entries = l.entries
	if opts.Index {
		res.Index = NewIndex(l.collected)
	}
	return res, nil
}

// Compress writes a plain tar that somebody else made, byte for byte, as a layer.
func Compress(ctx context.Context, dst io.Writer, plain io.Reader, c Compression) (Result, error) {
	res, err := writeBlocks(ctx, dst, Options{Compression: c}, func(l *layout) error { return l.stream(plain) })
	if err != nil {
		return Result{}, fmt.Errorf("compress layer: %w", err)
	}
	return res, nil
}

// layout lays the tar out in blocks. It writes headers, and leaves gaps for the content of files on this machine: the
// worker that compresses a block reads them just before.
type layout struct {
	ctx       context.Context //nolint:containedctx // lives for one Write
	pipeline  *pipeline
	cur       *block
	header    []byte
	epoch     *time.Time
	entries   int
	collect   bool
	collected []Entry
}

// files lays out all files and the end of the tar.
func (l *layout) files(files iter.Seq2[File, error]) error {
	for file, err := range files {
		if err != nil {
			return err
		}
		if err := l.file(&file); err != nil {
			return err
		}
	}
	// Two empty records end a tar.
	if err := l.zeros(2 * tarBlock); err != nil {
		return err
	}
	return l.flush(true)
}

func (l *layout) file(f *File) error {
	if f.Path == "." && !f.Opaque {
		// The root's own mode and times belong to nobody: containerd and BuildKit leave them out as well.
		return nil
	}
	var err error
	if l.header, err = appendEntry(l.header[:0], &f.Entry, l.epoch); err != nil {
		return err
	}
	if err := l.write(l.header); err != nil {
		return err
	}
	l.entries++
	if l.collect {
		e := f.Entry
		e.ModTime = clampTime(e.ModTime, l.epoch)
		l.collected = append(l.collected, e)
	}
	if !f.IsRegular() {
		return nil
	}
	if err := l.content(f); err != nil {
		return err
	}
	return l.zeros(tarPadding(f.Size))
}

func (l *layout) content(f *File) error {
	switch {
	case f.Source != "":
		return l.gaps(f)
	case f.Open != nil:
		return l.copy(f)
	case f.Size > 0:
		return fmt.Errorf("%s: no content given: %w", f.Path, errs.Invalid)
	}
	return nil
}

// gaps leaves room for the content of a file on this machine. An empty file gets a gap too: it may have grown.
func (l *layout) gaps(f *File) error {
	src := newSource(f)
	defer src.release()
	for off := int64(0); ; {
		if err := l.room(); err != nil {
			return err
		}
		n := min(int64(blockSize-len(l.cur.data)), f.Size-off)
		src.retain()
		l.cur.gap(src, off, int(n))
		if off += n; off == f.Size {
			return nil
		}
	}
}

// copy reads the content of a file that is not one on this machine.
func (l *layout) copy(f *File) (err error) {
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for left := f.Size; left > 0; {
		if err := l.room(); err != nil {
			return err
		}
		n := min(int64(blockSize-len(l.cur.data)), left)
		got, err := io.ReadFull(r, l.cur.extend(int(n)))
		left -= int64(got)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%s: %w", f.Path, changed(f.Size, f.Size-left))
		}
		if err != nil {
			return fmt.Errorf("%s: read: %w", f.Path, err)
		}
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 || !errors.Is(err, io.EOF) {
		if n > 0 {
			return fmt.Errorf("%s: %w", f.Path, changed(f.Size, f.Size+1))
		}
		return fmt.Errorf("%s: read: %w", f.Path, err)
	}
	return nil
}

// stream lays out bytes as they are.
func (l *layout) stream(r io.Reader) error {
	for {
		if err := l.room(); err != nil {
			return err
		}
		have := len(l.cur.data)
		n, err := io.ReadFull(r, l.cur.extend(blockSize-have))
		l.cur.data = l.cur.data[:have+n]
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return l.flush(true)
		case err != nil:
			return err
		}
	}
}

// changed is the error for a file whose length is not what its entry says.
func changed(want, got int64) error {
	what := "shrank"
	if got > want {
		what = "grew"
	}
	return errs.Mark(fmt.Errorf("file %s while it was read: it had %d bytes", what, want), errs.Conflict)
}

func (l *layout) write(p []byte) error {
	for len(p) > 0 {
		if err := l.room(); err != nil {
			return err
		}
		n := min(blockSize-len(l.cur.data), len(p))
		copy(l.cur.extend(n), p)
		p = p[n:]
	}
	return nil
}

func (l *layout) zeros(n int64) error {
	var zeros [2 * tarBlock]byte
	return l.write(zeros[:n])
}

// room makes sure that the current block can take at least one byte.
func (l *layout) room() error {
	if l.cur != nil && len(l.cur.data) < blockSize {
		return nil
	}
	if err := l.flush(false); err != nil {
		return err
	}
	var err error
	l.cur, err = l.pipeline.next(l.ctx)
	return err
}

// flush hands the current block on.
func (l *layout) flush(last bool) error {
	b := l.cur
	l.cur = nil
	if b == nil {
		return nil
	}
	b.last = last
	l.pipeline.submit(b)
	return context.Cause(l.ctx)
}
