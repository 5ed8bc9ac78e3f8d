package store

import (
	"context"
	"time"
)

// Role is what somebody may do with an app. Each role may do all that those before it may.
type Role string

// The roles. A viewer sees; a developer runs, cancels, repeats; a maintainer changes settings, secrets and the hosted
// pipeline, and approves; an administrator does everything, and what concerns the service as a whole.
const (
	NoRole     Role = ""
	Viewer     Role = "viewer"
	Developer  Role = "developer"
	Maintainer Role = "maintainer"
	Admin      Role = "admin"
)

func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Developer:
		return 2
	case Maintainer:
		return 3
	case Admin:
		return 4
	default:
		return 0
	}
}

// Valid says whether r is one of the roles, NoRole excepted.
func (r Role) Valid() bool { return r.rank() > 0 }

// Allows says whether somebody with role r may do what needs role need.
func (r Role) Allows(need Role) bool { return r.rank() >= need.rank() }

// Token is a credential, and the identity of whoever has it.
type Token struct {
	ID int64
	// Name is unique among tokens that are not revoked; it is the actor in events and in the audit log.
	Name string
	// Hash is the SHA-256 of the token. The token itself is shown once, to whoever made it.
	Hash []byte
	// Role holds for every app, Apps for single ones, by name; the higher one counts.
	Role Role
	Apps map[string]Role
	// ReadOnly takes away everything but looking, whatever the roles.
	ReadOnly             bool
	CreatedBy            string
	CreatedAt, ExpiresAt time.Time // ExpiresAt is zero when it does not
	UsedAt, RevokedAt    time.Time
}

// For is the token's role for an app; for the service as a whole when app is empty.
func (t Token) For(app string) Role {
	role := t.Role
	if r := t.Apps[app]; app != "" && r.Allows(role) {
		role = r
	}
	if t.ReadOnly && role.Allows(Viewer) {
		return Viewer
	}
	return role
}

// TokenStore keeps tokens.
type TokenStore interface {
	// CreateToken adds a token. A name that another one has that is not revoked is an errs.Exists.
	CreateToken(ctx context.Context, t Token) (Token, error)
	// FirstToken adds a token if there has never been one, and otherwise is an errs.Exists.
	FirstToken(ctx context.Context, t Token) (Token, error)
	// TokenByHash returns a token that is neither revoked nor expired, and notes, to the minute, that it was used.
	TokenByHash(ctx context.Context, hash []byte) (Token, error)
	// Tokens returns all tokens that are not revoked, by name, without hashes.
	Tokens(ctx context.Context) ([]Token, error)
	// RevokeToken ends a token.
	RevokeToken(ctx context.Context, id int64) error
}
