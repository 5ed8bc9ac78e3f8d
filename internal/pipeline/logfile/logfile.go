// Package logfile keeps the bytes of an attempt's logs in files: records, one JSON object a line.
//
// A File is appended to at an offset that the writer names, so that a writer who does not know whether its last append
// arrived may simply repeat it. What Sync has returned for is on the disk. A record is in the file as a whole or not at
// all, also when the disk is full: then bytes are lost, and a Writer puts a record in their place that says how many.
//
// Readers read the file itself, while it grows or afterwards; see Lines. An index of where lines begin lies in the
// database (store.LogIndex); Reader brings it up to date when somebody asks for a line. Package logfile knows nothing of runs.
package logfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"slipway/internal/errs"
)

// File is a file of records that grows at its end. Its methods may be called from several goroutines. One process at a
// time writes a file.
type File struct {
	mu    sync.Mutex
	f     file
	name  string
	size  int64
	dirty bool
}

// file is what a File needs of an *os.File.
type file interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

// Create opens the file called name for appending, and makes it when it is missing.
func Create(name string) (*File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	return &File{f: f, name: name, size: info.Size()}, nil
}

// Size returns how long the file is: where the next append goes.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// Append puts data at offset and returns how long the file is then. What is already there of it is not written again.
// An offset beyond the end is an errs.Conflict, and the length says from where to send. A full disk is an errs.Limit,
// and the file is as it was.
func (f *File) Append(offset int64, data []byte) (size int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case offset > f.size || offset < 0:
		return f.size, fmt.Errorf("append to log %s at %d, it has %d bytes: %w", f.name, offset, f.size, errs.Conflict)
	case offset+int64(len(data)) <= f.size:
		return f.size, nil
	}
	data = data[f.size-offset:]
	if _, err := f.f.WriteAt(data, f.size); err != nil {
		err = fmt.Errorf("append to log: %w", full(err))
		return f.size, errors.Join(err, f.f.Truncate(f.size))
	}
	f.size += int64(len(data))
	f.dirty = true
	return f.size, nil
}

// full gives the errors of a disk without room their kind.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errs.Mark(err, errs.Limit)
	}
	return err
}

// Sync returns when everything that was appended is on the disk.
func (f *File) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirty {
		return nil
	}
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("sync log: %w", full(err))
	}
	f.dirty = false
	return nil
}

// Close closes the file. It does not sync.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// SizeOf is how long the file called name is, 0 when there is none.
func SizeOf(name string) (int64, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	return info.Size(), nil
}
