package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// PushManifest writes a manifest or index under the reference's tag, or by its digest when the reference has no tag.
// What it points at must have been pushed. The error is of kind errs.Exists when the registry lets no tag move. Where the registry does not keep referrers itself, a manifest with a subject
// is also entered in the subject's referrers tag (distribution-spec §referrers-tag-schema).
func (c *Client) PushManifest(ctx context.Context, r ref.Ref, mediaType string, data []byte) (oci.Descriptor, error) {
	return c.pushManifestAs(ctx, r, mediaType, data, nil)
}

// ReplaceManifest is PushManifest for a tag that others write, too: it writes only while the tag names old, or does not
// exist when old is "". Else the error is an errs.Conflict. The condition travels as If-Match (RFC 9110 §13.1), which
// slipway's own registry obeys and the distribution-spec does not know: on other registries a second writer can slip
// in between the look at the tag and the write. Whoever needs to know looks again.
func (c *Client) ReplaceManifest(ctx context.Context, r ref.Ref, mediaType string, data []byte, old oci.Digest) (oci.Descriptor, error) {
	e := c.origin(r) // a mirror may be behind
	var now oci.Descriptor
	err := c.retry(ctx, c.tries(e), func() (err error) {
		now, err = c.headManifest(ctx, e, r)
		return err
	})
	if err != nil && !errors.Is(err, errs.NotFound) {
		return oci.Descriptor{}, fmt.Errorf("look up %s: %w", r, c.loginHint(err, r.Registry()))
	}
	if now.Digest != old {
		return oci.Descriptor{}, fmt.Errorf("push manifest %s: it names another manifest by now: %w", r, errs.Conflict)
	}
	condition := map[string]string{"If-Match": strconv.Quote(old.String())}
	if old == "" {
		condition = map[string]string{"If-None-Match": "*"}
	}
	return c.pushManifestAs(ctx, r, mediaType, data, condition)
}

func (c *Client) pushManifestAs(ctx context.Context, r ref.Ref, mediaType string, data []byte, header map[string]string) (oci.Descriptor, error) {
	desc := oci.Describe(mediaType, data)
	if err := c.pushManifest(ctx, c.origin(r), r, &desc, data, header); err != nil {
		return oci.Descriptor{}, fmt.Errorf("push manifest %s: %w", r, c.loginHint(immutable(err, r), r.Registry()))
	}
	return desc, nil
}

func (c *Client) pushManifest(ctx context.Context, e endpoint, r ref.Ref, desc *oci.Descriptor, data []byte, header map[string]string) error {
	header = maps.Clone(header)
	if header == nil {
		header = map[string]string{}
	}
	header["Content-Type"] = desc.MediaType
	if want := r.Digest(); want != "" {
		if desc.Digest = want.Algorithm().FromBytes(data); desc.Digest != want {
			return errs.Mark(fmt.Errorf("manifest has digest %s, not %s", desc.Digest, want), errs.Invalid)
		}
	}
	name := r.Tag()
	if name == "" {
		name = desc.Digest.String()
	}
	resp, err := c.do(ctx, e, call{
		method: http.MethodPut,
		path:   e.path("manifests", name),
		header: header,
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		length: desc.Size,
		scope:  scope{repository: e.repository, push: true},
	}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	discardBody(resp)
	if err := checkDigestHeader(resp.Header, data); err != nil {
		return err
	}
	if resp.Header.Get("OCI-Subject") != "" {
		return nil
	}
	return c.enterReferrer(ctx, r, *desc, data)
}

// DeleteManifest deletes what the reference names: with a digest the manifest and all its tags, else the tag alone.
func (c *Client) DeleteManifest(ctx context.Context, r ref.Ref) error {
	e := c.origin(r)
	resp, err := c.do(ctx, e, call{
		method: http.MethodDelete,
		path:   e.path("manifests", reference(r)),
		scope:  scope{repository: e.repository, push: true},
	}, http.StatusAccepted, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return fmt.Errorf("delete %s: %w", r, c.loginHint(err, r.Registry()))
	}
	discardBody(resp)
	return nil
}

const (
	maxListBytes = 16 << 20
	maxPages     = 10_000
)

// ListTags returns the tags of the reference's repository, sorted as the registry sorts them.
func (c *Client) ListTags(ctx context.Context, r ref.Ref) ([]string, error) {
	e := c.origin(r)
	var tags []string
	err := c.pages(ctx, e, e.path("tags", "list"), nil, func(resp *http.Response) error {
		var page struct{ Tags []string }
		err := decode(resp, &page)
		tags = append(tags, page.Tags...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tags of %s: %w", r.Name(), c.loginHint(err, r.Registry()))
	}
	return tags, nil
}

// pages reads a list that may come in parts, each linking to the next (RFC 8288).
func (c *Client) pages(ctx context.Context, e endpoint, path string, query url.Values, read func(*http.Response) error) error {
	for range maxPages {
		q := call{method: http.MethodGet, path: path, query: query, scope: scope{repository: e.repository}}
		resp, err := c.do(ctx, e, q, http.StatusOK)
		if err != nil {
			return err
		}
		if err := errors.Join(read(resp), resp.Body.Close()); err != nil {
			return err
		}
		next, ok := nextPage(resp.Header.Get("Link"))
		if !ok {
			return nil
		}
		// Only the query is the registry's to choose: we stay on the host and the list that was asked for.
		query = next.Query()
	}
	return errs.Mark(fmt.Errorf("list has more than %d pages", maxPages), errs.Limit)
}

func nextPage(link string) (*url.URL, bool) {
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
		return nil, false
	}
	u, err := url.Parse(target)
	return u, err == nil
}

func decode(resp *http.Response, v any) error {
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxListBytes)).Decode(v); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// Referrers returns the descriptors of the manifests whose subject is d, of one artifact type or, with "", of all.
// Where the registry has no referrers API they come from the subject's referrers tag. None is not an error.
func (c *Client) Referrers(ctx context.Context, r ref.Ref, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	list, err := c.referrers(ctx, r, d, artifactType)
	if errors.Is(err, errs.NotFound) {
		list, err = c.taggedReferrers(ctx, r, d)
	}
	if err != nil {
		return nil, fmt.Errorf("list referrers of %s@%s: %w", r.Name(), d, c.loginHint(err, r.Registry()))
	}
	if artifactType != "" {
		// The registry may not have filtered.
		list = slices.DeleteFunc(list, func(d oci.Descriptor) bool { return d.ArtifactType != artifactType })
	}
	return list, nil
}

func (c *Client) referrers(ctx context.Context, r ref.Ref, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	e := c.origin(r)
	query := url.Values{}
	if artifactType != "" {
		query.Set("artifactType", artifactType)
	}
	var list []oci.Descriptor
	err := c.pages(ctx, e, e.path("referrers", d.String()), query, func(resp *http.Response) error {
		var index oci.Index
		err := decode(resp, &index)
		list = append(list, index.Manifests...)
		return err
	})
	return list, err
}

// referrersTag is where clients keep the referrers of a subject when the registry does not.
func referrersTag(r ref.Ref, subject oci.Digest) ref.Ref {
	return r.WithDigest("").WithTag(subject.Algorithm().String() + "-" + subject.Encoded())
}

func (c *Client) taggedReferrers(ctx context.Context, r ref.Ref, subject oci.Digest) ([]oci.Descriptor, error) {
	tag := referrersTag(r, subject)
	e := c.origin(tag)
	var data []byte
	err := c.retry(ctx, c.tries(e), func() (err error) {
		_, data, err = c.getManifest(ctx, e, tag)
		return err
	})
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	var index oci.Index
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	return index.Manifests, err
}

// enterReferrer adds a manifest with a subject to its subject's referrers tag. Two clients that do this at once can lose
// one of the entries; the specification knows of no remedy but the referrers API.
func (c *Client) enterReferrer(ctx context.Context, r ref.Ref, desc oci.Descriptor, data []byte) error {
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Subject == nil {
		return err
	}
	subject := m.Subject.Digest
	if err := subject.Validate(); err != nil {
		return errs.Mark(fmt.Errorf("subject: %w", err), errs.Invalid)
	}
	list, err := c.taggedReferrers(ctx, r, subject)
	if err != nil {
		return fmt.Errorf("read referrers of %s: %w", subject, err)
	}
	if slices.ContainsFunc(list, func(d oci.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	if desc.ArtifactType == "" {
		desc.ArtifactType = m.Config.MediaType
	}
	index, err := oci.Marshal(oci.NewIndex(append(list, desc), nil))
	if err != nil {
		return err
	}
	tag := referrersTag(r, subject)
	_, err = c.PushManifest(ctx, tag, oci.MediaTypeIndex, index)
	return err
}
