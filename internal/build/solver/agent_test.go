package solver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"slipway/internal/build/plan"
)

// message is one of the agent protocol.
func message(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

// userAgent is an agent that answers every request with its own bytes.
func userAgent(t *testing.T) (socket string, asked func() string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for {
					m, err := readMessage(c)
					if err != nil {
						return
					}
					mu.Lock()
					seen.Write(m[4:])
					mu.Unlock()
					if _, err := c.Write(m); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return socket, func() string {
		mu.Lock()
		defer mu.Unlock()
		return seen.String()
	}
}

// A process reaches the user's agent for what logging in takes, and for nothing that changes the agent.
func TestAgentPassesOnlyWhatLoggingInTakes(t *testing.T) {
	t.Parallel()
	socket, asked := userAgent(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 12))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := serveAgent(dir, socket, &plan.Mount{Mode: 0o600, UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), "agent"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	for _, m := range []struct{ ask, want string }{
		{"\x0b", "\x0b"}, {"\x0dsign", "\x0dsign"}, // identities, a signature
		{"\x13", "\x05"}, {"\x11key", "\x05"}, {"\x16lock", "\x05"}, {"\x1bextension", "\x05"}, // remove all, add, lock
	} {
		if _, err := io.WriteString(c, message(m.ask)); err != nil {
			t.Fatal(err)
		}
		if got, err := readMessage(c); err != nil || string(got) != message(m.want) {
			t.Errorf("answer to %q is %q, %v; want %q", m.ask, got, err, m.want)
		}
	}
	if asked() != "\x0b\x0dsign" {
		t.Errorf("the agent was asked %q", asked())
	}
	other := dial()
	if err := a.close(); err != nil {
		t.Error(err)
	}
	for _, c := range []net.Conn{c, other} {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("a closed agent said %d bytes", n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAgentRefusesHugeMessages(t *testing.T) {
	t.Parallel()
	for _, head := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x00", "\x00\x04\x00\x01"} {
		if _, err := readMessage(strings.NewReader(head + "x")); err == nil {
			t.Errorf("a message that begins with %q was read", head)
		}
	}
}
