package oci_test

import (
	"encoding/json"
	"errors"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

// An index is a stranger's. What is chosen from it is for the platform that was asked for.
func FuzzChoose(f *testing.F) {
	for _, s := range []string{
		`{"manifests":[{"digest":"sha256:0","platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"manifests":[{"platform":null},{"platform":{"os":"unknown","architecture":"unknown"}},{}]}`,
		`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}`,
		`{"manifests":{}}`, `null`, `[1]`,
	} {
		f.Add([]byte(s), "linux/arm64/v8")
	}
	f.Fuzz(func(t *testing.T, raw []byte, platform string) {
		if d := oci.DescribeManifest(raw); d.Size != int64(len(raw)) || d.Digest.Validate() != nil {
			t.Errorf("DescribeManifest(%q) = %+v", raw, d)
		}
		p, err := oci.ParsePlatform(platform)
		if err != nil {
			return
		}
		got, err := oci.Choose(raw, p)
		switch {
		case err == nil && !oci.SamePlatform(*got.Platform, p):
			t.Errorf("Choose(%q, %s) = %+v", raw, platform, got)
		case err != nil && json.Valid(raw) && errors.Is(err, errs.NotFound) == errors.Is(err, errs.Corrupt):
			t.Errorf("Choose(%q, %s): %v is of no kind, or of two", raw, platform, err)
		}
	})
}

// A platform's text is read as what it says.
func FuzzParsePlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "linux/arm/v7", "linux/arm64/v8", "LINUX/AMD64", "a/b/c/d", "/", "linux//v8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := oci.ParsePlatform(s)
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("ParsePlatform(%q): %v is not an errs.Invalid", s, err)
			}
			return
		}
		again, err := oci.ParsePlatform(oci.FormatPlatform(p))
		if err != nil || !oci.SamePlatform(again, p) {
			t.Errorf("ParsePlatform(%q) = %+v, printed and read again %+v, %v", s, p, again, err)
		}
	})
}
