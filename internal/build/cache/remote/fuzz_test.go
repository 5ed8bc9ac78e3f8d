package remote

import (
	"errors"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"records":{"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08":{"created":"2026-01-01T00:00:00Z","used":"2026-01-01T00:00:00Z"}}}`))
	f.Add([]byte(`{"records":{"x":{"layer":{"size":-1},"folder":"sha256:1"}}}`))
	f.Add([]byte(`{"records":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := decode(data)
		if err != nil {
			if !errors.Is(err, errs.Corrupt) {
				t.Errorf("decode(%q): %v is not errs.Corrupt", data, err)
			}
			return
		}
		for key, e := range records {
			if key.Validate() != nil || !sound(e.Record) {
				t.Errorf("decode(%q) kept %s: %+v", data, key, e)
			}
		}
		if _, _, err := records.encode(); err != nil {
			t.Errorf("encode: %v", err)
		}
	})
}

func FuzzDecodeInline(f *testing.F) {
	f.Add(`[{"key":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","below":0,"layer":1}]`)
	f.Add(`[{"below":-1},{"below":9},{"layer":-1}]`)
	layers := []oci.Descriptor{oci.Describe(oci.MediaTypeLayer, []byte("x"))}
	f.Fuzz(func(t *testing.T, annotation string) {
		records, err := decodeInline(annotation, layers, []oci.Digest{layers[0].Digest})
		if err != nil && !errors.Is(err, errs.Corrupt) {
			t.Errorf("decodeInline(%q): %v is not errs.Corrupt", annotation, err)
		}
		for _, e := range records {
			if !sound(e.Record) {
				t.Errorf("decodeInline(%q) kept %+v", annotation, e)
			}
		}
	})
}
