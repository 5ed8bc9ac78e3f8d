-- name: Active
SELECT {run} FROM {runs} WHERE r.id IN (
  SELECT id FROM runs WHERE status = 'running'
  UNION SELECT id FROM runs WHERE cancel_class <> '' AND status IN ('pending', 'queued', 'running'))
ORDER BY r.id

-- name: StartRun
UPDATE runs SET status = 'running', started_at = $1 WHERE id = (
  SELECT r.id FROM {runs}
  WHERE r.id IN (SELECT min(id) FROM runs WHERE status = 'queued' AND cancel_class = '' GROUP BY app_id)
    AND (a.concurrency = 0
      OR (SELECT count(*) FROM runs x WHERE x.app_id = r.app_id AND x.status = 'running') < a.concurrency)
  ORDER BY r.id LIMIT 1)
RETURNING id

-- name: Claim
UPDATE attempts SET status = 'running', epoch = epoch + 1, owner = $1, lease_until = $2, started_at = $3
WHERE (run_id, task, number) = (
  SELECT q.run_id, q.task, q.number
  FROM attempts q
  JOIN runs r ON r.id = q.run_id
  JOIN tasks t ON t.run_id = q.run_id AND t.name = q.task
  WHERE q.status = 'queued' AND q.not_before <= $3 AND r.status = 'running' AND r.cancel_class = ''
  ORDER BY q.queued_at, q.run_id, t.position LIMIT 1)
  AND (SELECT count(*) FROM attempts WHERE status = 'running') < $4
RETURNING {attempt}

-- name: Adopt
UPDATE attempts SET epoch = epoch + 1, owner = $5, lease_until = $6
WHERE run_id = $1 AND task = $2 AND number = $3 AND epoch = $4 AND status = 'running'
RETURNING epoch

-- name: Renew
UPDATE attempts SET lease_until = $5
WHERE run_id = $1 AND task = $2 AND number = $3 AND epoch = $4 AND status = 'running'

-- name: Held
SELECT q.run_id, q.task, q.number, q.epoch, q.status, q.class, q.error, q.hint, q.exit_code, q.output, q.owner,
  q.not_before, q.queued_at, q.started_at, q.finished_at, q.lease_until < $1,
  r.cancel_class, r.cancel_by, r.cancel_reason, r.cancel_successor, r.cancel_at
FROM attempts q JOIN runs r ON r.id = q.run_id
WHERE q.status = 'running'
ORDER BY q.started_at, q.run_id, q.task

-- name: Finish
UPDATE attempts SET status = $5, class = $6, error = $7, hint = $8, exit_code = $9, output = $10,
  finished_at = $11
WHERE run_id = $1 AND task = $2 AND number = $3 AND epoch = $4 AND status = 'running'

-- name: FinishTask
UPDATE tasks SET exit_code = $3, output = $4 WHERE run_id = $1 AND name = $2

-- name: CancelClass
SELECT cancel_class FROM runs WHERE id = $1

-- name: RunningRuns
SELECT app_id, id FROM runs WHERE status = 'running' ORDER BY id

-- name: RunningKeys
SELECT run_id, task, number, epoch FROM attempts WHERE status = 'running' ORDER BY started_at, run_id, task
