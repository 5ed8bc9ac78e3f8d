package remote_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"slipway/internal/build"
	"slipway/internal/build/cache/remote"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
	"slipway/internal/oci/registry"
)

func deleteBlob(t *testing.T, addr, repository string, d oci.Digest) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+addr+"/v2/"+repository+"/blobs/"+d.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("delete blob: %s", resp.Status)
	}
}

// pushInline pushes an image of two layers with an annotation, and returns its layers and diffIDs.
func pushInline(t *testing.T, c *registry.Client, r ref.Ref, annotation string) ([]oci.Descriptor, []oci.Digest) {
	t.Helper()
	diffIDs := []oci.Digest{digest.FromString("one"), digest.FromString("two")}
	var image oci.Image
	image.RootFS.Type, image.RootFS.DiffIDs = "layers", diffIDs
	config, err := oci.Marshal(image)
	if err != nil {
		t.Fatal(err)
	}
	var layers []oci.Descriptor
	for _, data := range [][]byte{[]byte("layer one"), []byte("layer two"), config} {
		if _, err := c.PushBlob(t.Context(), r, source(data)); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, oci.Describe(oci.MediaTypeLayerGzip, data))
	}
	layers = layers[:2]
	m, err := oci.Marshal(oci.NewManifest(oci.Describe(oci.MediaTypeConfig, config), layers, map[string]string{remote.InlineAnnotation: annotation}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushManifest(t.Context(), r, oci.MediaTypeManifest, m); err != nil {
		t.Fatal(err)
	}
	return layers, diffIDs
}

func TestInline(t *testing.T) {
	t.Parallel()
	r, c := parse(t, serveRegistry(t)+"/app:v1"), client(t)
	at := now.Add(time.Second)
	annotation, err := remote.Inline([]remote.InlineStep{
		{Key: key("copy"), Below: 1, Layer: 2, Created: at},
		{Key: key("linked"), Layer: 2, Created: at},
		{Key: key("nothing"), Below: 2, Created: at},
		{Key: key("beyond the image"), Below: 2, Layer: 3, Created: at},
		{Key: key("below nothing"), Below: -1, Created: at},
		{Key: "no key", Created: at},
	})
	if err != nil {
		t.Fatal(err)
	}
	layers, diffIDs := pushInline(t, c, r, annotation)
	got, err := remote.NewRegistry(c, r).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := remote.Records{
		key("copy"):    {Record: build.Record{Below: diffIDs[0], Layer: &layers[1], DiffID: diffIDs[1], Created: at}, Used: at},
		key("linked"):  {Record: build.Record{Layer: &layers[1], DiffID: diffIDs[1], Created: at}, Used: at},
		key("nothing"): {Record: build.Record{Below: digest.FromString(diffIDs[0].String() + " " + diffIDs[1].String()), Created: at}, Used: at},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records mismatch (-want +got):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	from, to := remote.ParseFrom, remote.ParseTo
	for _, tc := range []struct {
		word  string
		parse func(string) (remote.Spec, error)
		want  remote.Spec
		err   string
	}{
		{"host/app:cache", from, remote.Spec{Type: remote.InRegistry, Ref: "host/app:cache"}, ""},
		{"type=registry,ref=host:5000/app", from, remote.Spec{Type: remote.InRegistry, Ref: "host:5000/app"}, ""},
		{"type=registry,ref=a,mode=max,ttl=48h,ignore-error=true", to, remote.Spec{Type: remote.InRegistry, Ref: "a", Max: true, TTL: 48 * time.Hour, IgnoreError: true}, ""},
		{"type=registry,ref=a,image-manifest=true,oci-mediatypes=true,mode=min", to, remote.Spec{Type: remote.InRegistry, Ref: "a"}, ""},
		{"type=local,dest=/c", to, remote.Spec{Type: remote.InFolder, Dir: "/c"}, ""},
		{"type=local,src=/c", from, remote.Spec{Type: remote.InFolder, Dir: "/c"}, ""},
		{"type=inline", to, remote.Spec{Type: remote.InImage}, ""},
		{"type=inline", from, remote.Spec{}, "only to write"},
		{"type=inline,mode=max", to, remote.Spec{}, "its own stages"},
		{"type=gha", to, remote.Spec{}, `type "gha" is not supported`},
		{"type=registry", to, remote.Spec{}, "ref is missing"},
		{"type=local,src=/c", to, remote.Spec{}, `unknown key "src"`},
		{"type=registry,ref=a,mode=max", from, remote.Spec{}, `unknown key "mode"`},
		{"type=registry,ref=a,mode=most", to, remote.Spec{}, "want min or max"},
		{"type=registry,ref=a,ttl=-1h", to, remote.Spec{}, "want a duration"},
		{"type=registry,ref=a,image-manifest=false", to, remote.Spec{}, "unknown key"},
		{"", from, remote.Spec{}, "is not key=value"},
	} {
		got, err := tc.parse(tc.word)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: %v, want %q", tc.word, err, tc.err)
			}
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
			t.Errorf("%q: %v, mismatch (-want +got):\n%s", tc.word, err, diff)
		}
	}
}
