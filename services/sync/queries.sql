-- name: run_by_id
SELECT * FROM sync.runs WHERE id = $1;

-- name: run_by_request
SELECT * FROM sync.runs WHERE request_id = $1;

-- name: waiting
SELECT count(*) AS number FROM sync.runs WHERE provider = $1 AND state = 'PENDING';

-- name: insert_run
INSERT INTO sync.runs (id, request_id, provider) VALUES ($1, $2, $3)
ON CONFLICT (request_id) DO NOTHING
RETURNING *;

-- name: run_page
SELECT * FROM sync.runs
WHERE ($1::timestamptz IS NULL OR (create_time, id) < ($1, $2::uuid))
ORDER BY create_time DESC, id DESC
LIMIT $3;

-- name: end_run
UPDATE sync.runs
SET state = $2, error = $3, end_time = now(), worker = '', lease_expires = NULL
WHERE id = $1 AND state = ANY ($4::text[]) AND ($5::text IS NULL OR worker = $5)
RETURNING *;

-- name: forget_seen
DELETE FROM sync.seen WHERE run_id = $1;

-- name: claim_run
UPDATE sync.runs
SET state = 'RUNNING', worker = $1, lease_expires = now() + $2, start_time = coalesce(start_time, now()),
    attempts = attempts + 1
WHERE id = (
    SELECT id FROM sync.runs AS run
    WHERE provider = $3 AND (
        (state = 'RUNNING' AND (lease_expires <= now() OR worker = $1))
        OR (state = 'PENDING' AND NOT EXISTS (
            SELECT FROM sync.runs AS other WHERE other.provider = run.provider AND other.state = 'RUNNING'
        ))
    )
    ORDER BY create_time
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: renew_run
UPDATE sync.runs SET lease_expires = now() + $3
WHERE id = $1 AND worker = $2 AND state = 'RUNNING'
RETURNING id;

-- name: release_run
UPDATE sync.runs SET lease_expires = now(), attempts = greatest(attempts - 1, 0)
WHERE id = $1 AND worker = $2 AND state = 'RUNNING'
RETURNING id;

-- name: advance_run
UPDATE sync.runs
SET next_index = $3, tail = $4, whole = $5, lease_expires = now() + $6, fetched = fetched + $7, created = created + $8,
    updated = updated + $9, unchanged = unchanged + $10, failed = failed + $11, deactivated = deactivated + $12,
    problems = (problems || $13::text[])[1:$14], attempts = 0
WHERE id = $1 AND worker = $2 AND state = 'RUNNING'
RETURNING *;

-- name: notify
SELECT pg_notify('sync_runs', $1);

-- name: incoming
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_users (
    match_key text COLLATE "C", external_id text, user_name text, display_name text, email text, phone text,
    active boolean
) ON COMMIT DELETE ROWS;

-- name: named
SELECT EXISTS (SELECT FROM sync.users WHERE provider = $1 AND match_key >= 'u:' AND match_key < 'u;');

-- name: adopt
WITH adopted AS MATERIALIZED (
    SELECT known.id, former.match_key
    FROM unnest($2::text[], $3::text[]) AS former (key, match_key)
    JOIN sync.users AS known ON known.provider = $1 AND known.match_key = former.key
    WHERE NOT EXISTS (SELECT FROM sync.users WHERE provider = $1 AND match_key = former.match_key)
    ORDER BY known.match_key
    FOR UPDATE OF known
),
by_key AS (SELECT DISTINCT ON (match_key) id, match_key FROM adopted ORDER BY match_key, id),
once AS (SELECT DISTINCT ON (id) id, match_key FROM by_key ORDER BY id, match_key)
UPDATE sync.users AS known SET match_key = once.match_key
FROM once WHERE known.id = once.id;

-- name: seen
INSERT INTO sync.seen (run_id, keys) VALUES (
    $1,
    ARRAY(SELECT hashtextextended(match_key, 0) FROM incoming_users)
        || ARRAY(SELECT hashtextextended(key, 0) FROM unnest($2::text[]) AS key)
);

-- name: take_time
SELECT set_config('statement_timeout', $1, true);

-- name: vanished
WITH seen AS MATERIALIZED (SELECT DISTINCT unnest(keys) AS key FROM sync.seen WHERE run_id = $1)
SELECT count(*) AS active, count(*) FILTER (WHERE seen.key IS NULL) AS vanished
FROM sync.users LEFT JOIN seen ON seen.key = hashtextextended(match_key, 0)
WHERE provider = $2 AND active;

-- name: deactivate
WITH seen AS MATERIALIZED (SELECT DISTINCT unnest(keys) AS key FROM sync.seen WHERE run_id = $1),
gone AS MATERIALIZED (
    SELECT id FROM sync.users AS known LEFT JOIN seen ON seen.key = hashtextextended(match_key, 0)
    WHERE provider = $2 AND active AND seen.key IS NULL
    ORDER BY match_key
    LIMIT $3
    FOR UPDATE OF known
)
UPDATE sync.users AS known SET active = false, update_time = now(), sync_time = now()
FROM gone WHERE known.id = gone.id
RETURNING known.id;

-- name: upsert
WITH written AS (
    INSERT INTO sync.users AS known
        (provider, match_key, external_id, user_name, display_name, email, phone, active)
    SELECT $1, match_key, external_id, user_name, display_name, email, phone, active
    FROM incoming_users
    ORDER BY match_key
    ON CONFLICT (provider, match_key) DO UPDATE
    SET external_id = excluded.external_id, user_name = excluded.user_name, display_name = excluded.display_name,
        email = excluded.email, phone = excluded.phone, active = excluded.active,
        update_time = now(), sync_time = now()
    WHERE (known.external_id, known.user_name, known.display_name, known.email, known.phone, known.active)
        IS DISTINCT FROM
        (excluded.external_id, excluded.user_name, excluded.display_name, excluded.email, excluded.phone, excluded.active)
    RETURNING xmax = 0 AS created
)
SELECT count(*) FILTER (WHERE created) AS created, count(*) FILTER (WHERE NOT created) AS updated FROM written;

-- name: users_by_id
SELECT * FROM sync.users WHERE id = ANY ($1::uuid[]);

-- name: user_page
SELECT * FROM sync.users
WHERE ($1::text IS NULL OR (user_name, id) > ($1 COLLATE "C", $2::uuid))
ORDER BY user_name, id
LIMIT $3;

-- name: user_page_of_provider
SELECT * FROM sync.users
WHERE provider = $4 AND ($1::text IS NULL OR (user_name, id) > ($1 COLLATE "C", $2::uuid))
ORDER BY user_name, id
LIMIT $3;

-- name: totals
SELECT count(*) AS users FROM sync.users;
