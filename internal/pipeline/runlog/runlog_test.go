package runlog_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/pipeline/runlog"
)

func line(task, text string) runlog.Line {
	return runlog.Line{Time: time.Date(2026, 11, 27, 8, 0, 0, 5e6, time.FixedZone("", 3600)), Run: "release", Task: task, Text: text}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "logs")
	for range 2 { // a second run adds to what is there
		s, err := runlog.Open(t.Context(), dir, runlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.Write(line("build", "<one> & more"))
		s.Write(line("../../etc/x", "outside"))
		s.Write(line("build", "two"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"build.log":       strings.Repeat("2026-11-27T07:00:00.005Z <one> & more\n2026-11-27T07:00:00.005Z two\n", 2),
		".._.._etc_x.log": strings.Repeat("2026-11-27T07:00:00.005Z outside\n", 2),
	} {
		got, err := os.ReadFile(filepath.Join(dir, "release", name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, %q, want %q", name, err, got, want)
		}
	}
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "release"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := runlog.Open(t.Context(), dir, runlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Write(line("build", "one"))
	s.Write(line("build", "two"))
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "write logs: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Close: %v", err)
	}
	if _, err := runlog.Open(t.Context(), filepath.Join(dir, "release", "below"), runlog.Options{}); err == nil {
		t.Error("a folder below a file was opened")
	}
}

// collector is a log service.
type collector struct {
	status int

	mu       sync.Mutex
	lines    []runlog.Line
	requests int
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	for dec := json.NewDecoder(r.Body); dec.More(); {
		var l runlog.Line
		if err := dec.Decode(&l); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.lines = append(c.lines, l)
	}
	if c.status != 0 {
		w.WriteHeader(c.status)
	}
}

func TestService(t *testing.T) {
	t.Parallel()
	c := &collector{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	s, err := runlog.Open(t.Context(), server.URL+"/ingest?token=hush", runlog.Options{Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	const n = 2500
	for i := range n {
		s.Write(line("build", strconv.Itoa(i)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(c.lines) != n || c.requests != 3 {
		t.Fatalf("%d lines in %d requests, want %d in 3", len(c.lines), c.requests, n)
	}
	got := c.lines[n-1]
	got.Time = got.Time.UTC()
	want := line("build", strconv.Itoa(n-1))
	want.Time = want.Time.UTC()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the last line, mismatch (-want +got):\n%s", diff)
	}
}

// What is lost is counted, and no secret of the address is in the error.
func TestServiceThatDoesNotTakeThem(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(&collector{status: http.StatusInsufficientStorage})
	t.Cleanup(server.Close)
	for address, want := range map[string]string{
		server.URL + "/?token=hush":      "2 lines are lost: 507 Insufficient Storage",
		"http://127.0.0.1:1/?token=hush": "send logs to 127.0.0.1:1: 2 lines are lost: dial tcp",
	} {
		s, err := runlog.Open(t.Context(), address, runlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.Write(line("build", "one"))
		s.Write(line("build", "two"))
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("Close: %v, want %q", err, want)
		}
	}
	if _, err := runlog.Open(t.Context(), "http://", runlog.Options{}); err == nil {
		t.Error("an address without a host was opened")
	}
}
