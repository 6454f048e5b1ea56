-- name: by_id
SELECT * FROM orders.orders WHERE id = $1;

-- name: by_request
SELECT * FROM orders.orders WHERE request_id = $1;

-- name: insert
INSERT INTO orders.orders
    (id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (request_id) DO NOTHING
RETURNING *;

-- name: page
SELECT * FROM orders.orders
WHERE ($1::uuid IS NULL OR customer_id = $1)
  AND ($2::text IS NULL OR state = $2)
  AND ($3::timestamptz IS NULL OR (create_time, id) < ($3, $4::uuid))
ORDER BY create_time DESC, id DESC
LIMIT $5;

-- name: move
UPDATE orders.orders
SET state = $2, update_time = now()
WHERE id = $1 AND state = ANY ($3::text[])
RETURNING *;

-- name: totals
SELECT state, count(*) AS number, min(create_time) AS oldest FROM orders.orders GROUP BY state;
