package solver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"slipway/internal/build/plan"
	"slipway/internal/errs"
)

// agent is a socket that a RUN sees as its SSH agent's. It passes on what a client needs to log in, and nothing that
// would change the user's agent: no adding, removing or locking of keys.
type agent struct {
	path   string // of the socket
	target string // the user's agent
	listen net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil when closed
	wg    sync.WaitGroup
}

// serveAgent listens in an empty folder until close is called.
func serveAgent(dir, target string, want *plan.Mount) (_ *agent, err error) {
	if _, err := os.Stat(target); err != nil {
		return nil, errs.Mark(err, errs.Invalid)
	}
	a := &agent{path: filepath.Join(dir, "agent"), target: target, conns: map[net.Conn]struct{}{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.listen, err = listenIn(dir, "agent"); err != nil {
		return nil, err
	}
	if err := os.Chmod(a.path, want.Mode.Perm()); err != nil {
		return nil, err
	}
	if err := os.Chown(a.path, want.UID, want.GID); err != nil {
		return nil, err
	}
	a.wg.Go(a.accept)
	return a, nil
}

// listenIn makes a socket in a folder whose path may be longer than the 107 bytes that a socket's may have.
func listenIn(dir, name string) (_ net.Listener, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	path := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the path will mean another folder by then; this one goes as a whole
	return l, nil
}

// accept serves one client after the other, each in a goroutine, until the listener is closed.
func (a *agent) accept() {
	for {
		client, err := a.listen.Accept()
		if err != nil {
			return
		}
		a.wg.Go(func() {
			defer client.Close()
			server, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.target, Net: "unix"})
			if err != nil { // the client learns that its agent is gone
				return
			}
			defer server.Close()
			if a.add(client, server) {
				defer a.remove(client, server)
				_ = relay(client, server) // ends when either side hangs up
			}
		})
	}
}

// add makes connections known to close; not when that was called already.
func (a *agent) add(conns ...net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conns == nil {
		return false
	}
	for _, c := range conns {
		a.conns[c] = struct{}{}
	}
	return true
}

func (a *agent) remove(conns ...net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range conns {
		delete(a.conns, c)
	}
}

// close ends all connections.
func (a *agent) close() error {
	var all []error
	if a.listen != nil {
		all = append(all, a.listen.Close())
	}
	a.mu.Lock()
	for c := range a.conns {
		_ = c.Close() // whoever relays over it closes it too
	}
	a.conns = nil
	a.mu.Unlock()
	a.wg.Wait()
	return errors.Join(all...)
}

// The agent protocol (draft-ietf-sshm-ssh-agent §5.1): a message is its length in four bytes, then its type and content.
const (
	agentIdentities  = 11
	agentSign        = 13
	maxAgentMessage  = 256 << 10
	agentFailureText = "\x00\x00\x00\x01\x05"
)

// relay passes requests on one by one, with their answers.
func relay(client, server io.ReadWriter) error {
	for {
		request, err := readMessage(client)
		if err != nil {
			return err
		}
		if kind := request[4]; kind != agentIdentities && kind != agentSign {
			if _, err := io.WriteString(client, agentFailureText); err != nil {
				return err
			}
			continue
		}
		if _, err := server.Write(request); err != nil {
			return err
		}
		answer, err := readMessage(server)
		if err != nil {
			return err
		}
		if _, err := client.Write(answer); err != nil {
			return err
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxAgentMessage {
		return nil, fmt.Errorf("SSH agent: message of %d bytes: %w", n, errs.Invalid)
	}
	message := append(head[:], make([]byte, n)...)
	_, err := io.ReadFull(r, message[4:])
	return message, err
}
