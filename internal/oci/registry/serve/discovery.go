package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"slipway/internal/oci"
)

func (r *Registry) listTags(w http.ResponseWriter, req *http.Request, t target) error {
	known, err := r.files.exists(repositoryPath(t.repository))
	if err != nil {
		return fmt.Errorf("look up repository: %w", err)
	}
	if !known {
		return answer(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	}
	entries, err := r.files.list(repositoryPath(t.repository, "_tags"))
	if err != nil {
		return fmt.Errorf("list tags: %w", err)
	}
	tags := make([]string, 0, len(entries))
	for _, entry := range entries {
		tags = append(tags, entry.Name())
	}
	if tags, err = page(w, req, tags); err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{t.repository, tags})
}

// catalog lists the repositories that have manifests. It is no part of the specification, but of every registry.
func (r *Registry) catalog(w http.ResponseWriter, req *http.Request, _ target) error {
	names := []string{}
	err := r.files.repositories(func(repository string) error {
		ok, err := r.files.exists(repositoryPath(repository, "_manifests"))
		if ok {
			names = append(names, repository)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list repositories: %w", err)
	}
	slices.Sort(names)
	if names, err = page(w, req, names); err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{names})
}

// page cuts a sorted list down to what the query's last and n ask for, and links to the next page.
func page(w http.ResponseWriter, req *http.Request, all []string) ([]string, error) {
	query := req.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if !query.Has("n") {
		return all, nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return nil, answer(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is not a number of entries")
	}
	if n >= len(all) {
		return all, nil
	}
	if n > 0 {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.EscapedPath(), next.Encode()))
	}
	return all[:n], nil
}

// dropTags takes away the tags that name a manifest. The caller holds names.
func (r *Registry) dropTags(repository string, d oci.Digest) error {
	entries, err := r.files.list(repositoryPath(repository, "_tags"))
	for _, entry := range entries {
		name := tagPath(repository, entry.Name())
		data, readErr := r.files.root.ReadFile(name)
		if err = errors.Join(err, readErr); oci.Digest(data) == d {
			err = errors.Join(err, r.files.remove(name))
		}
	}
	return err
}

func referrerPath(repository string, subject, referrer oci.Digest) string {
	return referrersPath(repository, subject) + "/" + referrer.Algorithm().String() + "-" + referrer.Encoded()
}

// addReferrer records a manifest under its subject, as the descriptor that listReferrers answers with
// (distribution-spec §listing-referrers).
func (r *Registry) addReferrer(repository string, d oci.Digest, m *manifest, size int64) error {
	artifactType := m.ArtifactType
	if artifactType == "" && m.Config != nil {
		artifactType = m.Config.MediaType
	}
	data, err := oci.Marshal(oci.Descriptor{
		MediaType: m.MediaType, Digest: d, Size: size,
		ArtifactType: artifactType, Annotations: m.Annotations,
	})
	if err != nil {
		return err
	}
	return r.files.write(referrerPath(repository, m.Subject.Digest, d), data)
}

func (r *Registry) listReferrers(w http.ResponseWriter, req *http.Request, t target) error {
	subject, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	artifactType := req.URL.Query().Get("artifactType")
	referrers, err := r.referrers(t.repository, subject, artifactType)
	if err != nil {
		return fmt.Errorf("list referrers of %s: %w", subject, err)
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, oci.MediaTypeIndex, oci.NewIndex(referrers, nil))
}

func (r *Registry) referrers(repository string, subject oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	r.names.RLock()
	defer r.names.RUnlock()
	folder := referrersPath(repository, subject)
	entries, err := r.files.list(folder)
	referrers := []oci.Descriptor{}
	for _, entry := range entries {
		var desc oci.Descriptor
		data, readErr := r.files.root.ReadFile(folder + "/" + entry.Name())
		if errors.Is(readErr, fs.ErrNotExist) {
			continue
		}
		if readErr == nil {
			readErr = json.Unmarshal(data, &desc)
		}
		err = errors.Join(err, readErr)
		if artifactType == "" || desc.ArtifactType == artifactType {
			referrers = append(referrers, desc)
		}
	}
	return referrers, err
}
