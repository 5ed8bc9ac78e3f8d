package serverless

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"slipway/internal/pipeline"
)

// longestLine is where a line without an end is cut.
const longestLine = 64 << 10

// tailSize is how much of what a step wrote to its standard error is kept for ${{ steps.x.error }}.
const tailSize = 16 << 10

// log is what a step tells: events, and a file of its own. Secrets are masked in both.
type log struct {
	task *task
	step pipeline.Step
	out  *stream
	err  *stream

	mu     sync.Mutex // one line at a time
	file   *os.File
	failed error
	tail   []byte
}

// newLog opens the log of a step.
func (t *task) newLog(step pipeline.Step) (*log, error) {
	if err := os.MkdirAll(t.dir.logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the log's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(t.dir.logs, fmt.Sprintf("step_%d.log", step.Number)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make the log: %w", err)
	}
	l := &log{task: t, step: step, file: f}
	l.out, l.err = &stream{log: l, number: 1}, &stream{log: l, number: 2}
	return l, nil
}

// printf logs a sentence of slipway's own.
func (l *log) printf(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		l.line(0, strings.TrimSuffix(line, "\n"))
	}
}

// stream is where a process's output of that number goes.
func (l *log) stream(number int) *stream {
	if number == 2 {
		return l.err
	}
	return l.out
}

func (l *log) line(stream int, text string) {
	text = l.task.mask.text(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if stream == 2 {
		l.tail = append(append(l.tail, text...), '\n')
		if extra := len(l.tail) - tailSize; extra > 0 {
			l.tail = append(l.tail[:0], l.tail[extra:]...)
		}
	}
	if _, err := l.file.WriteString(text + "\n"); err != nil && l.failed == nil {
		l.failed = fmt.Errorf("write the log: %w", err)
	}
	step := l.step
	l.task.job.Emit(pipeline.Event{Kind: pipeline.Log, Step: &step, Text: text, Stream: stream})
}

// errors is the end of what went to the standard error.
func (l *log) errors() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.tail))
}

// close logs what is left of lines without an end.
func (l *log) close() error {
	l.out.flush()
	l.err.flush()
	return errors.Join(l.failed, l.file.Close())
}

// stream makes lines of what a process writes. A secret that comes in two pieces is in one line again before it is looked
// for; a line that is too long is cut where no secret is.
type stream struct {
	log    *log
	number int
	mu     sync.Mutex
	buf    []byte
}

// Write takes output. It never fails: what cannot be logged shows when the log is closed.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, p...)
	rest := s.buf // moved to the front once, not for each line
	for {
		longest := s.log.task.mask.longest()
		if i := bytes.IndexByte(rest, '\n'); i >= 0 && i <= longestLine+longest {
			s.log.line(s.number, string(bytes.TrimSuffix(rest[:i], []byte("\r"))))
			rest = rest[i+1:]
			continue
		}
		if len(rest) < longestLine+longest {
			break
		}
		cut := s.log.task.mask.cut(string(rest[:longestLine+longest]), longestLine)
		if cut == 0 {
			cut = longestLine // all of it is one secret, or several
		}
		s.log.line(s.number, string(rest[:cut]))
		rest = rest[cut:]
	}
	s.buf = append(s.buf[:0], rest...)
	return len(p), nil
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buf) > 0 {
		s.log.line(s.number, string(s.buf))
		s.buf = nil
	}
}
