// Package lone has no arrow.
package lone
