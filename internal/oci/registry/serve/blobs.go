package serve

import (
	"fmt"
	"net/http"
	"time"

	"slipway/internal/oci"
)

func (r *Registry) getBlob(w http.ResponseWriter, req *http.Request, t target) error {
	d, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	// Who asks for a blob is about to rely on it: asking keeps it from being swept.
	now := time.Now()
	err = r.files.root.Chtimes(linkPath(t.repository, d), now, now)
	if missing(err) {
		return unknownBlob()
	}
	if err != nil {
		return fmt.Errorf("look up blob %s: %w", d, err)
	}
	file, err := r.files.root.Open(blobPath(d))
	if missing(err) {
		return unknownBlob()
	}
	if err != nil {
		return fmt.Errorf("open blob %s: %w", d, err)
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	http.ServeContent(w, req, "", time.Time{}, file)
	return nil
}

// deleteBlob takes the blob from the repository. Its content goes with the next sweep, if no other repository has it.
func (r *Registry) deleteBlob(w http.ResponseWriter, _ *http.Request, t target) error {
	d, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	r.names.Lock()
	defer r.names.Unlock()
	ok, err := r.files.exists(linkPath(t.repository, d))
	if err != nil {
		return fmt.Errorf("look up blob %s: %w", d, err)
	}
	if !ok {
		return unknownBlob()
	}
	if err := r.files.remove(linkPath(t.repository, d)); err != nil {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mount gives a repository a blob that another one has, if it has it and the client may read it there.
func (r *Registry) mount(req *http.Request, repository, from string, d oci.Digest) (bool, error) {
	source := blobPath(d)
	switch {
	case from != "":
		if !validRepository(from) || r.authorize(req, Access{Repository: from}) != nil {
			return false, nil
		}
		source = linkPath(from, d)
	case r.opts.Authorize != nil:
		// Without a source there is no telling whether the client may read the blob anywhere.
		return false, nil
	}
	r.names.RLock()
	defer r.names.RUnlock()
	for _, name := range []string{source, blobPath(d)} {
		if ok, err := r.files.exists(name); err != nil || !ok {
			return false, err
		}
	}
	return true, r.files.mark(linkPath(repository, d))
}

func created(w http.ResponseWriter, location string, d oci.Digest) {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}
