// Package runlog sends what the tasks of a run say to where a machine keeps its logs: a file for each task in a folder, or
// an HTTP service.
//
//	sink, err := runlog.Open(ctx, target, runlog.Options{…})
//	sink.Write(runlog.Line{…})
//	err = sink.Close()
//
// A target is a folder, DIR/RUN/TASK.log with a line's time in front of each, or an http or https address, which gets a
// POST of JSON lines every second at most. Logs never hold up a run: Write returns at once, and what a service does not
// take in time is counted and lost.
package runlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"slipway/internal/errs"
)

// Line is something that a task said.
type Line struct {
	Time time.Time `json:"time"`
	Run  string    `json:"run"`
	Task string    `json:"task"`
	Text string    `json:"text"`
}

// Sink takes lines. Write may be called from several goroutines at once; nothing may after Close.
type Sink interface {
	Write(l Line)
	// Close waits until everything is where it belongs, for as long as Options.Patience, and says what went wrong since
	// Open.
	Close() error
}

// Options say how a Sink works. The zero Options do.
type Options struct {
	// HTTP carries requests. Default: http.DefaultTransport.
	HTTP http.RoundTripper
	// Interval is how long lines are gathered before they are sent. Default: 1 s.
	Interval time.Duration
	// Patience is how long an HTTP service may take to answer. Default: 5 s.
	Patience time.Duration
}

const (
	interval = time.Second
	patience = 5 * time.Second
	// maxQueue bounds the lines that wait to be sent, maxBatch those of one request.
	maxQueue = 20_000
	maxBatch = 1000
)

// IsAddress tells an address from a folder.
func IsAddress(target string) bool {
	return strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://")
}

// Open opens a target. What a sink does, it does although ctx ends: the end of a run is worth a line, too.
func Open(ctx context.Context, target string, o Options) (Sink, error) {
	if !IsAddress(target) {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil, fmt.Errorf("open the log folder: %w", err)
		}
		return &folder{dir: target, files: map[string]*os.File{}}, nil
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("log service: the address cannot be read: %w", errs.Invalid)
	}
	if o.Interval <= 0 {
		o.Interval = interval
	}
	if o.Patience <= 0 {
		o.Patience = patience
	}
	s := &service{
		address: u, interval: o.Interval, lines: make(chan Line, maxQueue), done: make(chan struct{}),
		client: &http.Client{Transport: o.HTTP, Timeout: o.Patience},
	}
	go s.run(context.WithoutCancel(ctx))
	return s, nil
}

// folder is a Sink of files.
type folder struct {
	dir string

	mu     sync.Mutex
	files  map[string]*os.File
	failed error // the first: the others would say the same
}

func (f *folder) Write(l Line) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return
	}
	file, err := f.file(l)
	if err == nil {
		_, err = fmt.Fprintf(file, "%s %s\n", l.Time.UTC().Format("2006-01-02T15:04:05.000Z"), l.Text)
	}
	f.failed = err
}

func (f *folder) file(l Line) (*os.File, error) {
	name := filepath.Join(safe(l.Run), safe(l.Task)+".log")
	if file, ok := f.files[name]; ok {
		return file, nil
	}
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	f.files[name] = file
	return file, nil
}

// safe makes a name one element of a path.
func safe(name string) string {
	name = strings.ReplaceAll(name, string(filepath.Separator), "_")
	if name == "" || name == "." || name == ".." {
		return "_"
	}
	return name
}

func (f *folder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.failed
	for _, file := range f.files {
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("write logs: %w", err)
	}
	return nil
}

// service is a Sink over HTTP. One goroutine gathers lines and sends them.
type service struct {
	address  *url.URL
	client   *http.Client
	interval time.Duration
	lines    chan Line
	done     chan struct{}

	mu     sync.Mutex
	lost   int
	failed error
}

func (s *service) Write(l Line) {
	select {
	case s.lines <- l:
	default:
		s.lose(1, nil)
	}
}

func (s *service) lose(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += n
	if s.failed == nil {
		s.failed = err
	}
}

func (s *service) run(ctx context.Context) {
	defer close(s.done)
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	var batch []Line
	for {
		select {
		case l, more := <-s.lines:
			if !more {
				s.send(ctx, batch)
				return
			}
			if batch = append(batch, l); len(batch) < maxBatch {
				continue
			}
		case <-ticker.C:
		}
		s.send(ctx, batch)
		batch = batch[:0]
	}
}

func (s *service) send(ctx context.Context, batch []Line) {
	if len(batch) == 0 {
		return
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	for _, l := range batch {
		if err := enc.Encode(l); err != nil {
			s.lose(len(batch), err)
			return
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.address.String(), &body)
	if err != nil {
		s.lose(len(batch), errors.New("the address cannot be used"))
		return
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := s.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which may hold a token
		}
		s.lose(len(batch), err)
		return
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // lets the connection be used again
	if resp.StatusCode/100 != 2 {
		s.lose(len(batch), errors.New(resp.Status))
	}
}

func (s *service) Close() error {
	close(s.lines)
	<-s.done
	if s.lost == 0 {
		return nil
	}
	err := s.failed
	if err == nil {
		err = errors.New("it takes lines more slowly than they come")
	}
	return fmt.Errorf("send logs to %s: %d lines are lost: %w", s.address.Host, s.lost, err)
}
