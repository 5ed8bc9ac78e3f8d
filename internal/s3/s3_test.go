package s3_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/errs"
	"slipway/internal/s3"
)

// server keeps objects by path and fails as often as it is told to.
type server struct {
	mu      sync.Mutex
	objects map[string]string
	fails   int
	status  int
	asked   []*http.Request
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r)
	data, _ := io.ReadAll(r.Body)
	if s.fails > 0 {
		s.fails--
		w.WriteHeader(s.status)
		_, _ = io.WriteString(w, "<Error><Code>SlowDown</Code><Message>later</Message></Error>")
		return
	}
	if r.Method == http.MethodPut {
		s.objects[r.URL.Path] = string(data)
		return
	}
	object, ok := s.objects[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
		return
	}
	_, _ = io.WriteString(w, object)
}

func start(t *testing.T) (*server, *s3.Bucket) {
	t.Helper()
	s := &server{objects: map[string]string{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, &s3.Bucket{
		Endpoint: h.URL, Name: "cache", KeyID: "id", Secret: "secret", Token: "session", Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
}

func file(t *testing.T, text string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestPutAndGet(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	s.fails, s.status = 2, http.StatusServiceUnavailable
	if err := b.Put(t.Context(), "a b/ü+$", file(t, "content")); err != nil {
		t.Fatal(err)
	}
	if s.objects["/cache/a b/ü+$"] != "content" {
		t.Errorf("objects: %v", s.objects)
	}
	r, err := b.Get(t.Context(), "a b/ü+$")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(data) != "content" {
		t.Errorf("Get: %q, %v", data, err)
	}
	last := s.asked[len(s.asked)-1]
	for header, want := range map[string]string{"Authorization": "AWS4-HMAC-SHA256 Credential=id/20231114/us-east-1/s3/aws4_request,", "X-Amz-Security-Token": "session"} {
		if !strings.HasPrefix(last.Header.Get(header), want) {
			t.Errorf("%s: %q", header, last.Header.Get(header))
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	if _, err := b.Get(t.Context(), "nothing"); !errors.Is(err, errs.NotFound) {
		t.Errorf("Get of nothing: %v", err)
	}
	for _, tt := range []struct {
		status int
		kind   error
		asked  int
	}{{http.StatusForbidden, errs.Denied, 1}, {http.StatusInternalServerError, errs.Unavailable, 3}} {
		s.fails, s.status, s.asked = 3, tt.status, nil
		_, err := b.Get(t.Context(), "x")
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), "get x from bucket cache: ") || !strings.Contains(err.Error(), "SlowDown: later") {
			t.Errorf("Get with status %d: %v, want %v", tt.status, err, tt.kind)
		}
		if len(s.asked) != tt.asked {
			t.Errorf("asked %d times for status %d, want %d", len(s.asked), tt.status, tt.asked)
		}
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := b.Put(ctx, "x", file(t, "")); !errors.Is(err, cause) {
		t.Errorf("Put after a cancel: %v", err)
	}
	for _, broken := range []*s3.Bucket{{Endpoint: "s3.example.com", Name: "b"}, {Endpoint: "ftp://a", Name: "b"}, {Endpoint: "https://a", Name: "b/../c"}, {Endpoint: "https://a"}} {
		broken.Now = time.Now
		if _, err := broken.Get(t.Context(), "x"); !errors.Is(err, errs.Invalid) {
			t.Errorf("Get of %+v: %v, want errs.Invalid", broken.Endpoint, err)
		}
	}
}
