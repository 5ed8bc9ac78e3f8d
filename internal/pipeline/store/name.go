package store

import (
	"fmt"
	"strings"

	"slipway/internal/errs"
)

// MaxName is how long the name of an app, a variable or a secret may be.
const MaxName = 63

// CheckName refuses what cannot be the name of an app: it is part of addresses and of image names, so it is lower-case
// letters, digits and single dashes, and begins with a letter.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName && name[0] >= 'a' && name[0] <= 'z' &&
		!strings.Contains(name, "--") && !strings.HasSuffix(name, "-") &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	if ok {
		return nil
	}
	err := fmt.Errorf("the name %q: %w", name, errs.Invalid)
	return errs.Hint(err, "up to 63 lower-case letters, digits and single dashes, a letter first")
}

// CheckKey refuses what cannot be the name of a variable or a secret: it becomes the name of an environment variable.
func CheckKey(name string) error {
	ok := name != "" && len(name) <= MaxName && (name[0] < '0' || name[0] > '9')
	for _, c := range []byte(name) {
		ok = ok && (c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z')
	}
	if ok {
		return nil
	}
	err := fmt.Errorf("the name %q: %w", name, errs.Invalid)
	return errs.Hint(err, "up to 63 letters, digits and _, no digit first, as in DEPLOY_KEY")
}
