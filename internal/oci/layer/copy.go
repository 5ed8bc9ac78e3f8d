package layer

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// copyTo copies the file to an empty one inside the kernel, hole by hole.
func (s *source) copyTo(ctx context.Context, out, in int) error {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Size != s.size {
		return changed(s.size, st.Size)
	}
	if st.Blocks*512 >= st.Size {
		return s.copyRange(ctx, out, in, 0, s.size)
	}
	for off := int64(0); off < s.size; {
		data, err := unix.Seek(in, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole
		}
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		hole, err := unix.Seek(in, data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find hole: %w", err)
		}
		hole = min(hole, s.size)
		if err := s.copyRange(ctx, out, in, data, hole); err != nil {
			return err
		}
		off = hole
	}
	if err := unix.Ftruncate(out, s.size); err != nil {
		return full(fmt.Errorf("set size: %w", err))
	}
	return s.check(in)
}

// copyRange copies the bytes from off to end, a few MiB at a time so that it can be stopped.
func (s *source) copyRange(ctx context.Context, out, in int, off, end int64) error {
	for off < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		from, to := off, off
		n, err := unix.CopyFileRange(in, &from, out, &to, int(min(end-off, 16<<20)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
			return s.copyBytes(ctx, out, off, end)
		case err != nil:
			return full(fmt.Errorf("copy: %w", err))
		case n == 0:
			return changed(s.size, off)
		}
		off += int64(n)
	}
	return s.check(in)
}

// copyBytes is copyRange for file systems whose kernels do not do it.
func (s *source) copyBytes(ctx context.Context, out int, off, end int64) error {
	buf := make([]byte, 256<<10)
	for off < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		chunk := buf[:min(int64(len(buf)), end-off)]
		if err := s.read(chunk, off); err != nil {
			return err
		}
		if err := writeAt(out, chunk, off); err != nil {
			return err
		}
		off += int64(len(chunk))
	}
	return nil
}
