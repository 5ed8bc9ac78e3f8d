package oci_test

import (
	"encoding/json"
	"errors"
	"testing"

	"slipway/internal/errs"
	"slipway/internal/oci"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	entry := func(arch, variant string) oci.Descriptor {
		return oci.Descriptor{Digest: oci.Digest("sha256:" + arch + variant), Platform: &oci.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	attestation := entry("amd64", "")
	attestation.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	index, err := json.Marshal(oci.NewIndex([]oci.Descriptor{attestation, entry("arm", "v6"), entry("arm", "v7"), entry("arm64", "v8"), entry("amd64", "")}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for platform, want := range map[string]string{
		"linux/amd64": "sha256:amd64", "linux/amd64/v1": "sha256:amd64", "linux/arm64": "sha256:arm64v8",
		"linux/arm": "sha256:armv7", "linux/arm/v6": "sha256:armv6",
	} {
		p, err := oci.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := oci.Choose(index, p); string(got.Digest) != want || err != nil {
			t.Errorf("Choose(%s) = %s, %v; want %s", platform, got.Digest, err, want)
		}
	}
	_, err = oci.Choose(index, oci.Platform{OS: "linux", Architecture: "s390x"})
	if !errors.Is(err, errs.NotFound) || errs.HintOf(err) != "it is there for linux/arm/v6, linux/arm/v7, linux/arm64/v8, linux/amd64" {
		t.Errorf("Choose(linux/s390x) = %v, hint %q", err, errs.HintOf(err))
	}
	if _, err := oci.Choose([]byte("{"), oci.Platform{}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("Choose of a broken index = %v, want corrupt", err)
	}
}

func TestParsePlatformRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d"} {
		if _, err := oci.ParsePlatform(bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParsePlatform(%q) = %v, want invalid", bad, err)
		}
	}
}

func TestDescribeManifest(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"mediaType":"x/y"}`: "x/y",
		`{"manifests":[]}`:    oci.MediaTypeIndex,
		`{"layers":[]}`:       oci.MediaTypeManifest,
		`nonsense`:            "",
	} {
		if got := oci.DescribeManifest([]byte(raw)); got.MediaType != want || got.Size != int64(len(raw)) {
			t.Errorf("DescribeManifest(%s) = %s, %d bytes; want %s", raw, got.MediaType, got.Size, want)
		}
	}
}
