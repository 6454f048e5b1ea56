-- name: lock
SELECT pg_try_advisory_xact_lock(hashtext('{schema}.outbox'), $1) AS mine;

-- name: number
WITH last AS (SELECT coalesce(max(number), 0) AS number FROM {schema}.outbox WHERE number IS NOT NULL),
new AS (
    SELECT seq, row_number() OVER (ORDER BY seq) AS place
    FROM (SELECT seq FROM {schema}.outbox WHERE number IS NULL ORDER BY seq LIMIT $1) AS first
),
numbered AS (
    UPDATE {schema}.outbox AS event SET number = last.number + new.place
    FROM last, new
    WHERE event.seq = new.seq AND event.number IS NULL
    RETURNING 1
)
SELECT count(*) AS count FROM numbered;

-- name: notify
SELECT pg_notify('{schema}_outbox', 'numbered');

-- name: last
SELECT coalesce(max(number), 0) AS number FROM {schema}.outbox WHERE number IS NOT NULL;

-- name: after
SELECT number, type, subject, version, time, traceparent, {bodies}
FROM {schema}.outbox WHERE number > $1 ORDER BY number LIMIT $2;

-- name: beyond
SELECT count(*) AS waiting, min(time) AS oldest,
    (SELECT coalesce(max(number), 0) FROM {schema}.outbox WHERE number IS NOT NULL) AS last
FROM (
    SELECT time FROM {schema}.outbox WHERE number > $1
    UNION ALL
    SELECT time FROM {schema}.outbox WHERE number IS NULL
) AS beyond;

-- name: forget
DELETE FROM {schema}.outbox
WHERE number <= (SELECT max(number) FROM {schema}.outbox WHERE number IS NOT NULL) - $1 AND number <= $2;
