package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stdio connects the three standard streams: files are handed over, everything else goes through pipes.
type stdio struct {
	files  [3]*os.File // the command's ends
	owned  []*os.File  // those of files that are ours to close once init has them
	copies sync.WaitGroup
	errs   [3]error // of the copying goroutines
	input  *os.File // our end of stdin's pipe
}

func openStdio(spec *Spec) (*stdio, error) {
	s := &stdio{}
	err := s.open(spec)
	if err != nil {
		s.started()
		return nil, errors.Join(fmt.Errorf("connect standard streams: %w", err), s.wait())
	}
	return s, nil
}

func (s *stdio) open(spec *Spec) (err error) {
	if s.files[0], err = s.reader(spec.Stdin); err != nil {
		return err
	}
	if s.files[1], err = s.writer(1, spec.Stdout); err != nil {
		return err
	}
	if same(spec.Stdout, spec.Stderr) {
		s.files[2] = s.files[1]
		return nil
	}
	s.files[2], err = s.writer(2, spec.Stderr)
	return err
}

// same tells whether both streams go to one writer, which then must not be written to from two goroutines.
func same(a, b io.Writer) (equal bool) {
	defer func() {
		if recover() != nil {
			equal = false // the type cannot be compared
		}
	}()
	return a != nil && a == b
}

func (s *stdio) null(flag int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.owned = append(s.owned, f)
	}
	return f, err
}

func (s *stdio) reader(r io.Reader) (*os.File, error) {
	if r == nil {
		return s.null(os.O_RDONLY)
	}
	if f, ok := r.(*os.File); ok {
		return f, nil
	}
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.owned = append(s.owned, in)
	s.input = out
	s.copies.Go(func() {
		_, err := io.Copy(out, r)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) {
			err = nil // a command need not read all of its input
		}
		s.errs[0] = errors.Join(err, closeOnce(out))
	})
	return in, nil
}

func (s *stdio) writer(i int, w io.Writer) (*os.File, error) {
	if w == nil {
		return s.null(os.O_WRONLY)
	}
	if f, ok := w.(*os.File); ok {
		return f, nil
	}
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.owned = append(s.owned, out)
	s.copies.Go(func() {
		_, err := io.Copy(w, in)
		s.errs[i] = errors.Join(err, in.Close())
	})
	return out, nil
}

// child are the descriptors to give to init.
func (s *stdio) child() [3]*os.File { return s.files }

// started closes what init has its own copies of. Output ends when the last process inside has closed its copy.
func (s *stdio) started() {
	for _, f := range s.owned {
		_ = f.Close() // never written to from here
	}
}

// wait returns when all output has been written, to be called when every process inside is gone.
func (s *stdio) wait() error {
	if s.input != nil {
		_ = closeOnce(s.input) // wakes a copy that waits for a reader which is gone
	}
	s.copies.Wait()
	if err := errors.Join(s.errs[:]...); err != nil {
		return fmt.Errorf("copy standard streams: %w", err)
	}
	return nil
}

func closeOnce(f *os.File) error {
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
