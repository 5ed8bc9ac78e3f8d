// Package netns makes networks for instances of functions: each has a loopback interface and ports of its own, so that
// all of them may listen on port 9000, and, when the function may, a way to other machines.
//
// A Namespace lives as long as it is not closed or its process lives: nothing is left behind by a crash but a rule of
// address translation, which the next process uses again.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"slipway/internal/errs"
)

// Namespace is a network of its own.
type Namespace struct {
	file  *os.File
	close func() error

	mu     sync.RWMutex // whoever enters holds the descriptor open meanwhile
	closed bool
}

// New makes a network. With internet, what is in it reaches other machines through this one, with this one's address.
// Where no network can be made the error is of kind errs.Denied.
func New(internet bool) (*Namespace, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made, 1)
	go func() {
		// The thread has left the network of the process: it is not unlocked, and so ends with the goroutine.
		runtime.LockOSThread()
		f, err := create()
		result <- made{f, err}
	}()
	m := <-result
	if m.err != nil {
		if errors.Is(m.err, unix.EPERM) {
			m.err = errs.Hint(errs.Mark(m.err, errs.Denied), "run as root")
		}
		return nil, fmt.Errorf("make a network for an instance: %w", m.err)
	}
	n := &Namespace{file: m.file}
	if internet {
		end, err := connect(n)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("give an instance a way to other machines: %w", err), n.file.Close())
		}
		n.close = end
	}
	return n, nil
}

// create leaves the process's network for a new one, and brings its loopback interface up.
func create() (_ *os.File, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return nil, err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return nil, err
	}
	return os.Open("/proc/thread-self/ns/net")
}

// Path is a path that other processes of the machine can open the namespace by, while this one lives.
func (n *Namespace) Path() string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.FormatUint(uint64(n.file.Fd()), 10)
}

// Close lets go of the network: it ends with the last process in it.
func (n *Namespace) Close() error {
	n.mu.Lock()
	n.closed = true
	err := n.file.Close()
	n.mu.Unlock()
	if n.close != nil {
		err = errors.Join(n.close(), err)
	}
	return err
}

// Dial connects to a port on the network's loopback interface.
func (n *Namespace) Dial(ctx context.Context, port int) (net.Conn, error) {
	var conn net.Conn
	err := n.inside(func() error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		return err
	})
	return conn, err
}

// enter brings the thread into the network. One that was closed cannot be entered: net.ErrClosed.
func (n *Namespace) enter() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return net.ErrClosed
	}
	return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
}

// inside calls f with the thread in the network. A socket belongs to the network that it was made in, wherever it is
// used afterwards.
func (n *Namespace) inside(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter an instance's network: %w", err)
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	if err := n.enter(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter an instance's network: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave an instance's network: %w", back)) // the thread stays locked, and ends
	}
	runtime.UnlockOSThread()
	return err
}
