// Package plan is pure, or should be.
package plan

import (
	_ "os"

	_ "slipway/internal/errs"
	_ "slipway/internal/oci"
)
