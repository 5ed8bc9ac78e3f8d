package spec

import (
	"strconv"

	"slipway/internal/mistake"
)

// Error is one mistake in a pipeline file, or a warning.
type Error = mistake.Error

// Errors are the mistakes of one or several pipeline files.
type Errors = mistake.Errors

func quote(s string) string { return strconv.Quote(s) }
