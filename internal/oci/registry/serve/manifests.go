package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/oci"
	"slipway/internal/oci/ref"
)

// manifest is the union of what images and indexes point at.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *oci.Descriptor   `json:"config"`
	Layers        []oci.Descriptor  `json:"layers"`
	Manifests     []oci.Descriptor  `json:"manifests"`
	Subject       *oci.Descriptor   `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// children returns what the manifest is not whole without.
func (m *manifest) children() []oci.Descriptor {
	children := slices.Concat(m.Layers, m.Manifests)
	if m.Config != nil {
		children = append(children, *m.Config)
	}
	return children
}

// resolve returns the digest that a tag or digest names in a repository, whether or not it has such a manifest.
func (r *Registry) resolve(repository, reference string) (oci.Digest, error) {
	if strings.Contains(reference, ":") {
		return parseDigest(reference)
	}
	if !ref.ValidTag(reference) {
		return "", unknownManifest()
	}
	data, err := r.files.root.ReadFile(tagPath(repository, reference))
	if missing(err) {
		return "", unknownManifest()
	}
	return oci.Digest(data), err
}

func (r *Registry) getManifest(w http.ResponseWriter, req *http.Request, t target) error {
	data, mediaType, d, err := r.readManifest(t)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	r.write(w, req, data)
	return nil
}

func (r *Registry) readManifest(t target) (data []byte, mediaType string, d oci.Digest, err error) {
	r.names.RLock()
	defer r.names.RUnlock()
	if d, err = r.resolve(t.repository, t.reference); err != nil {
		return nil, "", "", err
	}
	name := manifestPath(t.repository, d)
	data, err = r.files.root.ReadFile(name)
	if missing(err) {
		return nil, "", "", unknownManifest()
	}
	kind, typeErr := r.files.root.ReadFile(name + typeSuffix)
	if err := errors.Join(err, typeErr); err != nil {
		return nil, "", "", fmt.Errorf("read manifest %s: %w", d, err)
	}
	return data, string(kind), d, nil
}

const typeSuffix = ".type"

func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, t target) error {
	data, err := io.ReadAll(io.LimitReader(req.Body, oci.MaxManifestBytes+1))
	switch {
	case err != nil:
		return invalidManifest("manifest interrupted")
	case len(data) > oci.MaxManifestBytes:
		return answer(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "manifest larger than 4 MiB")
	}
	d, tags, err := names(req, t, data)
	if err != nil {
		return err
	}
	m, err := parseManifest(req.Header.Get("Content-Type"), data)
	if err != nil {
		return err
	}
	r.names.Lock()
	defer r.names.Unlock()
	if err := r.checkCondition(req, t); err != nil {
		return err
	}
	if err := r.checkContent(t.repository, m); err != nil {
		return err
	}
	if err := r.storeManifest(t.repository, d, m, data, tags); err != nil {
		return fmt.Errorf("store manifest %s: %w", d, err)
	}
	if m.Subject != nil {
		w.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	for _, tag := range req.URL.Query()["tag"] {
		w.Header().Add("OCI-Tag", tag)
	}
	created(w, "/v2/"+t.repository+"/manifests/"+d.String(), d)
	return nil
}

// checkCondition lets writers that share a tag see each other: If-Match and If-None-Match (RFC 9110 §13.1) with the
// digests that ETags hold. The distribution-spec does not know of conditions; a client that sends none is not held to one.
func (r *Registry) checkCondition(req *http.Request, t target) error {
	match, noneMatch := req.Header.Get("If-Match"), req.Header.Get("If-None-Match")
	if match == "" && noneMatch == "" {
		return nil
	}
	now, err := r.resolve(t.repository, t.reference)
	if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusNotFound {
		now, err = "", nil
	}
	if err != nil {
		return err
	}
	if match != "" && !matches(match, now) || noneMatch != "" && matches(noneMatch, now) {
		return answer(http.StatusPreconditionFailed, "DENIED", "the manifest is another one by now")
	}
	return nil
}

// matches says whether a list of ETags, or "*", names a digest. Nothing matches "".
func matches(list string, d oci.Digest) bool {
	if d == "" {
		return false
	}
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == strconv.Quote(d.String()) {
			return true
		}
	}
	return false
}

// names returns the digest and the tags that a pushed manifest gets.
func names(req *http.Request, t target, data []byte) (oci.Digest, []string, error) {
	tags := req.URL.Query()["tag"]
	d := digest.FromBytes(data)
	if strings.Contains(t.reference, ":") {
		want, err := parseDigest(t.reference)
		if err != nil {
			return "", nil, err
		}
		if d = want.Algorithm().FromBytes(data); d != want {
			return "", nil, invalidDigest(fmt.Sprintf("content has digest %s, not %s", d, want))
		}
	} else {
		tags = append(tags, t.reference)
	}
	for _, tag := range tags {
		if !ref.ValidTag(tag) {
			return "", nil, answer(http.StatusBadRequest, "TAG_INVALID", "invalid tag")
		}
	}
	return d, tags, nil
}

func invalidManifest(message string) error {
	return answer(http.StatusBadRequest, "MANIFEST_INVALID", message)
}

func parseManifest(contentType string, data []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, invalidManifest("manifest is not valid JSON: " + err.Error())
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, invalidManifest("manifest has no valid Content-Type")
	}
	if !strings.HasPrefix(mediaType, "application/vnd.") {
		return nil, invalidManifest(mediaType + " is no type of manifest")
	}
	if m.MediaType == "" {
		m.MediaType = mediaType
	}
	if m.MediaType != mediaType {
		return nil, invalidManifest("manifest says it is " + m.MediaType + ", its Content-Type " + mediaType)
	}
	if m.SchemaVersion != 2 {
		return nil, invalidManifest("manifest has another schemaVersion than 2")
	}
	if m.Subject != nil {
		if err := m.Subject.Digest.Validate(); err != nil {
			return nil, invalidManifest("subject: " + err.Error())
		}
	}
	return &m, nil
}

// checkContent refuses a manifest before what it points at: whoever pulls by the new name finds everything there. The
// subject alone may be missing (distribution-spec §pushing-manifests-with-subject).
func (r *Registry) checkContent(repository string, m *manifest) error {
	for _, child := range m.children() {
		if err := child.Digest.Validate(); err != nil {
			return invalidManifest(err.Error())
		}
		if foreign(child) {
			continue
		}
		ok, err := r.has(repository, child.Digest)
		if err != nil {
			return fmt.Errorf("look up %s: %w", child.Digest, err)
		}
		if !ok {
			return answer(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "manifest points at unknown "+child.Digest.String())
		}
	}
	return nil
}

// foreign says whether a descriptor's content is, by agreement, somewhere else.
func foreign(d oci.Descriptor) bool {
	return len(d.URLs) > 0 || d.MediaType == oci.DockerForeignLayer || strings.Contains(d.MediaType, ".nondistributable.")
}

// has also finds a blob where an index points at one: build caches keep their layers in indexes.
func (r *Registry) has(repository string, d oci.Digest) (bool, error) {
	for _, name := range []string{linkPath(repository, d), manifestPath(repository, d)} {
		if ok, err := r.files.exists(name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// storeManifest writes what others find the manifest by last.
func (r *Registry) storeManifest(repository string, d oci.Digest, m *manifest, data []byte, tags []string) error {
	name := manifestPath(repository, d)
	if err := r.files.write(name+typeSuffix, []byte(m.MediaType)); err != nil {
		return err
	}
	if err := r.files.write(name, data); err != nil {
		return err
	}
	if m.Subject != nil {
		if err := r.addReferrer(repository, d, m, int64(len(data))); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if err := r.files.write(tagPath(repository, tag), []byte(d)); err != nil {
			return err
		}
	}
	return nil
}

// deleteManifest takes a tag away, or a manifest with all its tags.
func (r *Registry) deleteManifest(w http.ResponseWriter, _ *http.Request, t target) error {
	r.names.Lock()
	defer r.names.Unlock()
	d, err := r.resolve(t.repository, t.reference)
	if err != nil {
		return err
	}
	if t.reference == d.String() {
		err = r.dropManifest(t.repository, d)
	} else {
		err = r.files.remove(tagPath(t.repository, t.reference))
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (r *Registry) dropManifest(repository string, d oci.Digest) error {
	name := manifestPath(repository, d)
	data, err := r.files.root.ReadFile(name)
	if missing(err) {
		return unknownManifest()
	}
	var m manifest
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", d, err)
	}
	if err := r.dropTags(repository, d); err != nil {
		return fmt.Errorf("delete tags of %s: %w", d, err)
	}
	if m.Subject != nil {
		err = r.files.remove(referrerPath(repository, m.Subject.Digest, d))
	}
	if err := errors.Join(err, r.files.remove(name), r.files.remove(name+typeSuffix)); err != nil {
		return fmt.Errorf("delete manifest %s: %w", d, err)
	}
	return nil
}
