package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// manifestTypes are the media types that Resolve asks for.
const manifestTypes = oci.MediaTypeIndex + ", " + oci.MediaTypeManifest + ", " + oci.DockerManifestList + ", " + oci.DockerManifest

// Resolve reads the manifest or index that a reference names: by its digest when it has one, else by its tag. The bytes
// are no more than oci.MaxManifestBytes, have the descriptor's digest, and that is the reference's own when it has one.
// Errors are NotFound, Denied, Unavailable, Corrupt and Limit.
func (c *Client) Resolve(ctx context.Context, r ref.Ref) (desc oci.Descriptor, manifest []byte, err error) {
	err = c.read(ctx, c.readers(r), func(e endpoint) (err error) {
		desc, manifest, err = c.getManifest(ctx, e, r)
		return err
	})
	if err != nil {
		return oci.Descriptor{}, nil, fmt.Errorf("resolve %s: %w", r, c.loginHint(err, r.Registry()))
	}
	return desc, manifest, nil
}

func (c *Client) getManifest(ctx context.Context, e endpoint, r ref.Ref) (oci.Descriptor, []byte, error) {
	resp, err := c.once(ctx, e, manifestCall(http.MethodGet, e, r), http.StatusOK)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifestBytes+1))
	if err != nil {
		return oci.Descriptor{}, nil, fmt.Errorf("read manifest: %w", networkError(ctx, err))
	}
	if len(data) > oci.MaxManifestBytes {
		return oci.Descriptor{}, nil, errs.Mark(fmt.Errorf("manifest is larger than %d bytes", oci.MaxManifestBytes), errs.Limit)
	}
	desc, err := describe(resp.Header, data, r.Digest())
	return desc, data, err
}

func manifestCall(method string, e endpoint, r ref.Ref) call {
	return call{
		method: method,
		path:   e.path("manifests", reference(r)),
		header: map[string]string{"Accept": manifestTypes},
		scope:  scope{repository: e.repository},
	}
}

// describe holds a manifest against everything that was said about it.
func describe(header http.Header, data []byte, want oci.Digest) (oci.Descriptor, error) {
	mediaType, err := manifestType(header.Get("Content-Type"), data)
	if err != nil {
		return oci.Descriptor{}, err
	}
	desc := oci.Describe(mediaType, data)
	if want != "" {
		if desc.Digest = want.Algorithm().FromBytes(data); desc.Digest != want {
			return oci.Descriptor{}, lie("manifest has digest %s, not %s", desc.Digest, want)
		}
	}
	if err := checkDigestHeader(header, data); err != nil {
		return oci.Descriptor{}, err
	}
	return desc, nil
}

// checkDigestHeader accepts an absent header; it is optional.
func checkDigestHeader(header http.Header, data []byte) error {
	said := oci.Digest(header.Get("Docker-Content-Digest"))
	if said == "" {
		return nil
	}
	if err := said.Validate(); err != nil {
		return lie("it calls the manifest's digest %q", clean(said.String(), nil))
	}
	if got := said.Algorithm().FromBytes(data); got != said {
		return lie("manifest has digest %s, its header says %s", got, said)
	}
	return nil
}

// manifestType finds a manifest's media type: what the manifest says itself, else what the answer says. When both are
// types of manifests and they differ, somebody wants it to be read as two different things (CVE-2021-41190).
func manifestType(contentType string, data []byte) (string, error) {
	header, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		header = ""
	}
	var body struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return "", errs.Mark(fmt.Errorf("manifest is not valid JSON: %w", err), errs.Corrupt)
	}
	if body.Manifests != nil && body.Layers != nil {
		return "", errs.Mark(fmt.Errorf("manifest has both layers and manifests"), errs.Corrupt)
	}
	switch {
	case body.MediaType == "":
		return knownType(header)
	case isManifestType(header) && header != body.MediaType:
		return "", lie("manifest is sent as %s and calls itself %s", header, clean(body.MediaType, nil))
	}
	return knownType(body.MediaType)
}

func isManifestType(mediaType string) bool {
	return oci.IsIndex(mediaType) || oci.IsManifest(mediaType)
}

func knownType(mediaType string) (string, error) {
	if isManifestType(mediaType) {
		return mediaType, nil
	}
	if strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1") {
		return "", fmt.Errorf("image has Docker's first manifest format, which registries gave up; push it again with a current client")
	}
	return "", fmt.Errorf("manifest has the unknown type %q", clean(mediaType, nil))
}

// Head returns the descriptor of what a reference names without reading it, where the registry can tell; the digest is
// then the registry's word.
func (c *Client) Head(ctx context.Context, r ref.Ref) (desc oci.Descriptor, err error) {
	err = c.read(ctx, c.readers(r), func(e endpoint) (err error) {
		desc, err = c.headManifest(ctx, e, r)
		return err
	})
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("look up %s: %w", r, c.loginHint(err, r.Registry()))
	}
	return desc, nil
}

func (c *Client) headManifest(ctx context.Context, e endpoint, r ref.Ref) (oci.Descriptor, error) {
	resp, err := c.once(ctx, e, manifestCall(http.MethodHead, e, r), http.StatusOK, http.StatusMethodNotAllowed)
	if err != nil {
		return oci.Descriptor{}, err
	}
	discardBody(resp)
	desc := oci.Descriptor{Digest: oci.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
	if desc.MediaType, _, err = mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil {
		desc.MediaType = ""
	}
	if resp.StatusCode != http.StatusOK || !isManifestType(desc.MediaType) || desc.Size < 0 || desc.Digest.Validate() != nil {
		desc, _, err = c.getManifest(ctx, e, r)
		return desc, err
	}
	if want := r.Digest(); want != "" && desc.Digest != want {
		return oci.Descriptor{}, lie("asked for manifest %s, it answers for %s", want, desc.Digest)
	}
	return desc, nil
}
