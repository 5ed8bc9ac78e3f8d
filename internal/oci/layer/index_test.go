package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

func index(t *testing.T) *layer.Index {
	t.Helper()
	return layer.NewIndex(entries(t, seq(everything(t)...)))
}

func TestIndexLookup(t *testing.T) {
	t.Parallel()
	x := index(t)
	for _, e := range entries(t, seq(everything(t)...)) {
		got, ok := x.Lookup(e.Path)
		if diff := cmp.Diff(e, got); !ok || diff != "" {
			t.Errorf("Lookup(%s) = %v, mismatch (-want +got)\n%s", e.Path, ok, diff)
		}
	}
	for _, missing := range []string{"", ".", "nothing", "etc/nothing", "et", "etc/a/b", "/etc"} {
		if e, ok := x.Lookup(missing); ok {
			t.Errorf("Lookup(%q) = %+v, want nothing", missing, e)
		}
	}
}

func TestIndexChildren(t *testing.T) {
	t.Parallel()
	x := layer.NewIndex([]layer.Entry{
		{Path: "b", Mode: fs.ModeDir},
		{Path: "b/z"},
		{Path: "b-c"},
		{Path: "b.d"},
		{Path: "b/a", Mode: fs.ModeDir},
		{Path: "b/a/x"},
		{Path: "."},
		{Path: "!"},
		{Path: "a", Size: 1},
		{Path: "a", Size: 2},
		{Path: "b/.x"},
	})
	if e, _ := x.Lookup("a"); e.Size != 2 || x.Len() != 10 {
		t.Errorf("a has size %d, want that of the last entry; Len() = %d, want 10", e.Size, x.Len())
	}
	for dir, want := range map[string][]string{
		".":   {"!", "a", "b", "b-c", "b.d"},
		"b":   {"b/.x", "b/a", "b/z"},
		"b/a": {"b/a/x"},
		"b/z": nil,
		"c":   nil,
	} {
		var got []string
		for _, e := range x.Children(dir) {
			got = append(got, e.Path)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Children(%s) mismatch (-want +got)\n%s", dir, diff)
		}
	}
}

func TestIndexEncode(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]*layer.Index{"empty": layer.NewIndex(nil), "everything": index(t)} {
		data := x.Encode()
		got, err := layer.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(x.Entries(), got.Entries(), cmpopts.EquateEmpty(), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Errorf("%s mismatch (-want +got)\n%s", name, diff)
		}
		if again := got.Encode(); !bytes.Equal(data, again) {
			t.Errorf("%s: encoding it again gives other bytes", name)
		}
		for i := range data {
			bad := slices.Clone(data)
			bad[i] ^= 0x10
			if _, err := layer.Decode(bad); !errors.Is(err, errs.Corrupt) {
				t.Errorf("%s with byte %d changed: %v, want corrupt", name, i, err)
			}
			if _, err := layer.Decode(data[:i]); !errors.Is(err, errs.Corrupt) {
				t.Errorf("%s cut after byte %d: %v, want corrupt", name, i, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(layer.NewIndex([]layer.Entry{{Path: "a", Link: "b", Xattrs: map[string]string{"k": "v"}}, {Path: "c/d", Whiteout: true}}).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := layer.Decode(layer.WithChecksum(data))
		if err != nil {
			return
		}
		for _, e := range x.Entries() {
			if got, ok := x.Lookup(e.Path); !ok || got.Path != e.Path {
				t.Errorf("Lookup(%q) = %+v, %v", e.Path, got, ok)
			}
		}
		if _, err := layer.Decode(x.Encode()); err != nil {
			t.Error(err)
		}
	})
}

// large is an index the size of a big layer.
func large() *layer.Index {
	var entries []layer.Entry
	for i := range 20_000 {
		entries = append(entries, layer.Entry{
			Path: fmt.Sprintf("usr/share/some/place/d%d/s%d/f%d.js", i%200, i%7, i), Mode: 0o644, Size: int64(i), ModTime: time.Unix(1e9+int64(i), 0),
		})
	}
	return layer.NewIndex(entries)
}

func BenchmarkIndexDecode(b *testing.B) {
	data := large().Encode()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := layer.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIndexLookup(b *testing.B) {
	x := large()
	path := x.Entries()[x.Len()/3].Path
	for b.Loop() {
		if _, ok := x.Lookup(path); !ok {
			b.Fatal("not found")
		}
	}
}
