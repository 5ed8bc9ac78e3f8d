-- name: LogState
SELECT bytes, lines, sealed FROM logs WHERE run_id = $1 AND task = $2 AND attempt = $3 AND stream = $4

-- name: InsertLog
INSERT INTO logs (run_id, task, attempt, stream, bytes, lines, sealed) VALUES ($1, $2, $3, $4, 0, 0, 0)
ON CONFLICT DO NOTHING

-- name: ExtendLog
UPDATE logs SET bytes = $8, lines = $9, sealed = $10
WHERE run_id = $1 AND task = $2 AND attempt = $3 AND stream = $4 AND bytes = $5 AND lines = $6 AND sealed = $7

-- name: InsertMark
INSERT INTO log_marks (run_id, task, attempt, stream, line, byte_offset) VALUES ($1, $2, $3, $4, $5, $6)

-- name: MarkBefore
SELECT line, byte_offset FROM log_marks
WHERE run_id = $1 AND task = $2 AND attempt = $3 AND stream = $4 AND line <= $5
ORDER BY line DESC LIMIT 1
