package tree

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"slipway/internal/oci/layer"
	"slipway/internal/tempfile"
)

// Hasher is a Sums that remembers a folder's files by what stat(2) says of them (device, inode, size, change and
// modification time), so that an unchanged file costs no read. Nothing that a program can set back hides a change:
// the change time moves with every write.
//
// A file that changed shortly before it was read is never remembered, since a second write within the same tick of
// the file system's clock would look like none.
type Hasher struct {
	file    string
	started time.Time

	mu    sync.Mutex
	known map[string]record
	dirty bool
}

type record struct {
	stat Stat
	sum  [sha256.Size]byte
}

const (
	hasherMagic   = "slipway-sums-1\n"
	racyWindow    = time.Second // the coarsest clock of a file system in use
	maxRemembered = 1 << 20
)

// OpenHasher returns the hasher whose memory is kept in file. A memory that is missing or cannot be read is an empty
// one. started is the time the build began.
func OpenHasher(file string, started time.Time) *Hasher {
	known, err := readRecords(file)
	if err != nil { // damaged or of another version: every file is read again
		known = map[string]record{}
	}
	return &Hasher{file: file, started: started, known: known}
}

// Sum implements Sums.
func (h *Hasher) Sum(t Tree, e layer.Entry) ([sha256.Size]byte, error) {
	f, ok := t.(*Folder)
	if !ok {
		return sumFile(t, e)
	}
	_, stat, err := f.stat(e.Path)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	h.mu.Lock()
	r, ok := h.known[e.Path]
	h.mu.Unlock()
	if ok && r.stat == stat {
		return r.sum, nil
	}
	sum, err := sumFile(t, e)
	if err != nil {
		return sum, err
	}
	if h.started.UnixNano()-stat.Ctime > int64(racyWindow) {
		h.mu.Lock()
		h.known[e.Path] = record{stat: stat, sum: sum}
		h.dirty = true
		h.mu.Unlock()
	}
	return sum, nil
}

// Save writes the memory back, if it changed. Two builds that save at once leave the memory of one of them.
func (h *Hasher) Save() (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.dirty || len(h.known) > maxRemembered {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(h.file), 0o700); err != nil {
		return err
	}
	tmp, err := tempfile.Create(filepath.Dir(h.file), sumsPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close()) }() // after the renaming: what is closed is taken for abandoned
	if err = writeRecords(tmp, h.known); err == nil {
		err = os.Rename(tmp.Name(), h.file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", h.file, err), os.Remove(tmp.Name()))
	}
	return nil
}

// sumsPrefix begins the name of a memory that is being written.
const sumsPrefix = ".sums-"

// RecoverSums removes the memories in dir that processes which died left half written. It may run at any time.
func RecoverSums(dir string) error {
	if _, err := tempfile.Recover(dir, sumsPrefix); err != nil {
		return fmt.Errorf("sums of files: %w", err)
	}
	return nil
}

func writeRecords(w io.Writer, known map[string]record) error {
	b := bufio.NewWriterSize(w, 256<<10)
	sum := sha256.New()
	out := io.MultiWriter(b, sum)
	if _, err := io.WriteString(b, hasherMagic); err != nil {
		return err
	}
	var head [50]byte
	for p, r := range known {
		binary.LittleEndian.PutUint16(head[0:], uint16(len(p)))
		for i, v := range r.stat.fields() {
			binary.LittleEndian.PutUint64(head[2+8*i:], v)
		}
		for _, part := range [][]byte{head[:], r.sum[:], []byte(p)} {
			if _, err := out.Write(part); err != nil {
				return err
			}
		}
	}
	if _, err := b.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return b.Flush()
}

func (s Stat) fields() [6]uint64 {
	return [6]uint64{s.Dev, s.Ino, uint64(s.Size), uint64(s.Mtime), uint64(s.Ctime), s.Nlink}
}

var errRecords = errors.New("not a memory of sums")

func readRecords(file string) (map[string]record, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]record{}, nil
	}
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(data, []byte(hasherMagic))
	if !ok || len(rest) < sha256.Size {
		return nil, errRecords
	}
	body, sum := rest[:len(rest)-sha256.Size], rest[len(rest)-sha256.Size:]
	if sha256.Sum256(body) != [sha256.Size]byte(sum) {
		return nil, errRecords
	}
	return parseRecords(body)
}

func parseRecords(body []byte) (map[string]record, error) {
	const fixed = 50 + sha256.Size
	known := make(map[string]record, len(body)/120)
	for len(body) > 0 {
		if len(body) < fixed {
			return nil, errRecords
		}
		n := int(binary.LittleEndian.Uint16(body))
		if len(body) < fixed+n {
			return nil, errRecords
		}
		var v [6]uint64
		for i := range v {
			v[i] = binary.LittleEndian.Uint64(body[2+8*i:])
		}
		known[string(body[fixed:fixed+n])] = record{
			stat: Stat{Dev: v[0], Ino: v[1], Size: int64(v[2]), Mtime: int64(v[3]), Ctime: int64(v[4]), Nlink: v[5]},
			sum:  [sha256.Size]byte(body[50:fixed]),
		}
		body = body[fixed+n:]
	}
	return known, nil
}
