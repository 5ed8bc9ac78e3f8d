-- name: app
id, name, description, source, pipeline_path, pipeline_text, concurrency, supersede, keep_runs, keep_days, version,
created_at, updated_at

-- name: InsertApp
INSERT INTO apps (name, description, source, pipeline_path, pipeline_text, concurrency, supersede, keep_runs, keep_days,
  version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10)
RETURNING {app}

-- name: AppByName
SELECT {app} FROM apps WHERE name = $1

-- name: Apps
SELECT {app} FROM apps ORDER BY name

-- name: UpdateApp
UPDATE apps SET description = $3, source = $4, pipeline_path = $5, pipeline_text = $6, concurrency = $7, supersede = $8,
  keep_runs = $9, keep_days = $10, version = version + 1, updated_at = $11
WHERE name = $1 AND version = $2
RETURNING {app}

-- name: AppIsBusy
SELECT count(*) FROM runs WHERE status IN ('pending', 'queued', 'running') AND app_id = (SELECT id FROM apps WHERE name = $1)

-- name: DeleteApp
DELETE FROM apps WHERE name = $1

-- name: DeleteSecretsOf
DELETE FROM secrets WHERE scope = $1

-- name: Variables
SELECT name, value, updated_at FROM variables WHERE app_id = $1 ORDER BY name

-- name: SetVariable
INSERT INTO variables (app_id, name, value, updated_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at

-- name: DeleteVariable
DELETE FROM variables WHERE app_id = $1 AND name = $2
