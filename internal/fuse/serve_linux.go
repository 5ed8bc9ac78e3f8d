package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// workers is how many questions are answered at once. One that waits for the network holds up no other.
const workers = 8

// Server serves one tree.
type Server struct {
	dir    string
	dev    *os.File
	nodes  []*Node // by id; 0 is none, 1 the root
	opts   Options
	ctx    context.Context //nolint:containedctx // of the reads under way, from Mount to Close
	cancel context.CancelCauseFunc
	done   sync.WaitGroup
	once   sync.Once
	err    error

	probe atomic.Pointer[Node] // the file at probeName, while there is one
}

// Mount shows a tree at dir, a folder. It takes CAP_SYS_ADMIN and /dev/fuse; without them the error is of kind
// errs.Unavailable.
func Mount(ctx context.Context, dir string, root *Node, opts Options) (*Server, error) {
	if opts.Failed == nil {
		opts.Failed = func(error) {}
	}
	if opts.Source == "" {
		opts.Source = "slipway"
	}
	s := &Server{dir: dir, opts: opts, nodes: []*Node{nil}}
	if err := s.number(root); err != nil {
		return nil, fmt.Errorf("serve files at %s: %w", dir, err)
	}
	if err := s.mount(); err != nil {
		err = fmt.Errorf("serve files at %s: %w", dir, errs.Mark(err, errs.Unavailable))
		return nil, errs.Hint(err, "it takes root, and the device /dev/fuse")
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	for range workers {
		s.done.Go(s.work)
	}
	if err := s.refusePoll(); err != nil {
		return nil, errors.Join(fmt.Errorf("serve files at %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// refusePoll has the kernel ask once whether files can be polled. The answer is ENOSYS, and it does not ask again: Go's
// runtime polls every file that this process opens, and does so in a system call that it does not expect to wait. It would
// keep a processor for that, and with it maybe the goroutine that has to answer.
func (s *Server) refusePoll() error {
	s.probe.Store(&Node{Mode: unix.S_IFREG | 0o400, Links: 1, id: uint64(len(s.nodes))})
	defer s.probe.Store(nil)
	fd, err := unix.Open(filepath.Join(s.dir, probeName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return errors.Join(os.NewSyscallError("poll", err), unix.Close(fd))
}

// probeName is a file in the root that no folder lists and that goes away.
const probeName = ".slipway-probe"

// number gives every file its identity, once.
func (s *Server) number(root *Node) error {
	s.add(root)
	for i := 1; i < len(s.nodes); i++ {
		n := s.nodes[i]
		n.names = slices.Sorted(maps.Keys(n.Children))
		for _, name := range n.names {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
				return fmt.Errorf("file name %q: %w", name, errs.Invalid)
			}
			s.add(n.Children[name])
		}
	}
	return nil
}

func (s *Server) add(n *Node) {
	if n.id > 0 && n.id < uint64(len(s.nodes)) && s.nodes[n.id] == n {
		return // it has another name
	}
	n.id = uint64(len(s.nodes))
	if n.Links == 0 {
		n.Links = 1
		if n.Mode&unix.S_IFMT == unix.S_IFDIR {
			n.Links++ // its own "."
		}
		for _, c := range n.Children {
			if c.Mode&unix.S_IFMT == unix.S_IFDIR {
				n.Links++
			}
		}
	}
	s.nodes = append(s.nodes, n)
}

func (s *Server) mount() error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d", fd, s.nodes[1].Mode&unix.S_IFMT, maxRead)
	if err := unix.Mount(s.opts.Source, s.dir, "fuse", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return errors.Join(os.NewSyscallError("mount", err), unix.Close(fd))
	}
	s.dev = os.NewFile(uintptr(fd), "/dev/fuse") // which the runtime polls, so that Close ends reads
	return nil
}

// Close unmounts the tree, also while it is in use, and waits until no question is being answered. What is read from it
// afterwards fails. It may be called again.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.cancel(errs.Canceled)
		if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
			s.err = fmt.Errorf("unmount %s: %w", s.dir, err)
		}
		s.err = errors.Join(s.err, s.dev.Close())
		s.done.Wait()
	})
	return s.err
}

// work answers questions until the mount is gone.
func (s *Server) work() {
	in, out := make([]byte, requestSize), make([]byte, 0, outHeader+4096)
	for {
		n, err := s.dev.Read(in)
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			continue // the question was taken back
		case err != nil:
			return // ENODEV: unmounted; or closed
		}
		r, err := parseRequest(in[:n])
		if err != nil {
			s.opts.Failed(err)
			return
		}
		if r.op == opForget || r.op == opBatchForget || r.op == opInterrupt {
			continue // which want no answer
		}
		b, errno := s.answer(r, reply(out, r))
		out = b[:0]
		_, err = s.dev.Write(finish(b, errno))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, os.ErrClosed) { // ENOENT: nobody waits any more
			s.opts.Failed(err)
		}
		if cap(out) > 2*maxRead {
			out = nil
		}
	}
}

// answer appends the answer to a question to b.
func (s *Server) answer(r request, b []byte) ([]byte, unix.Errno) {
	switch r.op {
	case opInit:
		return appendInit(b, r.body)
	case opDestroy, opRelease:
		return b, 0
	case opStatfs:
		return appendStatfs(b, len(s.nodes)-1), 0
	}
	n := s.node(r.node)
	if n == nil {
		return b, unix.ESTALE
	}
	switch r.op {
	case opLookup:
		name, _, _ := bytes.Cut(r.body, []byte{0})
		if p := s.probe.Load(); p != nil && string(name) == probeName && r.node == 1 {
			return appendEntry(b, p), 0
		}
		return appendEntry(b, n.Children[string(name)]), 0
	case opGetattr:
		return n.appendAttrOut(b), 0
	case opReadlink:
		if n.Mode&unix.S_IFMT != unix.S_IFLNK {
			return b, unix.EINVAL
		}
		return append(b, n.Target...), 0
	case opOpen:
		if n.Opened != nil {
			n.Opened()
		}
		return le.AppendUint64(le.AppendUint64(b, 0), openKeepCache), 0
	case opRead, opReaddir:
		return s.read(r, n, b)
	case opGetxattr, opListxattr:
		return xattr(r, n, b)
	}
	return b, unix.ENOSYS
}

// node returns the file of an identity, nil when there is none.
func (s *Server) node(id uint64) *Node {
	if id < uint64(len(s.nodes)) {
		return s.nodes[id]
	}
	if p := s.probe.Load(); p != nil && id == p.id {
		return p
	}
	return nil
}

func (s *Server) read(r request, n *Node, b []byte) ([]byte, unix.Errno) {
	if len(r.body) < 20 {
		return b, unix.EINVAL
	}
	offset, size := le.Uint64(r.body[8:]), min(le.Uint32(r.body[16:]), maxRead)
	if r.op == opReaddir {
		return n.appendDir(b, offset, int(size)), 0
	}
	if n.Read == nil || offset >= uint64(n.Size) {
		return b, 0
	}
	size = uint32(min(uint64(size), uint64(n.Size)-offset))
	start := len(b)
	b = slices.Grow(b, int(size))[:start+int(size)]
	got, err := n.Read(s.ctx, b[start:], int64(offset))
	if err != nil && !errors.Is(err, io.EOF) {
		if s.ctx.Err() == nil {
			s.opts.Failed(err)
		}
		return b, unix.EIO
	}
	return b[:start+got], 0
}

func xattr(r request, n *Node, b []byte) ([]byte, unix.Errno) {
	if len(r.body) < 8 {
		return b, unix.EINVAL
	}
	room := le.Uint32(r.body)
	if r.op == opListxattr {
		var list strings.Builder
		for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
			list.WriteString(name + "\x00")
		}
		return appendValue(b, list.String(), room)
	}
	name, _, _ := bytes.Cut(r.body[8:], []byte{0})
	value, ok := n.Xattrs[string(name)]
	if !ok {
		return b, unix.ENODATA
	}
	return appendValue(b, value, room)
}
