package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"slipway/internal/tempfile"
)

// replace writes a file so that whoever reads it, also after a crash, finds the old content or the new.
func replace(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := tempfile.Create(dir, ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
		}
		err = errors.Join(err, f.Close())
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// maxLog bounds a function's log in bytes: beyond it, the older half goes.
const maxLog = 16 << 20

// logFile is the log of a function: what its instances write, and when requests began and ended. Its methods may be called
// at once. A log that cannot be written must not stop requests: the loss is marked in it when it can be written again.
type logFile struct {
	name string
	now  func() time.Time

	mu   sync.Mutex
	file *os.File
	size int64
	lost int
}

func openLog(name string, now func() time.Time) *logFile { return &logFile{name: name, now: now} }

// line appends a line: the time, who says it, and what.
func (l *logFile) line(who, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stamp := l.now().UTC().Format("2006-01-02T15:04:05.000Z")
	out := fmt.Appendf(nil, "%s %s %s\n", stamp, who, text)
	if l.lost > 0 {
		out = append(fmt.Appendf(nil, "%s host %d lines were lost here\n", stamp, l.lost), out...)
	}
	if err := l.write(out); err != nil {
		l.lost++
		return
	}
	l.lost = 0
}

func (l *logFile) write(data []byte) error {
	if l.file == nil {
		f, err := os.OpenFile(l.name, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		l.file, l.size = f, info.Size()
	}
	if l.size > maxLog {
		if err := l.halve(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(data)
	l.size += int64(n)
	return err
}

// halve keeps the newer half of the log, from a line's beginning.
func (l *logFile) halve() error {
	kept := make([]byte, l.size/2)
	if _, err := l.file.ReadAt(kept, l.size-int64(len(kept))); err != nil {
		return err
	}
	kept = kept[bytes.IndexByte(kept, '\n')+1:]
	if err := replace(l.name, kept); err != nil {
		return err
	}
	err := l.file.Close()
	l.file = nil
	return errors.Join(err, l.write(nil))
}

// tail gives the last lines.
func (l *logFile) tail(lines int) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if out = append(out, s.Text()); len(out) > 2*lines {
			out = append(out[:0], out[len(out)-lines:]...)
		}
	}
	return out[max(0, len(out)-lines):], nil
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
