package registry_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

// TestImmutableTags has the answers of registries to a push that would move a tag.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]struct {
		status     int
		code, text string
		exists     bool
	}{
		"ECR":               {400, "TAG_INVALID", "The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the tag is immutable.", true},
		"Artifact Registry": {400, "MANIFEST_INVALID", "cannot update tag v1. The repository has enabled tag immutability", true},
		"Harbor":            {412, "PRECONDITION", "Failed to process request due to 'app:v1' configured as immutable.", true},
		"forbidden":         {403, "DENIED", "tag v1 is immutable", true},
		"another refusal":   {403, "DENIED", "requested access to the resource is denied", false},
		"another mistake":   {400, "MANIFEST_INVALID", "manifest invalid", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(`{"errors":[{"code":"` + answer.code + `","message":"` + answer.text + `"}]}`))
			}))
			t.Cleanup(s.Close)
			r, err := ref.Parse(strings.TrimPrefix(s.URL, "http://") + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			_, err = registry.New(registry.Options{}).PushManifest(t.Context(), r, oci.MediaTypeManifest, []byte("{}"))
			if got := errors.Is(err, errs.Exists); err == nil || got != answer.exists {
				t.Errorf("PushManifest = %v: exists is %t, want %t", err, got, answer.exists)
			}
			if answer.exists && (errors.Is(err, errs.Denied) || !strings.Contains(errs.HintOf(err), "v1")) {
				t.Errorf("PushManifest = %v, hint %q", err, errs.HintOf(err))
			}
		})
	}
}

func TestWithNotice(t *testing.T) {
	t.Parallel()
	tries := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(s.Close)
	r, err := ref.Parse(strings.TrimPrefix(s.URL, "http://") + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	ctx := registry.WithNotice(t.Context(), func(text string) { told = append(told, text) })
	c := registry.New(registry.Options{Sleep: func(context.Context, time.Duration) error { return nil }, Retry: registry.Retry{Tries: 4}})
	if _, err := c.PushManifest(ctx, r, oci.MediaTypeManifest, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || !strings.Contains(told[0], "503 service unavailable; trying again in ") || !strings.HasSuffix(told[1], "(try 3 of 4)") {
		t.Errorf("told %q", told)
	}
}
