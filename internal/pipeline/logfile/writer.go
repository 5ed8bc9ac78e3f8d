package logfile

import (
	"errors"
	"fmt"
	"sync"

	"slipway/internal/errs"
)

// Writer appends records to a file, and goes on when the disk is full: it counts what was lost, and once there is room
// again it puts a record in its place.
type Writer struct {
	file *File
	// gap makes the record that stands for n records of so many bytes that were lost.
	gap func(records, bytes int64) ([]byte, error)

	mu          sync.Mutex
	lostRecords int64
	lostBytes   int64
}

// NewWriter returns a writer to f. A record of gap is put where records were lost.
func NewWriter(f *File, gap func(records, bytes int64) ([]byte, error)) *Writer {
	return &Writer{file: f, gap: gap}
}

// GapLine is the record of a log of lines that stands for lost ones; now gives milliseconds since 1970.
func GapLine(now func() int64) func(records, bytes int64) ([]byte, error) {
	return func(records, bytes int64) ([]byte, error) {
		text := fmt.Sprintf("%d lines (%d bytes) are missing here: the disk was full", records, bytes)
		return Encode(Line{Time: now(), Kind: Gap, Text: text})
	}
}

// Write appends records. That the disk is full is no error: it will be seen in the log.
func (w *Writer) Write(records []byte, count int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lostRecords > 0 {
		mark, err := w.gap(w.lostRecords, w.lostBytes)
		if err != nil {
			return err
		}
		if ok, err := w.append(mark); err != nil {
			return err
		} else if ok {
			w.lostRecords, w.lostBytes = 0, 0
		}
	}
	ok := w.lostRecords == 0
	if ok {
		var err error
		if ok, err = w.append(records); err != nil {
			return err
		}
	}
	if !ok {
		w.lostRecords += int64(count)
		w.lostBytes += int64(len(records))
	}
	return nil
}

func (w *Writer) append(data []byte) (ok bool, err error) {
	_, err = w.file.Append(w.file.Size(), data)
	if errors.Is(err, errs.Limit) {
		return false, nil
	}
	return err == nil, err
}

// Close puts down what was lost at the end, if there is room, syncs and closes the file.
func (w *Writer) Close() error {
	err := w.Write(nil, 0)
	return errors.Join(err, w.file.Sync(), w.file.Close())
}

// Sync syncs the file.
func (w *Writer) Sync() error { return w.file.Sync() }
