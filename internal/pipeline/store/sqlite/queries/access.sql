-- name: secret
scope, name, version, created_at, created_by, sealed IS NULL

-- name: NextVersion
SELECT coalesce(max(version), 0) + 1 FROM secrets WHERE scope = $1 AND name = $2

-- name: InsertSecret
INSERT INTO secrets (scope, name, version, sealed, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING {secret}, NULL

-- name: Secrets
SELECT {secret}, NULL FROM secrets s
WHERE scope = $1 AND sealed IS NOT NULL
  AND version = (SELECT max(version) FROM secrets x WHERE x.scope = s.scope AND x.name = s.name)
ORDER BY name

-- name: Secret
SELECT {secret}, sealed FROM secrets
WHERE scope = $1 AND name = $2 AND ($3 = 0 OR version = $3) AND sealed IS NOT NULL
ORDER BY version DESC LIMIT 1

-- name: DestroySecret
UPDATE secrets SET sealed = NULL WHERE scope = $1 AND name = $2 AND sealed IS NOT NULL

-- name: EverySecret
SELECT {secret}, sealed FROM secrets WHERE sealed IS NOT NULL ORDER BY scope, name, version

-- name: ResealSecret
UPDATE secrets SET sealed = $4 WHERE scope = $1 AND name = $2 AND version = $3 AND sealed IS NOT NULL

-- name: token
id, name, role, apps, read_only, created_by, created_at, expires_at, used_at, revoked_at

-- name: InsertToken
INSERT INTO tokens (name, hash, role, apps, read_only, created_by, created_at, expires_at, used_at, revoked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0)
RETURNING {token}

-- name: TokensEver
SELECT count(*) FROM tokens

-- name: TokenByHash
SELECT {token} FROM tokens WHERE hash = $1 AND revoked_at = 0 AND (expires_at = 0 OR expires_at > $2)

-- name: TouchToken
UPDATE tokens SET used_at = $2 WHERE id = $1

-- name: Tokens
SELECT {token} FROM tokens WHERE revoked_at = 0 ORDER BY name

-- name: RevokeToken
UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at = 0

-- name: InsertEntry
INSERT INTO audit (at, actor, action, result, app, subject, remote, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)

-- name: Entries
SELECT id, at, actor, action, result, app, subject, remote, detail FROM audit
WHERE id < $1 AND ($3 = '' OR actor = $3) AND ($4 = '' OR action = $4) AND ($5 = '' OR app = $5)
ORDER BY id DESC LIMIT $2

-- name: ForgetEntries
DELETE FROM audit WHERE at < $1
