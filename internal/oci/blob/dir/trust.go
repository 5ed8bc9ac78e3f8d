package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

const (
	// bootAttr holds the boot in which a blob was written and not flushed, or durable.
	bootAttr = "user.slipway.boot"
	// durable says that the bytes were seen on the disk itself: flushed, or read back in a later boot.
	durable = "durable"
)

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// mark notes how far f, about to be published, may be trusted. Without extended attributes there is nothing to note
// it in, and the file is flushed.
func (s *Store) mark(f *os.File) error {
	value := s.opts.Boot
	if s.opts.Sync {
		if err := f.Sync(); err != nil {
			return err
		}
		value = durable
	}
	err := unix.Fsetxattr(int(f.Fd()), bootAttr, []byte(value), 0)
	if unsupported(err) && !s.opts.Sync {
		return f.Sync()
	}
	if unsupported(err) {
		return nil
	}
	return err
}

// trust returns nil if f holds what d names as far as is known, and reads it to find out if nothing is known. A
// damaged blob is removed and reported as not found, because whoever made it can make it again.
func (s *Store) trust(ctx context.Context, f *os.File, d oci.Digest) error {
	var buf [64]byte
	n, err := unix.Fgetxattr(int(f.Fd()), bootAttr, buf[:])
	switch {
	case err == nil && (string(buf[:n]) == s.opts.Boot || string(buf[:n]) == durable), unsupported(err):
		return nil
	case err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ERANGE):
		return err
	}
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, &contextReader{ctx, io.NewSectionReader(f, 0, 1<<62)}); err != nil {
		return fmt.Errorf("verify: %w", bare(err))
	}
	if !verifier.Verified() {
		s.opts.Logger.WarnContext(ctx, "removed a damaged blob", slog.String("digest", d.String()), slog.String("path", f.Name()))
		return errors.Join(errs.NotFound, s.removeDamaged(f, d))
	}
	// A store that may not be written to is verified each time.
	if err := unix.Fsetxattr(int(f.Fd()), bootAttr, []byte(durable), 0); err != nil && !errors.Is(err, unix.EPERM) &&
		!errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("mark as verified: %w", err)
	}
	return nil
}

// removeDamaged removes a blob that is not what its name says, whoever holds it, unless a sound one has taken its place.
func (s *Store) removeDamaged(f *os.File, d oci.Digest) error {
	path, err := s.Path(d)
	if err != nil {
		return err
	}
	if there, err := named(f, path); err != nil || !there {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bare(err)
	}
	return nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}

// contextReader fails as soon as its context is done.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one io.Copy
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
