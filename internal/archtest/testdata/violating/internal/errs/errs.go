// Package errs is below everybody and points up.
package errs

import _ "slipway/internal/oci"
