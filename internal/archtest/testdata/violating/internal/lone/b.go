// Package lone says so twice.
package lone
