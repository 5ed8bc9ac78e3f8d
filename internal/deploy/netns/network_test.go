package netns_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"slipway/internal/deploy/netns"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "listen" {
		serve(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// serve answers one connection with a word.
func serve(word string) {
	l, err := net.Listen("tcp4", "0.0.0.0:9000")
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	c, err := l.Accept()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(c, word)
	_ = c.Close()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes networks")
	}
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter, of util-linux")
	}
}

// Two networks may have the same port, and one process reaches both.
func TestSamePortTwice(t *testing.T) {
	t.Parallel()
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		n, err := netns.New(false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}()
		cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+n.Path(), self, "listen", word)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		c, err := n.Dial(t.Context(), 9000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || string(got) != word {
			t.Errorf("%q, %v; want %q", got, err, word)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if _, err := (&net.Dialer{}).DialContext(t.Context(), "tcp4", "127.0.0.1:9000"); err == nil {
		t.Error("the port is open on the machine itself")
	}
}

// An instance may end while somebody connects to it.
func TestDialBesideClose(t *testing.T) {
	t.Parallel()
	needRoot(t)
	n, err := netns.New(false)
	if err != nil {
		t.Fatal(err)
	}
	var dials sync.WaitGroup
	for range 4 {
		dials.Go(func() {
			for {
				if _, err := n.Dial(t.Context(), 9000); errors.Is(err, net.ErrClosed) {
					return
				}
			}
		})
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	dials.Wait()
}

// With a way to other machines, an instance reaches this one by its address on the pair, and has a default route.
func TestInternet(t *testing.T) {
	t.Parallel()
	needRoot(t)
	n, err := netns.New(true)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "nsenter", "--net="+n.Path(), "cat", "/proc/net/route").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "eth0\t00000000\t") {
		t.Errorf("routes %s, %v", out, err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
