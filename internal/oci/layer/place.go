package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"golang.org/x/sys/unix"
)

// PlaceOptions change how files are placed. The zero value is good.
type PlaceOptions struct {
	// Epoch is the latest modification time that files get. Default: times as they are.
	Epoch *time.Time
}

// Place makes files in dir, an empty directory, in the form of an overlay's upper directory. The result is the same
// as that of Apply on what Write makes of them: modes, owners, times in whole seconds, hard links, extended attributes.
// Parents that are not among the files are made, owned by root, with mode 0755.
//
// Content is copied in parallel, inside the kernel where a file has a Source, and without its holes. Of several entries
// with the same path the last one counts. When Place fails dir is left as it is.
func Place(ctx context.Context, dir string, files iter.Seq2[File, error], opts PlaceOptions) error {
	if err := place(ctx, dir, files, opts); err != nil {
		return fmt.Errorf("place files in %s: %w", dir, full(err))
	}
	return nil
}

func place(ctx context.Context, dir string, files iter.Seq2[File, error], opts PlaceOptions) error {
	t, err := newTree(ctx, dir)
	if err != nil {
		return err
	}
	defer t.abandon()
	for f, err := range files {
		if err == nil {
			err = t.place(&f, opts.Epoch)
		}
		if err != nil {
			t.fail(err)
			return t.stop()
		}
	}
	_, err = t.finish()
	return err
}

func (t *tree) place(f *File, epoch *time.Time) error {
	if err := checkName(f.Path); err != nil {
		return err
	}
	e := f.Entry
	e.ModTime = clampTime(e.ModTime, epoch)
	if err := t.add(&e, func(dir *node, name string, e *Entry) error { return t.content(dir, name, e, f) }); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

// content queues a file, or writes it here if only the caller's goroutine can read it.
func (t *tree) content(dir *node, name string, e *Entry, f *File) (err error) {
	switch {
	case !e.IsRegular() || e.Size == 0 && f.Source == "":
		return t.put(dir, name, e, task{})
	case f.Source != "":
		return t.put(dir, name, e, task{source: f.Source, ctime: f.Ctime})
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return t.read(dir, name, e, r)
}

// read makes a regular file of what r has, which is as much as the entry says.
func (t *tree) read(dir *node, name string, e *Entry, r io.Reader) error {
	if e.Size > smallFile {
		return t.stream(dir, name, e, r)
	}
	data, err := t.space(int(e.Size))
	if err != nil {
		return err
	}
	if n, err := io.ReadFull(r, data); err != nil {
		return short(err, e.Size, int64(n))
	}
	return t.put(dir, name, e, task{data: data})
}

// stream writes a long file as it is read.
func (t *tree) stream(dir *node, name string, e *Entry, r io.Reader) (err error) {
	h, err := t.handle(dir)
	if err != nil {
		return err
	}
	fd, err := create(h, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	n := &node{name: name, parent: dir}
	t.describe(n, e)
	dir.children[name] = n
	if err := t.sparse(fd, r, e.Size); err != nil {
		return err
	}
	return t.attributes(fd, e)
}

// sparse writes size bytes of r, leaving out long runs of zeros.
func (t *tree) sparse(fd int, r io.Reader, size int64) error {
	if t.buf == nil {
		t.buf = make([]byte, 256<<10)
	}
	hole := false
	for off := int64(0); off < size; {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		chunk := t.buf[:min(int64(len(t.buf)), size-off)]
		if n, err := io.ReadFull(r, chunk); err != nil {
			return short(err, size, off+int64(n))
		}
		if hole = zero(chunk); !hole {
			if err := writeAt(fd, chunk, off); err != nil {
				return err
			}
		}
		off += int64(len(chunk))
	}
	if hole {
		return full(unix.Ftruncate(fd, size))
	}
	return nil
}

// short says what it means that there was less than expected.
func short(err error, want, got int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("content ends after %d of %d bytes: %w", got, want, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read content: %w", err)
}

// zero says whether p, which is not empty, is all zeros: whether it is one zero followed by itself.
func zero(p []byte) bool { return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }
