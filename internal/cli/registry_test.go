package cli

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"slipway/internal/errs"
)

func TestRegistryServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	said, stderr := io.Pipe()
	w.stderr = stderr
	ctx, interrupt := context.WithCancelCause(t.Context())
	code := make(chan int, 1)
	go func() { code <- run(ctx, w.env, []string{"registry", "serve", "--addr", "127.0.0.1:0"}) }()

	line := make([]byte, 100)
	n, err := said.Read(line)
	if err != nil {
		t.Fatalf("read stderr: %v", err)
	}
	addr, ok := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "slipway: listening on ")
	if !ok {
		t.Fatalf("stderr has %q", line[:n])
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("ask the registry: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET /v2/: %s", resp.Status)
	}
	interrupt(errs.Canceled)
	if got := <-code; got != 0 {
		t.Errorf("exit code %d after an interrupt, want 0: it was asked to stop and did", got)
	}
}

func TestRegistryServeRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if code := run(t.Context(), w.env, []string{"registry", "serve", "--addr", "127.0.0.1:http-but-not"}); code != exitFailed {
		t.Errorf("exit code %d on an address that is none, want %d: %s", code, exitFailed, w.err.String())
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:5000": true, "[::1]:5000": true, "127.9.9.9:1": true, "0.0.0.0:5000": false, "[::]:5000": false, "10.0.0.1:5000": false,
	} {
		if got := loopback(addr); got != want {
			t.Errorf("loopback(%q) = %v, want %v", addr, got, want)
		}
	}
}
