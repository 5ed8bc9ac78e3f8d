package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// Follow implements [blob.Writer].
func (w *writer) Follow(offset int64) io.ReadCloser {
	w.file.mu.Lock()
	defer w.file.mu.Unlock()
	if w.file.users > 0 {
		w.file.users++
		return &follower{file: w.file, offset: offset}
	}
	return &follower{file: w.file, closed: true}
}

// follower reads a blob while it is being written.
type follower struct {
	file   *shared
	offset int64
	closed bool // guarded by file.mu
	once   sync.Once
	err    error
}

func (f *follower) Read(p []byte) (int, error) {
	available, err := f.wait()
	if err != nil {
		return 0, err
	}
	if int64(len(p)) > available {
		p = p[:available]
	}
	n, err := f.file.file.ReadAt(p, f.offset)
	f.offset += int64(n)
	if n == len(p) {
		err = nil
	}
	return n, err
}

// wait returns how many bytes there are past the offset: at least one, or else the reason why there will be none.
func (f *follower) wait() (int64, error) {
	s := f.file
	s.mu.Lock()
	defer s.mu.Unlock()
	for !f.closed && s.written <= f.offset && s.ended == nil {
		s.grown.Wait()
	}
	switch {
	case f.closed:
		return 0, fmt.Errorf("follow blob: %w", fs.ErrClosed)
	case s.ended != nil && !errors.Is(s.ended, io.EOF):
		return 0, fmt.Errorf("follow blob: %w", s.ended)
	case s.written <= f.offset:
		return 0, io.EOF
	}
	return s.written - f.offset, nil
}

// Close ends a Read that waits, too.
func (f *follower) Close() error {
	f.once.Do(func() {
		f.file.mu.Lock()
		already := f.closed
		f.closed = true
		f.file.grown.Broadcast()
		f.file.mu.Unlock()
		if !already {
			f.err = f.file.release()
		}
	})
	return f.err
}
