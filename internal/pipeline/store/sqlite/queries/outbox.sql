-- name: message
id, kind, key, run, body, status, attempts, error, epoch, due_at, created_at, sent_at

-- name: ReplaceMessages
UPDATE messages SET status = 'replaced', sent_at = $3 WHERE kind = $1 AND key = $2 AND status = 'waiting' AND key <> ''

-- name: InsertMessage
INSERT INTO messages (kind, key, run, body, status, attempts, error, epoch, due_at, created_at, sent_at)
VALUES ($1, $2, $3, $4, 'waiting', 0, '', 0, $5, $5, 0)

-- name: ClaimMessage
UPDATE messages SET attempts = attempts + 1, epoch = epoch + 1, due_at = $2
WHERE id = (SELECT id FROM messages
  WHERE status = 'waiting' AND due_at <= $1 AND kind IN (SELECT value FROM json_each($3)) ORDER BY due_at, id LIMIT 1)
RETURNING {message}

-- name: EndMessage
UPDATE messages SET status = $3, error = $4, due_at = $5, sent_at = $6 WHERE id = $1 AND epoch = $2 AND status = 'waiting'

-- name: Messages
SELECT {message} FROM messages
WHERE id < $1 AND ($3 = '' OR status = $3) ORDER BY id DESC LIMIT $2

-- name: MessagesOfRun
SELECT {message} FROM messages
WHERE id < $1 AND ($3 = '' OR status = $3) AND run = $4 ORDER BY id DESC LIMIT $2

-- name: ForgetMessages
DELETE FROM messages WHERE status <> 'waiting' AND sent_at < $1
