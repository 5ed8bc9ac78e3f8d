package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"

	"slipway/internal/oci"
)

// apiError is a failure that the protocol has a code for (distribution-spec §error-codes).
type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message) }

func answer(status int, code, message string) error { return &apiError{status, code, message} }

func unknownBlob() error {
	return answer(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
}

func unknownManifest() error {
	return answer(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to registry")
}

func invalidDigest(message string) error {
	return answer(http.StatusBadRequest, "DIGEST_INVALID", message)
}

func parseDigest(s string) (oci.Digest, error) {
	d := oci.Digest(s)
	if err := d.Validate(); err != nil {
		return "", invalidDigest(err.Error())
	}
	return d, nil
}

// fail answers with the error's own status, or with 500 and no detail: what is wrong with the disk is for the log.
func (r *Registry) fail(w http.ResponseWriter, req *http.Request, err error) {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		e = &apiError{http.StatusInternalServerError, "UNKNOWN", "internal error"}
		r.log.Error("registry request failed", slog.String("method", req.Method), slog.String("path", req.URL.Path),
			slog.Any("error", err))
	}
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="slipway registry"`)
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{e.code, e.message}}})
	if err != nil {
		body = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	r.write(w, req, body)
}

// write sends a body. The client may be gone; then there is nobody left to tell.
func (r *Registry) write(w http.ResponseWriter, req *http.Request, body []byte) {
	if req.Method == http.MethodHead {
		return
	}
	if _, err := w.Write(body); err != nil { //nolint:gosec // ServeHTTP forbids browsers to run it
		r.log.Debug("registry client went away", slog.String("path", req.URL.Path), slog.Any("error", err))
	}
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
