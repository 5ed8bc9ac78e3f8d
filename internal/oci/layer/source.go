package layer

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// source is a file on this machine whose content goes into a layer. One that spans several blocks is opened once and
// read by several workers, so it is closed by whoever releases it last.
type source struct {
	name, path string
	size       int64
	ctime      int64
	refs       atomic.Int32

	mu sync.Mutex
	fd int // -1: not open
}

func newSource(f *File) *source {
	s := &source{name: f.Path, path: f.Source, size: f.Size, ctime: f.Ctime, fd: -1}
	s.refs.Store(1)
	return s
}

func (s *source) retain() { s.refs.Add(1) }

func (s *source) release() {
	if s.refs.Add(-1) == 0 && s.fd >= 0 {
		_ = unix.Close(s.fd) // nothing was written: there is no error to lose
	}
}

func (s *source) open() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		fd, err := openFile(unix.AT_FDCWD, s.path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: s.path, Err: err}
		}
		s.fd = fd
	}
	return s.fd, nil
}

// fill reads the content of the block's gaps.
func (b *block) fill() error {
	for i := range b.gaps {
		g := &b.gaps[i]
		err := g.src.read(b.data[g.start:g.start+g.size], g.off)
		g.src.release()
		if err != nil {
			for _, rest := range b.gaps[i+1:] {
				rest.src.release()
			}
			return fmt.Errorf("%s: %w", g.src.name, err)
		}
	}
	return nil
}

// drop gives up what the block, which may be nil, would have read.
func (b *block) drop() {
	if b == nil {
		return
	}
	for _, g := range b.gaps {
		g.src.release()
	}
}

// read reads exactly len(dst) bytes at off. At the end of the file it asks for one byte more, in the same system call,
// to notice that the file grew.
func (s *source) read(dst []byte, off int64) error {
	fd, err := s.open()
	if err != nil {
		return err
	}
	var more [1]byte
	end := off + int64(len(dst))
	for {
		bufs := [2][]byte{dst, more[:]}
		iov := bufs[:1]
		if end == s.size {
			iov = bufs[:]
		}
		n, err := unix.Preadv(fd, iov, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return &os.PathError{Op: "read", Path: s.path, Err: err}
		case n > len(dst):
			return changed(s.size, s.size+1)
		case n == len(dst) && end == s.size && s.ctime != 0:
			return s.check(fd)
		case n == len(dst):
			return nil
		case n == 0:
			return changed(s.size, off)
		}
		dst, off = dst[n:], off+int64(n)
	}
}

// check returns an error if the file is not what it was when it was listed. It is asked after the last byte was read, so
// that nothing read before can be of another version.
func (s *source) check(in int) error {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Size != s.size {
		return changed(s.size, st.Size)
	}
	if s.ctime != 0 && st.Ctim.Nano() != s.ctime {
		return errChanged
	}
	return nil
}

// errChanged is what a file is that has its old size but was written to.
var errChanged = errs.Mark(errors.New("changed while it was being read"), errs.Conflict)

// openFile is openat that does not mind signals and never leaks into child processes.
func openFile(dirfd int, path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags|unix.O_CLOEXEC, perm)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
