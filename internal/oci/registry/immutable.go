package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"slipway/internal/errs"
	"slipway/internal/oci/ref"
)

// tagError is the refusal to move a tag that the registry keeps where it is. Its kind is errs.Exists alone: with a
// status of 403 it is still no question of who asks.
type tagError struct{ cause *statusError }

func (e *tagError) Error() string { return e.cause.Error() }
func (e *tagError) Unwrap() error { return errs.Exists }

// immutable recognises such a refusal. No specification has a code for it; what registries say has a word in common:
// ECR "400 TAG_INVALID: The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the
// tag is immutable", Artifact Registry "400 MANIFEST_INVALID: cannot update tag v1. The repository has enabled tag
// immutability", Harbor "412 PRECONDITION: Failed to process request due to 'p/app:v1' configured as immutable".
func immutable(err error, r ref.Ref) error {
	status, ok := errors.AsType[*statusError](err)
	if !ok || r.Tag() == "" {
		return err
	}
	switch status.status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed:
	default:
		return err
	}
	text := strings.ToLower(status.code + " " + status.message)
	if !strings.Contains(text, "immutab") && !strings.Contains(text, "cannot be overwritten") {
		return err
	}
	hint := fmt.Sprintf("%s does not let tag %s move to another image: choose a new tag, or allow it in the registry", r.Name(), r.Tag())
	return errs.Hint(&tagError{status}, hint)
}
