package logfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/errs"
	"slipway/internal/pipeline/store"
	"slipway/internal/pipeline/store/sqlite"
)

func create(t *testing.T) (*File, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "log")
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, name
}

func content(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAppend(t *testing.T) {
	t.Parallel()
	f, name := create(t)
	for _, tt := range []struct {
		what   string
		offset int64
		data   string
		size   int64
		err    error
	}{
		{"at the beginning", 0, "one\n", 4, nil},
		{"again", 0, "one\n", 4, nil},
		{"with what is there", 0, "one\ntwo\n", 8, nil},
		{"half of what is there", 6, "o\nthree\n", 14, nil},
		{"nothing", 14, "", 14, nil},
		{"beyond the end", 15, "four\n", 14, errs.Conflict},
		{"before the beginning", -1, "four\n", 14, errs.Conflict},
	} {
		size, err := f.Append(tt.offset, []byte(tt.data))
		if size != tt.size || !errors.Is(err, tt.err) {
			t.Errorf("%s: Append returned %d, %v, want %d, %v", tt.what, size, err, tt.size, tt.err)
		}
	}
	if got := content(t, name); got != "one\ntwo\nthree\n" {
		t.Errorf("the file has %q", got)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	again, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Size() != 14 {
		t.Errorf("opened again it has %d bytes, want 14", again.Size())
	}
}

// fullDisk is a file on a disk that has room for so many bytes.
type fullDisk struct {
	*os.File
	room int
}

func (d *fullDisk) WriteAt(p []byte, off int64) (int, error) {
	if len(p) > d.room {
		n, err := d.File.WriteAt(p[:d.room], off) // as file systems do: some of it
		return n, errors.Join(err, syscall.ENOSPC)
	}
	n, err := d.File.WriteAt(p, off)
	d.room -= n
	return n, err
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	f, name := create(t)
	disk := &fullDisk{File: f.f.(*os.File), room: 10}
	f.f = disk
	w := NewWriter(f, func(records, bytes int64) ([]byte, error) {
		return fmt.Appendf(nil, "gap %d %d\n", records, bytes), nil
	})
	write := func(text string) {
		t.Helper()
		if err := w.Write([]byte(text), 1); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	write("too long\n")
	if got := content(t, name); got != "first\n" {
		t.Errorf("after a write that did not fit the file has %q", got)
	}
	write("x\n") // it would fit, but what was lost has to be told first
	if _, err := f.Append(f.Size(), []byte("too long\n")); !errors.Is(err, errs.Limit) {
		t.Errorf("Append: %v, want errs.Limit", err)
	}
	disk.room = 100
	write("last\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, name), "first\ngap 2 11\nlast\n"; got != want {
		t.Errorf("the file has %q, want %q", got, want)
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxText-1) + "ä" + strings.Repeat("b", MaxText)
	for _, l := range []Line{
		{Time: 1, Text: "plain"},
		{Time: 1, Text: ""},
		{Time: 2, Kind: Section, Section: 3, Text: "[build 1/2] RUN \"make\"\x1b[1m"},
		{Time: 3, Stream: 2, Text: long},
		{Text: "bad \xff bytes"},
	} {
		records, err := Encode(l)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for record := range bytes.Lines(records) {
			got, err := Decode(record)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Text) > MaxText || got.Time != l.Time || got.Kind != l.Kind || got.Section != l.Section || got.Stream != l.Stream {
				t.Errorf("Decode returned %+v of %+v", got, l)
			}
			text += got.Text
		}
		if want := strings.ToValidUTF8(l.Text, "\uFFFD"); text != want {
			t.Errorf("the text became %.100q, want %.100q", text, want)
		}
	}
	if records, err := Encode(Line{Text: "ends\r\n"}); err != nil || !strings.Contains(string(records), `"ends"`) {
		t.Errorf("Encode: %s, %v", records, err)
	}
	if _, err := Decode([]byte("{")); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Decode: %v, want errs.Corrupt", err)
	}
}

// reader returns a reader of one log, and the log's file.
func reader(t *testing.T) (*Reader, store.LogKey, *File) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "slipway.db"), sqlite.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	app, err := db.CreateApp(t.Context(), store.App{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	run, err := db.CreateRun(t.Context(), store.NewRun{AppID: app.ID})
	if err != nil {
		t.Fatal(err)
	}
	f, name := create(t)
	return &Reader{Index: db, Path: func(store.LogKey) string { return name }}, store.LogKey{Run: run.ID, Task: "t", Attempt: 1, Stream: store.LogStream}, f
}

func numbered(from, to int) []byte {
	var out []byte
	for i := from; i < to; i++ {
		record, _ := json.Marshal(Line{Text: fmt.Sprintf("line %d", i)})
		out = append(append(out, record...), '\n')
	}
	return out
}

func TestPages(t *testing.T) {
	t.Parallel()
	r, k, f := reader(t)
	page := func(first int64, n int) Page {
		t.Helper()
		p, err := r.Page(t.Context(), k, first, n)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := page(0, 10); p.Lines != 0 || len(p.Records) > 0 || p.Sealed {
		t.Errorf("a page of nothing is %+v", p)
	}
	for i := range 5 { // indexed while it grows, with half a line at the end
		if _, err := f.Append(f.Size(), numbered(i*700, (i+1)*700)); err != nil {
			t.Fatal(err)
		}
		if p := page(0, 1); p.Lines != int64(i+1)*700 {
			t.Errorf("after %d lines the page says %d", (i+1)*700, p.Lines)
		}
	}
	if _, err := f.Append(f.Size(), []byte(`{"text":"ha`)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		first int64
		n     int
		want  []int // first and the line after the last
	}{
		{0, 2, []int{0, 2}},
		{999, 3, []int{999, 1002}},
		{1000, 1, []int{1000, 1001}},
		{3499, 10, []int{3499, 3500}},
		{3500, 10, []int{3500, 3500}},
		{9999, 10, []int{3500, 3500}},
		{-5, 2, []int{3495, 3497}},
		{-9999, 1, []int{0, 1}},
	} {
		p := page(tt.first, tt.n)
		if diff := cmp.Diff(string(numbered(tt.want[0], tt.want[1])), string(p.Records)); diff != "" {
			t.Errorf("Page(%d, %d) mismatch (-want +got):\n%s", tt.first, tt.n, diff)
		}
		if p.First != int64(tt.want[0]) || p.Next != int64(tt.want[1]) {
			t.Errorf("Page(%d, %d) is from %d to %d, want %v", tt.first, tt.n, p.First, p.Next, tt.want)
		}
		rest, err := ReadFrom(f.name, p.Offset, -1, 1<<20)
		if err != nil || string(rest) != string(numbered(tt.want[1], 3500)) {
			t.Errorf("from its offset on come %d bytes: %v", len(rest), err)
		}
	}
	if err := r.Seal(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(f.Size(), []byte("lf\"}\n")); err != nil {
		t.Fatal(err)
	}
	if p := page(0, 1); !p.Sealed || p.Lines != 3500 {
		t.Errorf("after sealing the page is %+v", p)
	}
}

// TestIndexTogether has several bring the index up to date at once.
func TestIndexTogether(t *testing.T) {
	t.Parallel()
	r, k, f := reader(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for last := int64(0); last < 5000; {
				p, err := r.Page(t.Context(), k, -1, 1)
				if err != nil {
					t.Error(err)
					return
				}
				last = p.Lines
			}
		})
	}
	for i := range 10 {
		if _, err := f.Append(f.Size(), numbered(i*500, (i+1)*500)); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	p, err := r.Page(t.Context(), k, 4321, 1)
	if err != nil || string(p.Records) != string(numbered(4321, 4322)) {
		t.Errorf("Page: %s, %v", p.Records, err)
	}
}

func TestReadFrom(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "log")
	if got, err := ReadFrom(name, 0, -1, 10); err != nil || got != nil {
		t.Errorf("ReadFrom of no file: %q, %v", got, err)
	}
	if err := os.WriteFile(name, []byte("one\ntwo\na long line\nhalf"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		offset, end int64
		limit       int
		want        string
	}{
		{0, -1, 100, "one\ntwo\na long line\n"},
		{0, -1, 5, "one\n"},
		{8, -1, 3, "a long line\n"},
		{20, -1, 100, ""},
		{0, 4, 100, "one\n"},
		{4, 4, 100, ""},
		{99, -1, 100, ""},
		{8, 20, 2, "a long line\n"},
	} {
		got, err := ReadFrom(name, tt.offset, tt.end, tt.limit)
		if err != nil || string(got) != tt.want {
			t.Errorf("ReadFrom(%d, %d, %d) = %q, %v, want %q", tt.offset, tt.end, tt.limit, got, err, tt.want)
		}
	}
}
