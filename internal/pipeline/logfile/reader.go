package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store"
)

// MarkEvery is how many lines lie between two marks of the index.
const MarkEvery = 1000

// Reader finds lines in a log by number. It keeps no state of its own: files and the index are all there is.
type Reader struct {
	// Index keeps where lines begin.
	Index store.LogIndex
	// Path says which file a log is in.
	Path func(store.LogKey) string
}

// Page is a part of a log.
type Page struct {
	// Records are whole records, one a line, as they are in the file.
	Records []byte
	// First is the number of the first of them, counted from 0; Next that of the first after them.
	First, Next int64
	// Offset is where in the file the next record begins.
	Offset int64
	// Lines and Bytes are how many there are by now; Sealed says that there will not be more.
	Lines, Bytes int64
	Sealed       bool
}

// maxPage bounds the bytes of a page: one record at least, whatever its size.
const maxPage = 4 << 20

// Page returns up to n lines from line first on. A negative first counts from the end.
func (r *Reader) Page(ctx context.Context, k store.LogKey, first int64, n int) (Page, error) {
	state, err := r.index(ctx, k, false)
	if err != nil {
		return Page{}, err
	}
	if first < 0 {
		first = max(0, state.Lines+first)
	}
	page := Page{First: min(first, state.Lines), Next: min(first, state.Lines), Offset: state.Bytes, Lines: state.Lines, Bytes: state.Bytes, Sealed: state.Sealed}
	if first >= state.Lines {
		return page, nil
	}
	mark, err := r.Index.MarkBefore(ctx, k, first)
	if err != nil {
		return Page{}, err
	}
	return page, r.fill(k, mark, n, &page)
}

// fill reads the lines of a page.
func (r *Reader) fill(k store.LogKey, mark store.Mark, n int, page *Page) error {
	f, err := os.Open(r.Path(k))
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	lines := bufio.NewReaderSize(io.NewSectionReader(f, mark.Offset, page.Bytes-mark.Offset), 64<<10)
	page.Offset = mark.Offset
	for line := mark.Line; line < page.First+int64(n); line++ {
		record, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if line >= page.First && len(page.Records) > 0 && len(page.Records)+len(record) > maxPage {
			break
		}
		page.Offset += int64(len(record))
		if line >= page.First {
			page.Records = append(page.Records, record...)
			page.Next = line + 1
		}
	}
	return nil
}

// Seal brings the index up to date for the last time. What is appended later is not part of the log.
func (r *Reader) Seal(ctx context.Context, k store.LogKey) error {
	_, err := r.index(ctx, k, true)
	return err
}

// index brings the index up to date, and seals it. Somebody else may do the same at the same time: then theirs counts.
func (r *Reader) index(ctx context.Context, k store.LogKey, seal bool) (store.LogState, error) {
	for {
		state, err := r.Index.LogState(ctx, k)
		if err != nil || state.Sealed {
			return state, err
		}
		next, marks, err := scan(r.Path(k), state)
		if err != nil {
			return state, err
		}
		if next.Sealed = seal; next == state {
			return state, nil
		}
		err = r.Index.ExtendLog(ctx, k, state, next, marks)
		if errors.Is(err, errs.Conflict) {
			continue
		}
		return next, err
	}
}

// scan counts the whole lines of a file from a state on.
func scan(name string, from store.LogState) (to store.LogState, marks []store.Mark, err error) {
	to = from
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return to, nil, nil
	}
	if err != nil {
		return to, nil, fmt.Errorf("index log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(from.Bytes, io.SeekStart); err != nil {
		return to, nil, fmt.Errorf("index log: %w", err)
	}
	buffer, position := make([]byte, 256<<10), from.Bytes
	for {
		n, err := f.Read(buffer)
		for chunk := buffer[:n]; ; {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 {
				position += int64(len(chunk))
				break
			}
			chunk = chunk[i+1:]
			position += int64(i) + 1
			to.Lines++
			to.Bytes = position
			if to.Lines%MarkEvery == 0 {
				marks = append(marks, store.Mark{Line: to.Lines, Offset: position})
			}
		}
		if errors.Is(err, io.EOF) {
			return to, marks, nil
		}
		if err != nil {
			return to, nil, fmt.Errorf("index log: %w", err)
		}
	}
}

// ReadFrom returns whole records from an offset on, up to limit bytes or to end, when that is not negative; one record
// at least when there is one. It is how a log is followed.
func ReadFrom(name string, offset, end int64, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	for {
		room := int64(limit)
		if end >= 0 {
			room = min(room, end-offset)
		}
		if room <= 0 {
			return nil, nil
		}
		buffer := make([]byte, room)
		n, err := f.ReadAt(buffer, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read log: %w", err)
		}
		whole := bytes.LastIndexByte(buffer[:n], '\n') + 1
		if whole > 0 || int64(n) < room || end >= 0 && offset+room >= end {
			return buffer[:whole], nil
		}
		limit *= 2
	}
}
