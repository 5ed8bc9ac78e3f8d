package serve

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
)

// kind is what the last components of a path are about.
type kind int

const (
	kindNone kind = iota
	kindBase
	kindCatalog
	kindBlob
	kindUploads
	kindUpload
	kindManifest
	kindTags
	kindReferrers
)

// target is what a path names: a repository and, by kind, a digest, a tag or an upload's ID.
type target struct {
	kind       kind
	repository string
	reference  string
}

// parsePath reads a path from its end, because a repository may have components such as "blobs" or "tags".
func parsePath(path string) target {
	rest, ok := strings.CutPrefix(path, "/v2")
	switch {
	case !ok:
		return target{}
	case rest == "" || rest == "/":
		return target{kind: kindBase}
	case rest == "/_catalog":
		return target{kind: kindCatalog}
	}
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return target{}
	}
	if name, ok := cutSuffixes(rest, "/blobs/uploads/", "/blobs/uploads"); ok {
		return target{kind: kindUploads, repository: name}
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return target{kind: kindTags, repository: name}
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return target{}
	}
	name, reference := rest[:i], rest[i+1:]
	for suffix, k := range pathKinds {
		if name, ok := strings.CutSuffix(name, suffix); ok {
			return target{kind: k, repository: name, reference: reference}
		}
	}
	return target{}
}

func pathKinds(yield func(string, kind) bool) {
	_ = yield("/blobs/uploads", kindUpload) && yield("/blobs", kindBlob) &&
		yield("/manifests", kindManifest) && yield("/referrers", kindReferrers)
}

func cutSuffixes(s string, suffixes ...string) (string, bool) {
	for _, suffix := range suffixes {
		if before, ok := strings.CutSuffix(s, suffix); ok {
			return before, true
		}
	}
	return s, false
}

// validRepository holds a name against the grammar of references. It is also what keeps names inside the folder: no
// component is empty, "..", or begins with '_'.
func validRepository(name string) bool {
	r, err := ref.Parse("localhost/" + name)
	return err == nil && r.Repository() == name
}

type handler func(r *Registry, w http.ResponseWriter, req *http.Request, t target) error

// handlerFor returns nil when a resource does not know the method.
func handlerFor(k kind, method string) handler {
	type route struct {
		kind   kind
		method string
	}
	switch (route{k, method}) {
	case route{kindBase, http.MethodGet}, route{kindBase, http.MethodHead}:
		return (*Registry).base
	case route{kindCatalog, http.MethodGet}:
		return (*Registry).catalog
	case route{kindBlob, http.MethodGet}, route{kindBlob, http.MethodHead}:
		return (*Registry).getBlob
	case route{kindBlob, http.MethodDelete}:
		return (*Registry).deleteBlob
	case route{kindUploads, http.MethodPost}:
		return (*Registry).startUpload
	case route{kindUpload, http.MethodGet}:
		return (*Registry).uploadStatus
	case route{kindUpload, http.MethodPatch}:
		return (*Registry).patchUpload
	case route{kindUpload, http.MethodPut}:
		return (*Registry).finishUpload
	case route{kindUpload, http.MethodDelete}:
		return (*Registry).cancelUpload
	case route{kindManifest, http.MethodGet}, route{kindManifest, http.MethodHead}:
		return (*Registry).getManifest
	case route{kindManifest, http.MethodPut}:
		return (*Registry).putManifest
	case route{kindManifest, http.MethodDelete}:
		return (*Registry).deleteManifest
	case route{kindTags, http.MethodGet}:
		return (*Registry).listTags
	case route{kindReferrers, http.MethodGet}:
		return (*Registry).listReferrers
	}
	return nil
}

// ServeHTTP answers one request of the distribution protocol.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	// What people push comes back from an address where there may be a console too: no browser shall run it.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	err := r.serve(w, req)
	if err != nil {
		r.fail(w, req, err)
	}
	r.log.Debug("registry request", slog.String("method", req.Method), slog.String("path", req.URL.Path),
		slog.Duration("took", time.Since(start)), slog.Any("error", err))
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) error {
	t := parsePath(req.URL.Path)
	if t.kind == kindNone {
		return answer(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
	if t.kind > kindCatalog && !validRepository(t.repository) {
		return answer(http.StatusNotFound, "NAME_INVALID", "invalid repository name")
	}
	if err := r.authorize(req, Access{Repository: t.repository, Write: isWrite(req.Method)}); err != nil {
		return err
	}
	handle := handlerFor(t.kind, req.Method)
	if handle == nil {
		return answer(http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed here")
	}
	return handle(r, w, req, t)
}

func isWrite(method string) bool { return method != http.MethodGet && method != http.MethodHead }

func (r *Registry) authorize(req *http.Request, a Access) error {
	if r.opts.Authorize == nil {
		return nil
	}
	user, password, _ := req.BasicAuth()
	err := r.opts.Authorize(req.Context(), user, password, a)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errs.Denied):
		return answer(http.StatusForbidden, "DENIED", "requested access to the resource is denied")
	default:
		return answer(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	}
}

func (r *Registry) base(w http.ResponseWriter, _ *http.Request, _ target) error {
	return writeJSON(w, "application/json", struct{}{})
}
