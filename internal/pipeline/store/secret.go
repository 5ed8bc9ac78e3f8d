package store

import (
	"context"
	"time"
)

// GlobalScope is the scope of secrets that every app may use. That of an app is AppScope.
const GlobalScope = "global"

// AppScope is the scope of an app's own secrets.
func AppScope(name string) string { return "app/" + name }

// SecretVersion names one version of a secret. Versions count from 1.
type SecretVersion struct {
	Scope   string `json:"scope"`
	Name    string `json:"name"`
	Version int64  `json:"version"`
}

// Secret is one version of a secret, sealed: the database never sees the value.
type Secret struct {
	SecretVersion
	// Sealed is empty in lists, and when the secret was deleted.
	Sealed    []byte
	CreatedAt time.Time
	CreatedBy string
	// Deleted says that the value is gone.
	Deleted bool
}

// SecretStore keeps sealed secrets.
type SecretStore interface {
	// PutSecret stores the next version of a secret. seal gets its number, which belongs into what is sealed, and may be
	// called again when the number was taken meanwhile.
	PutSecret(ctx context.Context, scope, name, by string, seal func(version int64) ([]byte, error)) (Secret, error)
	// Secrets returns the latest versions in a scope by name, without what is sealed. Deleted ones are left out.
	Secrets(ctx context.Context, scope string) ([]Secret, error)
	// Secret returns a version, the latest when v.Version is 0. It is an errs.NotFound when it was deleted.
	Secret(ctx context.Context, v SecretVersion) (Secret, error)
	// DeleteSecret destroys what is sealed in all versions of a secret. Their numbers stay taken.
	DeleteSecret(ctx context.Context, scope, name string) error
	// EachSecret calls f with every sealed secret, for changing the key; what f returns is stored in its place when it
	// is not nil. One error ends and undoes it all.
	EachSecret(ctx context.Context, f func(Secret) ([]byte, error)) error
}
