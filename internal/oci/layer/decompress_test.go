package layer_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"slipway/internal/errs"
	"slipway/internal/oci/layer"
)

// Whatever claims to be compressed is read to its end, or to an error that says it is damaged.
func FuzzDecompress(f *testing.F) {
	for _, data := range compressed(f) {
		f.Add([]byte(data))
		f.Add([]byte(data[:len(data)/2]))
	}
	f.Add([]byte("\x50\x2a\x4d\x18\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := layer.Decompress(bytes.NewReader(data))
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(r, 8<<20))
			err = errors.Join(err, r.Close())
		}
		if err != nil && !errors.Is(err, errs.Corrupt) {
			t.Errorf("Decompress(%q): %v is not an errs.Corrupt", data, err)
		}
	})
}

const plainText = "some plain text"

// compressed returns plainText in each form, by name.
func compressed(t testing.TB) map[string]string {
	t.Helper()
	forms := map[string]string{
		"none":  plainText,
		"bzip2": "425a68393141592653599dec3c17000005918040002227cc402000310340d0298346438a0812520dbbc2ee48a70a1213bd8782e0",
		"xz":    "fd377a585a000004e6d6b4460200210116000000742fe5a301000e736f6d6520706c61696e20746578740000d476e83f603a24b10001270fdf1afc6a1fb6f37d010000000004595a",
	}
	for _, name := range []string{"bzip2", "xz"} { // made by Python, for want of an encoder
		data, err := hex.DecodeString(forms[name])
		if err != nil {
			t.Fatal(err)
		}
		forms[name] = string(data)
	}
	var gz, zs bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := io.WriteString(w, plainText); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(z, plainText); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	forms["gzip"], forms["zstd"] = gz.String(), zs.String()
	forms["zstd after a skippable frame"] = "\x50\x2a\x4d\x18\x02\x00\x00\x00xx" + zs.String()
	return forms
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	for name, data := range compressed(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := layer.Decompress(iotest.OneByteReader(strings.NewReader(data)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != plainText {
				t.Errorf("read %q, %v; want %q", got, err, plainText)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if name == "none" {
				return
			}
			r, err = layer.Decompress(strings.NewReader(data[:len(data)-3]))
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if !errors.Is(err, errs.Corrupt) {
				t.Errorf("truncated: %v, want corrupt", err)
			}
		})
	}
	for _, short := range []string{"", "B", "\x1f"} {
		r, err := layer.Decompress(strings.NewReader(short))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != short {
			t.Errorf("read %q, %v; want %q", got, err, short)
		}
	}
	if _, err := layer.Decompress(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errs.Corrupt) {
		t.Errorf("a broken stream: %v, want %v", err, io.ErrClosedPipe)
	}
	broken := io.MultiReader(strings.NewReader(compressed(t)["gzip"][:20]), iotest.ErrReader(io.ErrClosedPipe))
	r, err := layer.Decompress(broken)
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errs.Corrupt) {
		t.Errorf("a stream that breaks later: %v, want %v", err, io.ErrClosedPipe)
	}
}
