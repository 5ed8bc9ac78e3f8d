-- name: Clock
SELECT wall, uptime, boot FROM clock

-- name: SetClock
INSERT INTO clock (one, wall, uptime, boot) VALUES (1, $1, $2, $3)
ON CONFLICT (one) DO UPDATE SET wall = excluded.wall, uptime = excluded.uptime, boot = excluded.boot

-- name: ShiftAttempts
UPDATE attempts SET lease_until = lease_until + $1, not_before = not_before + $1 WHERE status IN ('queued', 'running')
