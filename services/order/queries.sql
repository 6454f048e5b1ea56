-- name: by_id
SELECT * FROM orders.orders WHERE id = $1;

-- name: by_request
SELECT * FROM orders.orders WHERE request_id = $1;

-- name: by_requests
SELECT * FROM orders.orders WHERE request_id = ANY ($1::uuid[]);

-- name: insert
INSERT INTO orders.orders
    (next_attempt_time, traceparent, id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
SELECT now() + $1::interval, $10::text, given.*
FROM unnest(
    $2::uuid[], $3::uuid[], $4::bytea[], $5::uuid[], $6::jsonb[], $7::text[], $8::bigint[], $9::integer[]
) AS given (id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
ORDER BY request_id
ON CONFLICT (request_id) DO NOTHING
RETURNING *, set_config('meshwright.traceparent', $10, true);

-- name: page
SELECT * FROM orders.orders
WHERE ($1::uuid IS NULL OR customer_id = $1)
  AND ($2::text IS NULL OR state = $2)
  AND ($3::timestamptz IS NULL OR (create_time, id) < ($3, $4::uuid))
  AND ($6::timestamptz IS NULL OR create_time >= $6)
  AND ($7::timestamptz IS NULL OR create_time < $7)
ORDER BY create_time DESC, id DESC
LIMIT $5;

-- name: move
UPDATE orders.orders
SET state = $2, update_time = now()
WHERE id = $1 AND state = ANY ($3::text[])
RETURNING *, set_config('meshwright.traceparent', $4, true);

-- name: cancel_of_customers
WITH theirs AS MATERIALIZED (
    SELECT o.id FROM orders.orders AS o
    JOIN unnest($3::uuid[], $4::timestamptz[]) AS gone (customer_id, time) USING (customer_id)
    WHERE o.state = 'PENDING' AND o.state = ANY ($2::text[]) AND o.create_time <= gone.time
    ORDER BY o.id
    LIMIT $6
    FOR UPDATE OF o
)
UPDATE orders.orders AS o
SET state = $1, cancel_reason = $5, update_time = now()
FROM theirs WHERE o.id = theirs.id
RETURNING o.id;

-- name: waiting_customers
SELECT DISTINCT customer_id, now() AS time FROM orders.orders
WHERE state = 'PENDING' AND ($1::uuid IS NULL OR customer_id > $1)
ORDER BY customer_id
LIMIT $2;

-- name: totals
SELECT state, count(*) AS number, min(create_time) AS oldest FROM orders.orders GROUP BY state;

-- name: expire
WITH late AS MATERIALIZED (
    SELECT id FROM orders.orders
    WHERE state = 'PROCESSING' AND state = ANY ($2::text[]) AND lease_expires <= now()
    ORDER BY lease_expires
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE orders.orders AS o
SET state = $1, worker = '', lease_expires = NULL, update_time = now()
FROM late WHERE o.id = late.id
RETURNING o.*;

-- name: claim
WITH due AS MATERIALIZED (
    SELECT id FROM orders.orders
    WHERE state = 'PENDING' AND state = ANY ($2::text[]) AND next_attempt_time <= now()
    ORDER BY next_attempt_time
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE orders.orders AS o
SET state = $1, worker = $4, lease_expires = now() + $5::interval, attempts = attempts + 1, update_time = now()
FROM due WHERE o.id = due.id
RETURNING o.*;

-- name: settle
UPDATE orders.orders AS o
SET state = s.state, failure = s.failure, next_attempt_time = now() + s.wait, attempts = o.attempts - s.uncounted,
    worker = '', lease_expires = NULL, update_time = now()
FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::text[], $7::interval[], $8::integer[])
    AS s (id, attempts, state, failure, wait, uncounted)
WHERE o.id = s.id AND o.worker = $2 AND o.attempts = s.attempts AND o.state = ANY ($1::text[])
RETURNING o.*, set_config('meshwright.traceparent', $9, true);
