package layer_test

import (
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// TestFileRewrittenAfterListing writes other bytes of the same length, and sets the time back: only the change time
// tells.
func TestFileRewrittenAfterListing(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(p, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	files := func() iter.Seq2[layer.File, error] {
		return func(yield func(layer.File, error) bool) {
			yield(layer.File{Entry: layer.Entry{Path: "a", Mode: 0o644, Size: 3}, Source: p, Ctime: st.Ctim.Nano()}, nil)
		}
	}
	if _, err := layer.Write(t.Context(), io.Discard, files(), layer.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Write(t.Context(), io.Discard, files(), layer.Options{}); !errors.Is(err, errs.Conflict) {
		t.Errorf("Write = %v, want a conflict", err)
	}
	if err := layer.Place(t.Context(), t.TempDir(), files(), layer.PlaceOptions{}); !errors.Is(err, errs.Conflict) {
		t.Errorf("Place = %v, want a conflict", err)
	}
}
