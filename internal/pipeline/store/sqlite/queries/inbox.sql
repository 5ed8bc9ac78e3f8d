-- name: delivery
d.id, d.app_id, a.name, d.provider, d.delivery, d.event, d.header, d.status, d.reason, d.run, d.attempts, d.epoch,
d.replay_of, d.requested_by, d.received_at, d.processed_at

-- name: deliveries
deliveries d JOIN apps a ON a.id = d.app_id

-- name: InsertDelivery
INSERT INTO deliveries (app_id, provider, delivery, event, header, body, status, reason, run, attempts, epoch, due_at,
  replay_of, requested_by, received_at, processed_at)
VALUES ($1, $2, $3, $4, $5, $6, 'received', '', 0, 0, 0, $7, $8, $9, $7, 0)
ON CONFLICT DO NOTHING
RETURNING id

-- name: SameDelivery
SELECT id FROM deliveries WHERE app_id = $1 AND provider = $2 AND delivery = $3

-- name: ClaimDelivery
UPDATE deliveries SET attempts = attempts + 1, epoch = epoch + 1, due_at = $2
WHERE id = (SELECT id FROM deliveries WHERE status = 'received' AND due_at <= $1 ORDER BY due_at, id LIMIT 1)
RETURNING id

-- name: DeliveryByID
SELECT {delivery}, d.body FROM {deliveries} WHERE d.id = $1

-- name: Processed
UPDATE deliveries SET status = $3, reason = $4, run = $5, due_at = $6, processed_at = $7
WHERE id = $1 AND epoch = $2 AND status = 'received'

-- name: Deliveries
SELECT {delivery}, x'' FROM {deliveries}
WHERE d.id < $1 AND ($3 = '' OR d.status = $3) ORDER BY d.id DESC LIMIT $2

-- name: DeliveriesOfApp
SELECT {delivery}, x'' FROM {deliveries}
WHERE d.id < $1 AND ($3 = '' OR d.status = $3) AND d.app_id = $4 ORDER BY d.id DESC LIMIT $2

-- name: ForgetDeliveries
DELETE FROM deliveries WHERE status <> 'received' AND processed_at < $1
