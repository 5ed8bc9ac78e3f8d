package serve_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"slipway/internal/oci/registry/serve"
)

// TestStopDoesNotWaitForSilentConnections opens a connection as browsers and Go's client do ahead of a request.
func TestStopDoesNotWaitForSilentConnections(t *testing.T) {
	t.Parallel()
	r, err := serve.New(serve.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop() }()
	if err := c.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil { // Shutdown alone takes five
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection was not closed: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
