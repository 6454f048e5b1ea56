-- name: begin
INSERT INTO status.task_results (id, task, state, instance, schedule_time)
VALUES ($1, $2, 'RUNNING', $3, $4)
ON CONFLICT (task, schedule_time) DO NOTHING
RETURNING id;

-- name: skip
INSERT INTO status.task_results (id, task, state, instance, schedule_time, end_time, error)
VALUES ($1, $2, 'SKIPPED', $3, $4, now(), $5)
ON CONFLICT (task, schedule_time) DO NOTHING;

-- name: end
UPDATE status.task_results
SET state = $2, end_time = now(), summary = $3, error = $4
WHERE id = $1 AND state = 'RUNNING';

-- name: sweep
UPDATE status.task_results
SET state = 'FAILED', end_time = now(), error = $2
WHERE state = 'RUNNING' AND id <> ALL ($1::uuid[])
RETURNING task, instance;

-- name: newest
SELECT task, max(schedule_time) AS schedule_time FROM status.task_results GROUP BY task;

-- name: page
SELECT * FROM status.task_results
WHERE ($1::text IS NULL OR task = $1 OR starts_with(task, $1 || ':'))
  AND ($2::text IS NULL OR state = $2)
  AND ($3::timestamptz IS NULL OR start_time >= $3)
  AND ($4::timestamptz IS NULL OR start_time < $4)
  AND ($5::timestamptz IS NULL OR (start_time, id) < ($5, $6::uuid))
ORDER BY start_time DESC, id DESC
LIMIT $7;

-- name: failures
SELECT count(*) AS number FROM status.task_results
WHERE state = 'FAILED' AND start_time > now() - $1::interval;

-- name: clean_up
DELETE FROM status.task_results
WHERE id IN (
    SELECT id FROM status.task_results AS old
    WHERE end_time < now() - $1::interval
      AND EXISTS (
          SELECT FROM status.task_results AS newer WHERE newer.task = old.task AND newer.schedule_time > old.schedule_time
      )
    LIMIT $2
)
RETURNING id;
