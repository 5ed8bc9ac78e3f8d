-- name: run
r.id, r.app_id, a.name, r.name, r.status, r.class, r.reason, r.cause, r.actor, r.delivery, r.commit_id, r.branch, r.tag,
r.message, r.author, r.parent, r.mode, r.cancel_class, r.cancel_by, r.cancel_reason, r.cancel_successor, r.cancel_at,
r.created_at, r.started_at, r.finished_at, r.seq

-- name: runs
runs r JOIN apps a ON a.id = r.app_id

-- name: task
run_id, position, name, display_name, template, runs_after, gate, status, class, reason, attempts, exit_code, output,
from_run, decided_by, decided, comment, decided_at, queued_at, started_at, finished_at

-- name: attempt
run_id, task, number, epoch, status, class, error, hint, exit_code, output, owner, not_before, queued_at, started_at,
finished_at

-- name: event
id, run_id, seq, at, kind, task, attempt, data

-- name: InsertRun
INSERT INTO runs (app_id, name, status, class, reason, cause, actor, delivery, commit_id, branch, tag, message, author,
  parent, mode, cancel_class, cancel_by, cancel_reason, cancel_successor, cancel_at, created_at, started_at, finished_at, seq)
VALUES ($1, $2, 'queued', '', '', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, '', '', '', 0, 0, $13, 0, 0, 0)
RETURNING id

-- name: InsertSpec
INSERT INTO run_specs (run_id, written, resolved, variables, secrets) VALUES ($1, $2, $3, $4, $5)

-- name: InsertTask
INSERT INTO tasks (run_id, name, position, display_name, template, runs_after, gate, status, class, reason, attempts,
  exit_code, output, from_run, decided_by, decided, comment, decided_at, queued_at, started_at, finished_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', 0, 0, $9, $10, '', '', '', 0, 0, 0, 0)

-- name: Older
SELECT id FROM runs
WHERE app_id = $1 AND branch = $2 AND id < $3 AND cancel_class = '' AND status IN ('pending', 'queued', 'running')
ORDER BY id

-- name: RunByID
SELECT {run} FROM {runs} WHERE r.id = $1

-- name: Runs
SELECT {run} FROM {runs} WHERE r.id < $1 ORDER BY r.id DESC LIMIT $2

-- name: RunsByStatus
SELECT {run} FROM {runs} WHERE r.id < $1 AND r.status = $3 ORDER BY r.id DESC LIMIT $2

-- name: RunsOfApp
SELECT {run} FROM {runs} WHERE r.id < $1 AND r.app_id = (SELECT id FROM apps WHERE name = $3) ORDER BY r.id DESC LIMIT $2

-- name: RunsOfAppByStatus
SELECT {run} FROM {runs} WHERE r.id < $1 AND r.app_id = (SELECT id FROM apps WHERE name = $3) AND r.status = $4
ORDER BY r.id DESC LIMIT $2

-- name: RunsOfBranch
SELECT {run} FROM {runs} WHERE r.id < $1 AND r.app_id = (SELECT id FROM apps WHERE name = $3) AND r.branch = $4
ORDER BY r.id DESC LIMIT $2

-- name: RunsOfBranchByStatus
SELECT {run} FROM {runs} WHERE r.id < $1 AND r.app_id = (SELECT id FROM apps WHERE name = $3) AND r.branch = $4 AND r.status = $5
ORDER BY r.id DESC LIMIT $2

-- name: Spec
SELECT written, resolved, variables, secrets FROM run_specs WHERE run_id = $1

-- name: Tasks
SELECT {task} FROM tasks WHERE run_id = $1 ORDER BY position

-- name: TaskByName
SELECT {task} FROM tasks WHERE run_id = $1 AND name = $2

-- name: Attempts
SELECT {attempt} FROM attempts WHERE run_id = $1 AND ($2 = '' OR task = $2) ORDER BY queued_at, task, number

-- name: MoveRun
UPDATE runs SET status = $3, class = $4, reason = $5,
  started_at = CASE WHEN $3 = 'running' THEN $6 ELSE started_at END,
  finished_at = CASE WHEN $3 IN ('succeeded', 'failed', 'canceled', 'skipped') THEN $6 ELSE finished_at END
WHERE id = $1 AND status = $2

-- name: TasksNotOver
SELECT count(*) FROM tasks WHERE run_id = $1 AND status NOT IN ('succeeded', 'failed', 'canceled', 'skipped')

-- name: MoveTask
UPDATE tasks SET status = $4, class = $5, reason = $6,
  queued_at = CASE WHEN $4 = 'queued' THEN $7 ELSE queued_at END,
  started_at = CASE WHEN $4 = 'running' THEN $7 ELSE started_at END,
  finished_at = CASE WHEN $4 IN ('succeeded', 'failed', 'canceled', 'skipped') THEN $7 ELSE finished_at END
WHERE run_id = $1 AND name = $2 AND status = $3

-- name: CountAttempt
UPDATE tasks SET attempts = attempts + 1 WHERE run_id = $1 AND name = $2 RETURNING attempts

-- name: InsertAttempt
INSERT INTO attempts (run_id, task, number, epoch, status, class, error, hint, exit_code, output, owner, lease_until,
  not_before, queued_at, started_at, finished_at)
VALUES ($1, $2, $3, 0, 'queued', '', '', '', 0, '{}', '', 0, $4, $5, 0, 0)

-- name: CancelQueuedAttempts
UPDATE attempts SET status = 'canceled', class = $3, finished_at = $4 WHERE run_id = $1 AND task = $2 AND status = 'queued'

-- name: RunningAttempts
SELECT count(*) FROM attempts WHERE run_id = $1 AND task = $2 AND status = 'running'

-- name: RequestCancel
UPDATE runs SET cancel_class = $2, cancel_by = $3, cancel_reason = $4, cancel_successor = $5, cancel_at = $6
WHERE id = $1 AND cancel_class = '' AND status IN ('pending', 'queued', 'running')

-- name: Decide
UPDATE tasks SET decided = $3, decided_by = $4, comment = $5, decided_at = $6 WHERE run_id = $1 AND name = $2

-- name: NextSeq
UPDATE runs SET seq = seq + 1 WHERE id = $1 RETURNING seq

-- name: InsertEvent
INSERT INTO run_events (run_id, seq, at, kind, task, attempt, data) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: Events
SELECT {event} FROM run_events WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- name: Feed
SELECT {event} FROM run_events WHERE id > $1 ORDER BY id LIMIT $2

-- name: LastEvent
SELECT coalesce(max(id), 0) FROM run_events

-- name: Expendable
SELECT id FROM runs
WHERE app_id = $1 AND status IN ('succeeded', 'failed', 'canceled', 'skipped')
  AND ($2 > 0 AND id <= coalesce((SELECT id FROM runs WHERE app_id = $1
      AND status IN ('succeeded', 'failed', 'canceled', 'skipped') ORDER BY id DESC LIMIT 1 OFFSET $2), 0)
    OR $3 > 0 AND finished_at < $3)
ORDER BY id LIMIT $4

-- name: DeleteRun
DELETE FROM runs WHERE id = $1 AND status IN ('succeeded', 'failed', 'canceled', 'skipped')
