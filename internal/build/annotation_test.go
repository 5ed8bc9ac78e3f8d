package build_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/errs"
	"slipway/internal/oci"
)

func TestParseAnnotation(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]build.Annotation{
		"a=b":         {{Level: build.OnManifest, Key: "a", Value: "b"}},
		"a.b/c=d=e:f": {{Level: build.OnManifest, Key: "a.b/c", Value: "d=e:f"}},
		"a=":          {{Level: build.OnManifest, Key: "a"}},
		"index,manifest-descriptor:a=b": {
			{Level: build.OnIndex, Key: "a", Value: "b"}, {Level: build.OnManifestDescriptor, Key: "a", Value: "b"},
		},
		"manifest[linux/arm64/v8]:a=b": {{Level: build.OnManifest, Platform: "linux/arm64/v8", Key: "a", Value: "b"}},
	} {
		got, err := build.ParseAnnotation(in)
		if err != nil {
			t.Errorf("ParseAnnotation(%q): %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseAnnotation(%q) mismatch (-want +got):\n%s", in, diff)
		}
	}
	for _, bad := range []string{"", "a", "=b", "index:=b", "image:a=b", "manifest[linux/arm64:a=b", "manifest[arm64]:a=b", "index[linux/arm64]:a=b"} {
		if got, err := build.ParseAnnotation(bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseAnnotation(%q) = %v, %v, want invalid", bad, got, err)
		}
	}
}

func TestAnnotations(t *testing.T) {
	t.Parallel()
	amd64, arm64 := oci.Platform{OS: "linux", Architecture: "amd64"}, oci.Platform{OS: "linux", Architecture: "arm64"}
	all := []build.Annotation{
		{Level: build.OnManifest, Key: "a", Value: "1"},
		{Level: build.OnManifest, Key: "a", Value: "2"},
		{Level: build.OnManifest, Platform: "linux/arm64/v8", Key: "b", Value: "3"},
		{Level: build.OnIndex, Key: "c", Value: "4"},
	}
	want := map[string]string{"a": "2", "b": "3"}
	if diff := cmp.Diff(want, build.Annotations(all, build.OnManifest, arm64)); diff != "" {
		t.Errorf("Annotations mismatch (-want +got):\n%s", diff)
	}
	if got := build.Annotations(all, build.OnIndexDescriptor, amd64); got != nil {
		t.Errorf("Annotations = %v, want none", got)
	}
	if err := build.CheckAnnotations(all, []oci.Platform{amd64, arm64}); err != nil {
		t.Error(err)
	}
	for _, platforms := range [][]oci.Platform{{arm64}, {amd64, {OS: "linux", Architecture: "s390x"}}} {
		if err := build.CheckAnnotations(all, platforms); !errors.Is(err, errs.Invalid) {
			t.Errorf("CheckAnnotations for %v = %v, want invalid", platforms, err)
		}
	}
}
